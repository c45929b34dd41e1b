// One job at one site: whether the site takes part, and what it does in a round. The same class runs in the daemon and
// in a simulation; it knows nothing of sockets.
//
// The rules of a round, in the order in which they are applied:
//   1. What is in the outbox for (job, round) is returned again, byte for byte. It is never retrained.
//   2. Charged in the ledger but absent from the outbox means spent: a crash, or an error, came between. Declined.
//   3. Otherwise the charge for all planned steps is on disk before the first record is read (PrivacySession::open);
//      over the cap of the site's own configuration it is declined, for this and every later round.
//   4. Where the job evaluates at sites and the site shares that, the round's evaluation comes after its training,
//   under
//      a charge of its own. It is left out, and is zeros in the contribution, rather than spend what later rounds need.
//   5. A device that fails during training (a GPU that is lost, or that has no memory for a single record) costs the
//   round its charge. Only where the site's configuration says so, the round is then trained again on the CPU, under a
//   second charge of its own, and so are all later ones; otherwise they are declined while the device cannot be used.
//   6. What training made is durable in the outbox before anybody may send it. If that fails (a full disk) the round is
//      declined with the reason; the charge stays.
// An entry leaves the outbox only when the aggregator says that the round is closed or the job has ended.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "client/data_versions.h"
#include "client/outbox.h"
#include "common/clock.h"
#include "common/hash.h"
#include "common/random.h"
#include "common/result.h"
#include "common/tensor_map.h"
#include "privacy/ledger.h"
#include "tasks/job.h"
#include "tasks/task.h"

namespace trib::client {

// What the site's own configuration says about one data set.
struct DataSetPolicy {
  std::filesystem::path file;
  std::int64_t declared_records = 0;      // its public size
  std::optional<privacy::Budget> budget;  // the cap; without one every private job is refused
  bool allow_non_private = false;         // whether jobs without differential privacy may train on it
  bool share_evaluation = false;          // whether noised counts of what a model gets right on it may be sent
};

// A site as its jobs see it. All pointers outlive every JobRunner.
struct Site {
  std::string name;
  std::vector<kernels::Device*> devices;  // that share a round's work; none in tests whose tasks compute nothing
  // Whether a round whose device fails may be trained again on the CPU, under a second charge.
  bool retry_on_cpu = false;
  std::vector<std::filesystem::path> model_directories;
  std::shared_ptr<tasks::SharedResources> shared;
  std::shared_ptr<tasks::Progress> progress;  // of work outside rounds; null: nobody watches
  std::map<std::string, DataSetPolicy, std::less<>> data_sets;
  privacy::Ledger* ledger = nullptr;
  // With what the site's privacy statements are signed; null, or not shared: it sends none.
  std::shared_ptr<const Signer> signer;
  bool share_statement = true;
  // Null only in a simulation, whose data was made for it.
  const DataVersions* data_versions = nullptr;
  // Null only in a simulation, where the process that trains is also the one that sums: then nothing is kept, and a
  // round that was charged before is declined by rule 2.
  Outbox* outbox = nullptr;
  const Clock* clock = nullptr;
  // Called once a round. Daemons: RandomKey::from_system. Simulations may seed it, and say so.
  std::function<RandomKey()> random_key = &RandomKey::from_system;
  // The registry; tests bring their own.
  std::function<Result<const tasks::TaskDefinition*>(std::string_view)> find_task;
};

// A job as the aggregator offers it.
struct OfferedJob {
  std::string id;
  tasks::JobSpec spec;
  TensorSchema broadcast_schema;
  TensorSchema contribution_schema;
  TensorSchema constants_schema;
  std::optional<Sha256> constants_digest;  // none: the job has no constants
};

// Why something was not done: what the aggregator may be told, and what only the site's own log may say (the line and
// the value of a bad record, for one: nothing computed from records leaves the site).
struct Refusal {
  std::string reason;
  std::string detail;
  bool over_budget = false;  // the site will decline every later round of this job too
  bool final = false;        // declined for the whole job, not only for this round
};

struct RoundOutcome {
  // Ready to send; durable in the outbox, where there is one. None: the round is declined.
  std::optional<OutboxEntry> contribution;
  bool resent = false;  // it was made earlier
  Refusal refusal;
};

class JobRunner {
 public:
  // A runner, or the reason why the site takes no part: unknown task, base model missing or with another hash, unknown
  // data set, a data file that is not the one it was or that has a budget under another name, an error in it, labels
  // that differ, a job that is not private where the site does not allow it, delta not below 1/declared records, no
  // budget or too little of it for even one more round.
  struct Acceptance;
  static Acceptance accept(OfferedJob job, const Site& site);
  ~JobRunner();
  JobRunner(const JobRunner&) = delete;
  JobRunner& operator=(const JobRunner&) = delete;

