// The round engine: every job of an aggregator, from submission to its last round.
//
// Threading. Not thread-safe: the constructor and every call run on one executor. Blocking work (loading a task,
// next_state, evaluation, writing a state) goes to the WorkQueue, whose completions come back on that executor. No call
// blocks on anything but the store.
//
// Ownership. The coordinator owns its jobs; everything it is constructed with must outlive it. Destroying it is what a
// crash is: nothing is flushed, and a new one over the same store and state files goes on after resume().
//
// A job is in one of these states (server/rounds/ has a class for each):
//
//   preparing   The task is loaded, the initial state made and committed as round 0; after a restart, the last
//               committed state is read.
//   recruiting  Sites are offered the job; waits for expected_clients acceptances, at most start_deadline.
//   selecting   The sites of the next round are chosen among those that accepted, are connected, and have taken part in
//               fewer than rounds_per_client rounds. Waits for enough of them, at most round_deadline.
//   collecting  The round is in the store, its sites have been asked; contributions are folded as they come. Ends with
//               enough contributions, when nobody is left to wait for, or at round_deadline.
//   aggregating The sum becomes the next state: the file first, then the transaction that names it and closes the
//   round. evaluating  The new state on the public test set, if the round is one of those that are evaluated. finished,
//   failed, cancelled   The end. The state of the last committed round stays.
//
// Retries. A round that ends below minimum_clients is tried again under the same number, at most round_retries times:
// the broadcast is the same, contributions already folded stay folded, sites that have accepted are still waited for
// (what they were charged stays useful), and further sites are chosen to fill the round. After a restart the sum is
// empty and the open round's sites are asked again: those that had contributed resend the same bytes from their
// outboxes, because RoundClosed is sent only once the round is committed or the job has ended. So (job, round, site)
// names one contribution for ever, whatever the attempt, and it is in the committed sum once or not at all.
#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/hash.h"
#include "common/random.h"
#include "common/result.h"
#include "common/tensor_map.h"
#include "privacy/ledger.h"
#include "server/state_files.h"
#include "server/store.h"
#include "tasks/task.h"

namespace trib::server {

// What a site needs to decide whether it takes part. Immutable; shared by all sites of a job.
struct JobOffer {
  std::string job_id;
  std::string job_file;  // TOML
  TensorSchema broadcast_schema;
  TensorSchema contribution_schema;
  std::shared_ptr<const TensorMap> constants;  // never null; may be empty
  Sha256 constants_sha256{};                   // TensorMap::digest() of the constants
};

// The way to the sites. Calls return at once and may lose what they are given (a connection that just broke): the
// coordinator asks again when the site is back. They must not call into the coordinator.
class CoordinatorTransport {
 public:
  virtual ~CoordinatorTransport() = default;
  virtual void offer_job(const std::string& client, std::shared_ptr<const JobOffer> offer) = 0;
  // `last_counted`: the latest committed round that counted a contribution of this site; 0: none.
  virtual void start_round(const std::string& client, const std::string& job, std::int64_t round,
                           std::int64_t last_counted, std::shared_ptr<const TensorMap> broadcast) = 0;
  // The round is committed or abandoned: the site's outbox entry may go.
  virtual void close_round(const std::string& client, const std::string& job, std::int64_t round) = 0;
  virtual void end_job(const std::string& client, const std::string& job, const std::string& outcome) = 0;
};

// Runs `work` off the executor and then `done` on it. Work of one job is never run concurrently; that of several may
// be. May drop both when the process is going down; work that still runs then uses the state files, so these go last.
// `done` must not run before the coordinator's call that led to it has returned.
class WorkQueue {
 public:
  virtual ~WorkQueue() = default;
  virtual void run(std::function<void()> work, std::function<void()> done) = 0;
};

// Does the work when it is told to, on the caller's thread: simulations and tests.
class InlineWorkQueue final : public WorkQueue {
 public:
  void run(std::function<void()> work, std::function<void()> done) override {
    queue_.push_back({std::move(work), std::move(done)});
  }
  // Runs the oldest piece of work and its completion. False if there is none.
  bool run_next() {
    if (queue_.empty()) return false;
    const auto [work, done] = std::move(queue_.front());
    queue_.pop_front();
    work();
    done();
    return true;
  }

