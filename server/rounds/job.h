// One job as the coordinator runs it: what its states share, and the way from one state to the next.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "server/coordinator.h"
#include "server/job_report.h"
#include "server/rounds/round_sum.h"
#include "server/rounds/state.h"

namespace trib::server {

class Job;

// What all jobs of a coordinator share.
struct Engine {
  Store& store;
  StateFiles& state_files;
  tasks::AggregatorContext context;
  const Clock& clock;
  RandomSource& random;
  CoordinatorTransport& transport;
  WorkQueue& work_queue;
  CoordinatorOptions options;
  MonotonicTime started;
  std::map<std::string, ClientDetails> connections;  // by site
  std::map<std::string, WallTime> last_seen;         // in this process, by site
  std::function<void(Job&)> changed;                 // after a job has reacted to something
};

// A moment to act, and how a person reads it.
struct Deadline {
  MonotonicTime at;
  WallTime wall;
};

// One site's part in the job, in this process.
struct JobSite {
  JobSiteRecord record;  // as stored, or about to be
  std::int64_t participations = 0;
  std::int64_t last_counted = 0;  // the latest committed round with a contribution of it; 0: none
  bool ready = false;             // connected, and has accepted the offer on this connection
  MonotonicTime away_since;       // while it is not ready
  ClientProgress progress;
  std::optional<WallTime> last_progress;
  std::optional<WallTime> offered_at;  // the job, unless it has answered
  std::optional<WallTime> asked_at;    // for the open round; none: not yet
  std::uint64_t bytes_down = 0, bytes_up = 0;

  bool is_member() const { return record.accepted && record.declined_reason.empty(); }
};

// The round that is being collected. Its sum lives in this process alone; what else is here is in the store.
struct OpenRound {
  std::int64_t round = 0;
  std::int64_t attempt = 1;
  WallTime opened{};
  std::map<std::string, RoundSiteRecord> sites;
  std::set<std::string> asked;  // sent the RoundStart on their present connection
  std::unique_ptr<RoundSum> sum;

  std::int64_t contributed() const { return sum->contributions(); }  // folded in this process
  // Chosen, and still able to contribute.
  std::vector<std::string> pending() const;
  std::int64_t count(bool (*matches)(const RoundSiteRecord&)) const;
  std::int64_t pending_count() const { return count(&is_pending); }
  static bool is_pending(const RoundSiteRecord& site) {
    return site.status == RoundSiteStatus::chosen || site.status == RoundSiteStatus::accepted;
  }
};

// A site that a job waits for: for its answer to the offer (round 0), or for what it makes of the open round.
struct SiteWait {
  std::string site;
  std::int64_t round = 0;
  std::string reason;
  WallTime since{};
};

// Runs a piece of a task's code. A task that throws has a bug: its job ends, the aggregator goes on.
template <typename Function>
auto guarded(const Function& function) -> decltype(function()) try {
  return function();
} catch (const std::exception& error) {
  return Error{Errc::internal, error.what()};
}

class Job : public std::enable_shared_from_this<Job> {
 public:
  // A job of the store. start() sets it going.
  Job(Engine& engine, JobRecord record);
  ~Job();

  // Reads what the store knows of it; a running job begins with Preparing. The errors are the store's.
  Status start();

  // --- What happens to it: see coordinator.h. Each ends with settle() ---
  void client_connected(const std::string& site);
  void client_disconnected(const std::string& site);
  void drop_site(const std::string& site, std::string_view reason);
  Status job_reply(const std::string& site, bool accepted, std::string_view reason, std::int64_t declared_records,
                   const std::optional<SiteBudget>& budget);
  Status round_reply(const std::string& site, std::int64_t round, const RoundAnswer& answer);
  void progress(const std::string& site, const ClientProgress& progress);
  void account_bytes(const std::string& site, std::int64_t round, std::uint64_t down, std::uint64_t up);
  Status check_contribution(const std::string& site, std::int64_t round, double weight, bool is_private);
  Status contribution(const std::string& site, std::int64_t round, double weight, bool is_private, TensorMap tensors);
  void cancel(std::string_view reason);
  void tick();
  std::optional<MonotonicTime> next_deadline() const { return state_->next_deadline(); }

  // --- For its states ---
  Engine& engine() { return engine_; }
  const JobRecord& record() const { return record_; }
  const std::string& id() const { return record_.id; }
  const tasks::JobSpec& spec() const { return spec_; }
  bool has_ended() const { return record_.state != JobState::running; }
  // Enters the state once the present call has returned.
  template <typename State, typename... Arguments>
  void go(Arguments&&... arguments) {
    next_ = std::make_unique<State>(*this, std::forward<Arguments>(arguments)...);
  }
  void fail(std::string_view reason) { end(JobState::failed, reason); }
  void end(JobState state, std::string_view reason);
  // Runs `work` off the executor; `done` is dropped if the job has left its state by then.
  void run_work(std::function<void()> work, std::function<void()> done);
  Deadline deadline_in(Milliseconds duration) const;
  // What follows a committed round: evaluation, the next round, or the end.
  void go_on();