  const std::string& job_id() const { return job_.id; }
  const tasks::JobSpec& spec() const { return job_.spec; }
  const OfferedJob& offer() const { return job_; }
  std::int64_t declared_records() const;
  // Of the job's data set, now and with the cap: what the site's own screen and the aggregator may be told.
  double epsilon_spent() const;
  double epsilon_budget() const;
  double epsilon_delta() const;  // at which both are stated

  // True until set_constants() has succeeded, for a job that has constants.
  bool needs_constants() const { return job_.constants_digest.has_value() && !has_constants_; }
  // Errc::protocol_error if their schema or digest is not the offer's.
  Status set_constants(const TensorMap& constants);

  // Before a broadcast has arrived: none if run_round() would go to work (or resend), otherwise why not. Reads ledger
  // and outbox only; safe to call while another thread is in run_round().
  std::optional<Refusal> check_round(std::int64_t round) const;
  // Whether the round's contribution is there already, so that run_round() needs no broadcast.
  bool is_made(std::int64_t round) const;

  // Applies the rules above. Blocks while it trains; call it from one thread at a time. `broadcast` is not looked at
  // when the contribution is in the outbox. A cancelled training (Progress::cancelled) is declined: its charge is
  // spent. `last_counted` is what the aggregator says of this site (tasks::RoundPlan).
  RoundOutcome run_round(std::int64_t round, const TensorMap& broadcast, tasks::Progress& progress,
                         std::int64_t last_counted = 0);

  // The aggregator has committed or abandoned the round; the job has ended.
  Status round_closed(std::int64_t round);
  Status job_ended();

 private:
  JobRunner(OfferedJob job, const Site& site, const DataSetPolicy& policy, privacy::Charge charge,
            std::unique_ptr<tasks::ClientTask> task);
  bool has_contributions() const;
  std::optional<Refusal> check_budget() const;
  std::variant<OutboxEntry, Refusal> train(const tasks::RoundPlan& plan, const TensorMap& broadcast,
                                           tasks::Progress& progress);
  // What the task made under `charge`, which is spent from here on.
  struct Attempt;
  Attempt attempt(const privacy::Charge& charge, const tasks::RoundPlan& plan, const TensorMap& broadcast,
                  tasks::Progress& progress);
  Attempt attempt_on_cpu(const Refusal& failure, const privacy::Charge& charge, const tasks::RoundPlan& plan,
                         const TensorMap& broadcast, tasks::Progress& progress);
  // Makes the task anew, on the CPU.
  Status move_to_cpu();
  // Ok, or which of the devices cannot be used any more, and why.
  Status check_devices() const;
  // The round's evaluation on the site's own records: noised counts, or zeros where the round is not evaluated, the
  // site does not share, or its budget does not cover it beside the training that is to come.
  HostTensor evaluate(std::int64_t round, const TensorMap& broadcast, tasks::Progress& progress);
  Refusal refusal_of_session(const Error& error, std::int64_t round) const;
  Status check_contribution(const OutboxEntry& entry) const;

  OfferedJob job_;
  const Site& site_;
  const DataSetPolicy& policy_;
  privacy::Charge charge_;                            // of any round: they all cost the same
  std::optional<privacy::Charge> evaluation_charge_;  // of any evaluation; none: the site takes part in none
  std::unique_ptr<tasks::ClientTask> task_;
  std::atomic<bool> has_constants_{false};
  TensorMap constants_;              // kept where the task may have to be made anew
  std::atomic<bool> on_cpu_{false};  // moved there after a device failed
};

struct JobRunner::Acceptance {
  std::unique_ptr<JobRunner> runner;  // null: refused
  Refusal refusal;
};

}  // namespace trib::client