 private:
  std::deque<std::pair<std::function<void()>, std::function<void()>>> queue_;
};

struct CoordinatorOptions {
  // How long a site that was connected a moment ago (or was known when the aggregator started) is waited for before a
  // round is dealt out without it.
  Milliseconds reconnect_grace{30'000};
  // Between two tries to write a state or a row that the storage refused.
  Milliseconds storage_retry{10'000};
  // Least time between two reports to a subscriber while nothing but progress changes.
  Milliseconds report_interval{500};
  // Between two records of the time at which a connected site was seen.
  Milliseconds seen_interval{600'000};
  // Called when a job has left a state ("selecting", "collecting", …) after so many seconds, and with "round" when a
  // round is committed: for metrics. Must not call into the coordinator.
  std::function<void(std::string_view phase, double seconds)> on_phase = [](std::string_view, double) {};
  // The aggregator's own ledger, for jobs whose noise is the aggregator's; without one they fail. Outlives the
  // coordinator.
  privacy::Ledger* ledger = nullptr;
  std::function<RandomKey()> noise_key = [] { return RandomKey::from_system(); };  // a fresh one a round
  // A seeded simulation: reports say so, and that nothing in them is private.
  bool noise_seeded = false;
  // The tasks of this build; tests bring their own.
  std::function<Result<tasks::JobSpec>(std::string_view text, std::string_view name)> read_job = &tasks::read_job_text;
  std::function<Result<const tasks::TaskDefinition*>(std::string_view name)> find_task = &tasks::find_task;
  std::function<Result<tasks::JobSpec>(const tasks::JobSpec&, const tasks::AggregatorContext&)> pin_job =
      &tasks::pin_job;
};

// What a client says of itself when it connects.
struct ClientDetails {
  std::string software_version;
  std::string device;
  std::string address;
};

// What a site says of a data set's ledger: public parameters alone. A delta of 0: it did not say.
struct SiteBudget {
  double epsilon_spent = 0.0, epsilon_budget = 0.0, delta = 0.0;
};

struct RoundAnswer {
  bool accepted = false;
  std::string reason;        // why declined
  bool over_budget = false;  // the site's budget does not cover a round: it is dropped from the job
  bool final = false;        // declined for the whole job
};

struct ClientProgress {
  std::int64_t round = 0;
  std::int64_t step = 0, steps = 0;
  double epsilon_spent = 0.0, epsilon_budget = 0.0, delta = 0.0;
};

// What metrics are made of, as the coordinator knows it.
struct CoordinatorFigures {
  struct Bytes {
    std::uint64_t down = 0, up = 0;
  };
  struct RunningJob {
    std::string id, state;
    std::int64_t round = 0, rounds_total = 0;  // committed so far, and in all
    std::int64_t waited_for = 0;               // sites
  };
  std::map<std::string, std::int64_t> jobs_by_state;  // "running" and how jobs end; each is there
  std::vector<RunningJob> running;
  std::map<std::string, Bytes> bytes_by_site;  // of all jobs, over all starts of the aggregator
};

class Coordinator {
 public:
  Coordinator(Store& store, StateFiles& state_files, tasks::AggregatorContext context, const Clock& clock,
              RandomSource& random, CoordinatorTransport& transport, WorkQueue& work_queue,
              CoordinatorOptions options = {});
  ~Coordinator();
  Coordinator(const Coordinator&) = delete;
  Coordinator& operator=(const Coordinator&) = delete;

  // Call once, before anything else: reads the jobs, sweeps states that no row names and takes up every running job. An
  // error is the storage's; the process should say so and stop.
  Status resume();

  // --- Operators ---
  // Checks the job file as a whole, pins what it leaves open to what is here (the base model, by SHA-256: reading it
  // may take a while), and starts the job; returns its id (the job's name and eight hex digits). Whatever the check
  // says is the error. What only shows when the task is loaded ends the job in `preparing`, visibly.
  Result<std::string> submit_job(std::string_view job_file, std::string_view file_name);
  // Errc::not_found; already_exists if the job has ended. The sites are told; the last committed state stays.
  Status cancel_job(std::string_view job, std::string_view reason);
  // Writes the model of the last committed round (`averaged`: of the running average) as its users have it into
  // `directory`, in the background; works for ended jobs too. `done` always gets called, unless the process goes down.
  void export_model(std::string_view job, bool averaged, std::filesystem::path directory,
                    std::function<void(Status)> done);

  // --- Sites. `client` is the name in the certificate, always ---
  // Connected twice replaces the first connection. Every running job is offered again.
  void client_connected(const std::string& client, ClientDetails details = {});
  void client_disconnected(const std::string& client);
  // The site was revoked: it is dropped from every job, with the reason. What it has contributed stays in the sum.
  void client_revoked(const std::string& client, std::string_view reason);
  // Errc::not_found (no such running job). An acceptance makes the site eligible, and gets it the RoundStart of the
  // open round again if it is one of its sites and has not contributed. A refusal drops it from the job.
  Status job_reply(const std::string& client, std::string_view job, bool accepted, std::string_view reason,
                   std::int64_t declared_records, const std::optional<SiteBudget>& budget = {});
  // Errc::not_found; permission_denied if the site was not chosen; deadline_exceeded if the round is closed. An
  // acceptance counts as a participation at once, whatever comes of it. A decline is for this round, or for the job if
  // it is final or over budget.
  Status round_reply(const std::string& client, std::string_view job, std::int64_t round, const RoundAnswer& answer);
  // For the job's report alone; nonsense is ignored.
  void progress(const std::string& client, std::string_view job, const ClientProgress& progress);
  // Bytes on the wire for this job; round 0 for what belongs to no round.
  void account_bytes(const std::string& client, std::string_view job, std::int64_t round, std::uint64_t bytes_down,
                     std::uint64_t bytes_up);

  // Whether a contribution would be taken, before its bytes are received. Ok, or:
  //   not_found          no such running job
  //   deadline_exceeded  the round is committed (the site is sent close_round), or closed for contributions
  //   invalid_argument   a round that has not begun; a weight that is not a positive finite number
  //   permission_denied  the site was not chosen; a contribution that is not private for a job that is
  //   already_exists     this site's contribution has been counted
  Status check_contribution(const std::string& client, std::string_view job, std::int64_t round, double weight,
                            bool is_private);
  // Folds a contribution into the round's sum: tensors already multiplied by `weight`. The errors of
  // check_contribution, and invalid_argument for a wrong layout or a value that is not finite: then nothing was added
  // and the site may send again. A contribution that is taken implies that the site accepted the round.
  Status contribution(const std::string& client, std::string_view job, std::int64_t round, double weight,
                      bool is_private, TensorMap weighted_tensors);

  // The offer of a running job, with its schemas and constants. Errc::not_found; unavailable while it is prepared.
  Result<std::shared_ptr<const JobOffer>> offer(std::string_view job) const;

  // --- Time ---
  // Acts on deadlines that have passed. Call it at next_deadline(), or every 250 ms.
  void tick();
  std::optional<MonotonicTime> next_deadline() const;

  // --- Views: one JSON document each (server/job_report.h) ---
  std::string jobs_json() const;                             // {"jobs": […]}, oldest first
  Result<std::string> job_json(std::string_view job) const;  // Errc::not_found lists the jobs
  // The job file as it was pinned: TOML. Errc::not_found.
  Result<std::string> job_file(std::string_view job) const;
  // {"sites": […]}: enrolled or connected; each with "last_seen" (now, if it is connected), "certificate_until",
  // "software_version" and "waiting_for": [{"job", "round" (0: its answer to the offer), "reason", "since"}].
  std::string sites_json() const;
  CoordinatorFigures figures() const;
  bool has_running_jobs() const;
  std::vector<std::string> running_jobs() const;  // their ids, oldest first

  // Calls `report` with the job's document now and whenever it changes, until it has ended (`last` is then true) or
  // unsubscribe(). Errc::not_found. `report` must not call into the coordinator, unsubscribe() excepted.
  using Report = std::function<void(const std::string& json, bool last)>;
  Result<std::uint64_t> subscribe(std::string_view job, Report report);
  void unsubscribe(std::uint64_t subscription);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace trib::server