  std::map<std::string, JobSite>& sites() { return sites_; }
  std::vector<std::string> members() const;
  // Whether the site may be chosen for a round that it is not yet in.
  bool may_join(const std::string& name, const JobSite& site) const;
  // For the reason of an end or a wait: " (site-2: over budget: …)", or nothing.
  std::string dropped_summary() const;
  // "; 3 sites have taken part in as many rounds as they may (8)", or nothing.
  std::string exhausted_summary() const;
  void offer_to(const std::string& site);
  void offer_to_all();
  // Sends the RoundStart to a site of the open round that is ready and still to contribute, once a connection.
  void ask(const std::string& site);

  std::optional<OpenRound>& open_round() { return open_; }
  // What the open round's contributions are folded into. Errors: the aggregator's ledger does not cover the round.
  Result<std::unique_ptr<RoundSum>> make_sum();
  // Contributions without which a round is not committed: none where its clients were sampled, for a sample that was
  // empty is a round like any other.
  std::int64_t minimum_clients() const;
  std::int64_t committed_round() const { return committed_round_; }
  bool is_round_due_for_evaluation() const;
  std::vector<TrafficRecord> take_traffic();                 // what is not yet stored
  void restore_traffic(std::vector<TrafficRecord> traffic);  // the storage refused it
  std::vector<JobSiteRecord> site_records() const;
  void add_evaluation(EvaluationRecord evaluation);
  // The model from which the next round starts, as of `round` (0: the initial state).
  void set_model(std::int64_t round, std::shared_ptr<const TensorMap> state,
                 std::shared_ptr<const TensorMap> broadcast);
  // The store has closed the open round (or round 0): tells its sites and forgets it; removes the state before last.
  void round_committed(RoundRecord record);
  // The job has ended: tells its sites, frees what is needed no more.
  void set_outcome(JobState state, std::string_view reason);

  // What Preparing makes. The task is used by one piece of work at a time.
  void set_task(std::shared_ptr<tasks::ServerTask> task, std::shared_ptr<const JobOffer> offer);
  std::shared_ptr<tasks::ServerTask> task() const { return task_; }
  std::shared_ptr<const JobOffer> offer() const { return offer_; }
  std::shared_ptr<const TensorMap> model_state() const { return model_state_; }
  const std::vector<RoundRecord>& committed_rounds() const { return rounds_; }  // from round 0

  std::string_view state_name() const { return state_->name(); }
  std::vector<SiteWait> waits() const;
  std::vector<RoundSiteRecord> round_records() const;  // of the open round
  JobReport report() const;
  // Whether the report may have changed since the last call, and whether in more than progress.
  struct Change {
    bool any = false, important = false;
  };
  Change take_change();
  // Enters states until there is none to enter, then tells the engine.
  void settle();

 private:
  std::optional<SiteWait> wait_for(const std::string& name, const JobSite& site) const;
  void report_round(const std::string& site, const ClientProgress& progress, WallTime now);
  // Takes out of a report what tells who was in a secret sample, and how many: its readers are not the aggregator.
  void hide_sample(JobReport& report) const;
  ClientReport client_report(const std::string& name, const JobSite& site) const;
  void decline_open_round(const std::string& site, const std::string& reason);
  Status save_site(const JobSite& site);
  Status save_round_site(const RoundSiteRecord& site);
  void note(bool important);

  Engine& engine_;
  JobRecord record_;
  tasks::JobSpec spec_;
  std::map<std::string, JobSite> sites_;
  std::optional<OpenRound> open_;
  std::int64_t committed_round_ = -1;  // -1: not even the initial state
  std::vector<RoundRecord> rounds_;    // committed ones, from 0
  std::vector<EvaluationRecord> evaluations_;
  std::map<std::pair<std::int64_t, std::string>, TrafficRecord> unsaved_traffic_;
  std::map<std::int64_t, TrafficRecord> round_traffic_;

  std::shared_ptr<tasks::ServerTask> task_;
  std::shared_ptr<const JobOffer> offer_;
  std::optional<privacy::Charge> cohort_charge_;  // of every round, where the noise is the aggregator's
  std::shared_ptr<const TensorMap> model_state_, broadcast_;

  std::unique_ptr<RoundState> state_, next_;
  MonotonicTime state_since_{};
  std::uint64_t generation_ = 0;  // of the state, so that late work is noticed
  Change change_;
};

}  // namespace trib::server
