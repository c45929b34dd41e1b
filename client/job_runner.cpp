#include "client/job_runner.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cmath>
#include <new>

#include "common/failpoint.h"
#include "common/log.h"
#include "kernels/device.h"
#include "privacy/accountant.h"
#include "privacy/session.h"

namespace trib::client {
namespace {

// What setting a task up found wrong may be about records (the line and the value of a bad label), and then it stays
// here. Errors that say only that something is missing, full or forbidden carry none of a file's content.
bool may_leave_the_site(Errc code) {
  switch (code) {
    case Errc::not_found:
    case Errc::unsupported:
    case Errc::permission_denied:
    case Errc::no_space:
    case Errc::limit_exceeded:
    case Errc::over_budget:
    case Errc::unavailable:
    case Errc::cancelled:
      return true;
    default:
      return false;
  }
}

Refusal final_refusal(std::string reason, bool over_budget = false) {
  Refusal refusal;
  refusal.detail = reason;
  refusal.reason = std::move(reason);
  refusal.over_budget = over_budget;
  refusal.final = true;
  return refusal;
}

Refusal refusal_of_round(std::string reason) {
  Refusal refusal;
  refusal.detail = reason;
  refusal.reason = std::move(reason);
  return refusal;
}

// When and how often a data set changed is the site's own business.
Refusal refusal_of_data(const std::string& data_set, const Error& error) {
  Refusal refusal = final_refusal(
      fmt::format("the site does not train on data set '{}' as it is ({}); the site's own log says why and what to do",
                  data_set, to_string(error.code)));
  refusal.detail = error.message;
  return refusal;
}

constexpr std::string_view retry_suffix = ":cpu-retry";

std::string spent_reason(std::int64_t round) {
  return fmt::format(
      "round {} is spent: it was charged to the ledger and its contribution is not in the outbox (a crash or an "
      "error came between); it is not trained again on the same charge",
      round);
}

// What a device says of itself has nothing of records in it.
Refusal refusal_of_device(std::int64_t round, const Error& error) {
  return refusal_of_round(fmt::format("training round {} failed: {}; its charge stays", round, error.message));
}

std::string over_budget_reason(std::string_view data_set, double spent, double after, const privacy::Budget& budget) {
  if (std::isinf(spent)) {
    return fmt::format(
        "data set '{}' was trained on without privacy before, so no private job can promise anything for it", data_set);
  }
  return fmt::format(
      "the privacy budget of data set '{}' does not cover another round: epsilon {:.4g} is spent, the round would "
      "make it {:.4g}, the site's cap is {:.4g} (delta {:g})",
      data_set, spent, after, budget.epsilon, budget.delta);
}

// Forwards to the progress of the caller; stands where training may be killed in a test.
class TrainingProgress final : public tasks::Progress {
 public:
  explicit TrainingProgress(tasks::Progress& inner) : inner_(inner) {}
  void step(std::int64_t step, std::int64_t steps, double loss) override {
    TRIB_FAILPOINT("client.mid_training");
    inner_.step(step, steps, loss);
  }
  void fraction(std::string_view what, double done) override { inner_.fraction(what, done); }
  bool cancelled() const override { return inner_.cancelled(); }

 private:
  tasks::Progress& inner_;
};

std::string known_data_sets(const Site& site) {
  if (site.data_sets.empty()) return "it has none";
  std::string names;
  for (const auto& [name, policy] : site.data_sets) names += (names.empty() ? "it has '" : "', '") + name;
  return names + "'";
}

tasks::SiteContext context_of(const Site& site, const DataSetPolicy& policy, std::vector<kernels::Device*> devices) {
  tasks::SiteContext context;
  context.site = site.name;
  context.devices = std::move(devices);
  context.data_file = policy.file;
  context.declared_records = policy.declared_records;
  context.model_directories = site.model_directories;
  context.shared = site.shared;
  context.progress = site.progress;
  return context;
}

// Runs what computes. A device that is lost or has no memory left throws from deep inside it.
template <typename Work>
auto on_device(const Work& work) -> decltype(work()) {
  try {
    return work();
  } catch (const FatalError& failure) {
    return failure.error();
  } catch (const std::bad_alloc&) {
    return Error{Errc::unavailable, "the device has no memory left for it"};
  }
}

// What a private charge must be before anything is spent on it.
std::optional<Refusal> check_charge(const privacy::Charge& charge, const OfferedJob& job, const DataSetPolicy& policy) {
  if (charge.data_set != job.spec.data_set || charge.declared_records != policy.declared_records) {
    return final_refusal(
        fmt::format("task '{}' would charge another data set or record count than the site declares", job.spec.task));
  }
  if (charge.mechanism.kind == privacy::MechanismKind::none) {
    if (policy.allow_non_private) return std::nullopt;
    return final_refusal(
        fmt::format("the job is not private, and the site does not allow that for data set '{}' "
                    "(dataset.{}.allow_non_private in its client.toml)",
                    job.spec.data_set, job.spec.data_set));
  }
  const double largest_delta = 1.0 / static_cast<double>(policy.declared_records);
  if (charge.target_delta >= largest_delta) {
    return final_refusal(
        fmt::format("privacy.delta = {:g} is not below 1/records = {:g} ({} records declared): a mechanism with "
                    "such a delta may publish whole records",
                    charge.target_delta, largest_delta, policy.declared_records));
  }
  if (!policy.budget) {
    return final_refusal(
        fmt::format("the site has no privacy budget for data set '{}' (dataset.{}.budget in its client.toml)",
                    job.spec.data_set, job.spec.data_set),
        true);
  }
  return std::nullopt;
}

}  // namespace

struct JobRunner::Attempt {
  std::optional<privacy::Contribution> contribution = std::nullopt;
  Refusal refusal = {};        // where there is none
  bool device_failed = false;  // it failed for want of a device that computes
};

JobRunner::JobRunner(OfferedJob job, const Site& site, const DataSetPolicy& policy, privacy::Charge charge,
                     std::unique_ptr<tasks::ClientTask> task)
    : job_(std::move(job)), site_(site), policy_(policy), charge_(std::move(charge)), task_(std::move(task)) {}

JobRunner::~JobRunner() = default;

JobRunner::Acceptance JobRunner::accept(OfferedJob job, const Site& site) {
  const auto refuse = [](Refusal refusal) { return Acceptance{nullptr, std::move(refusal)}; };
  if (!is_valid_job_id(job.id)) return refuse(final_refusal(fmt::format("'{}' cannot be the id of a job", job.id)));

  const auto definition = site.find_task(job.spec.task);
  if (!definition) return refuse(final_refusal(definition.error().message));

  const auto policy = site.data_sets.find(job.spec.data_set);
  if (policy == site.data_sets.end()) {
    Refusal refusal = final_refusal(fmt::format("the site has no data set '{}' (job.data_set)", job.spec.data_set));
    refusal.detail += "; " + known_data_sets(site);
    return refuse(std::move(refusal));
  }

  std::optional<FileStamp> stamp;
  if (site.data_versions != nullptr) {
    const auto checked = site.data_versions->check(*site.ledger, policy->first, policy->second);
    if (!checked) return refuse(refusal_of_data(policy->first, checked.error()));
    stamp = *checked;
  }
  auto task =
      on_device([&] { return (*definition)->make_client(job.spec, context_of(site, policy->second, site.devices)); });
  if (!task) {
    Refusal refusal = final_refusal(task.error().message);
    if (!may_leave_the_site(task.error().code)) {
      refusal.reason =
          fmt::format("the site could not prepare data set '{}' for task '{}' ({}); the site's own log says why",
                      job.spec.data_set, job.spec.task, to_string(task.error().code));
    }
    return refuse(std::move(refusal));
  }

  if (stamp) {
    const auto now = stamp_of(policy->second.file);
    if (!now || *now != *stamp) {
      return refuse(refusal_of_data(
          policy->first,
          {Errc::unavailable, fmt::format("the file of data set '{}' changed while it was read: write it "
                                          "beside, and rename it into place",
                                          policy->first)}));
    }
  }

  auto charge = (*task)->charge({.job_id = job.id, .round = 1});
  if (!charge) return refuse(final_refusal(charge.error().message));
  if (auto refusal = check_charge(*charge, job, policy->second)) return refuse(std::move(*refusal));
  std::optional<privacy::Charge> evaluation_charge;
  if (job.spec.site_evaluation.enabled && policy->second.share_evaluation) {
    auto evaluation = (*task)->evaluation_charge({.job_id = job.id, .round = 1});
    if (!evaluation) return refuse(final_refusal(evaluation.error().message));
    if (auto refusal = check_charge(*evaluation, job, policy->second)) return refuse(std::move(*refusal));
    evaluation_charge = std::move(*evaluation);
  }

  std::unique_ptr<JobRunner> runner(
      new JobRunner(std::move(job), site, policy->second, std::move(*charge), std::move(*task)));
  runner->evaluation_charge_ = std::move(evaluation_charge);
  // A job that was charged here before may have contributions to hand over, whatever is left of the budget.
  const bool is_new = site.outbox == nullptr || !runner->has_contributions();
  if (auto refusal = runner->check_budget(); refusal && is_new) return refuse(std::move(*refusal));
  return {std::move(runner), {}};
}

std::int64_t JobRunner::declared_records() const {
  return policy_.declared_records;
}

double JobRunner::epsilon_spent() const {
  return site_.ledger->epsilon_spent(job_.spec.data_set, epsilon_delta());
}

double JobRunner::epsilon_delta() const {
  return policy_.budget ? policy_.budget->delta : charge_.target_delta;
}

double JobRunner::epsilon_budget() const {
  return policy_.budget ? policy_.budget->epsilon : 0.0;
}

Status JobRunner::set_constants(const TensorMap& constants) {
  if (!job_.constants_digest) {
    return Error{Errc::protocol_error, fmt::format("job {} has no constants, and some were sent", job_.id)};
  }
  const auto as_protocol_error = [&](const std::string& message) {
    return Error{Errc::protocol_error, fmt::format("the constants of job {}: {}", job_.id, message)};
  };
  if (const Status schema = constants.check_schema(job_.constants_schema); !schema) {
    return as_protocol_error(schema.error().message);
  }
  if (constants.digest() != *job_.constants_digest) {
    return as_protocol_error(fmt::format("their digest is {}, the offer named {}", to_hex(constants.digest()),
                                         to_hex(*job_.constants_digest)));
  }
  TRIB_TRY(task_->set_constants(constants));
  if (site_.retry_on_cpu) constants_ = constants;
  has_constants_ = true;
  return {};
}

bool JobRunner::has_contributions() const {
  for (const auto& item : site_.outbox->list()) {
    if (item.job == job_.id) return true;
  }
  return false;
}

bool JobRunner::is_made(std::int64_t round) const {
  return site_.outbox != nullptr && site_.outbox->contains(job_.id, round);
}

std::optional<Refusal> JobRunner::check_budget() const {
  if (charge_.mechanism.kind == privacy::MechanismKind::none) return std::nullopt;
  const privacy::Budget& budget = *policy_.budget;
  const double after = site_.ledger->epsilon_after(job_.spec.data_set, budget.delta, charge_);
  if (after <= budget.epsilon) return std::nullopt;
  const double spent = site_.ledger->epsilon_spent(job_.spec.data_set, budget.delta);
  return final_refusal(over_budget_reason(job_.spec.data_set, spent, after, budget), true);
}

std::optional<Refusal> JobRunner::check_round(std::int64_t round) const {
  if (round < 1 || round > job_.spec.rounds) {
    return refusal_of_round(fmt::format("job {} has rounds 1 to {}, not {}", job_.id, job_.spec.rounds, round));
  }
  if (is_made(round)) return std::nullopt;
  if (site_.ledger->charged(job_.id, round, job_.spec.data_set)) return refusal_of_round(spent_reason(round));
  if (auto refusal = check_budget()) return refusal;
  // A round that a lost device could not train would cost its charge all the same.
  if (const Status devices = check_devices(); !devices && !site_.retry_on_cpu) {
    Refusal refusal = refusal_of_round(devices.error().message);
    refusal.detail += "; start the client again once the device answers, or set compute.retry_on_cpu = true";
    return refusal;
  }
  if (site_.outbox != nullptr) {
    // Before the charge: a full disk that is seen now costs nothing.
    const Status room = site_.outbox->check_room(job_.contribution_schema.byte_count());
    if (!room) return refusal_of_round(room.error().message);
  }
  return std::nullopt;
}

RoundOutcome JobRunner::run_round(std::int64_t round, const TensorMap& broadcast, tasks::Progress& progress,
                                  std::int64_t last_counted) {
  RoundOutcome outcome;
  if (is_made(round)) {
    auto entry = site_.outbox->get(job_.id, round);
    if (entry) {
      outcome.contribution = std::move(*entry);
      outcome.resent = true;
    } else {
      outcome.refusal =
          refusal_of_round(fmt::format("round {} is spent: its contribution in the outbox cannot be read", round));
      outcome.refusal.detail = entry.error().message;
    }
    return outcome;
  }
  if (auto refusal = check_round(round)) {
    outcome.refusal = std::move(*refusal);
    return outcome;
  }
  if (last_counted < 0 || last_counted >= round) {
    outcome.refusal =
        refusal_of_round(fmt::format("round {} cannot begin after round {} was counted", round, last_counted));
    return outcome;
  }
  auto trained = train({.job_id = job_.id, .round = round, .last_counted = last_counted}, broadcast, progress);
  if (auto* entry = std::get_if<OutboxEntry>(&trained)) {
    outcome.contribution = std::move(*entry);
  } else {
    outcome.refusal = std::get<Refusal>(std::move(trained));
  }
  return outcome;
}

std::variant<OutboxEntry, Refusal> JobRunner::train(const tasks::RoundPlan& plan, const TensorMap& broadcast,
                                                    tasks::Progress& progress) {
  const std::int64_t round = plan.round;
  if (needs_constants()) return refusal_of_round("the constants of the job have not arrived");
  if (const Status schema = broadcast.check_schema(job_.broadcast_schema); !schema) {
    return refusal_of_round("the broadcast is not what the job's offer described: " + schema.error().message);
  }
  privacy::Charge charge = charge_;
  charge.job = job_.id;
  charge.round = round;
  // A device that was lost since the last round has not cost this one anything yet.
  if (const Status devices = check_devices(); !devices) {
    spdlog::warn("job {}: {}; from round {} on it is trained on the CPU", job_.id, devices.error().message, round);
    if (const Status moved = move_to_cpu(); !moved) {
      Refusal refusal = refusal_of_round(devices.error().message + ", and the site cannot go on on its CPU");
      refusal.detail = refusal.reason + ": " + moved.error().message;
      return refusal;
    }
  }
  TrainingProgress training_progress(progress);
  Attempt made = attempt(charge, plan, broadcast, training_progress);
  if (made.device_failed && site_.retry_on_cpu && !on_cpu_) {
    made = attempt_on_cpu(made.refusal, charge, plan, broadcast, training_progress);
  }
  if (!made.contribution) return std::move(made.refusal);
  const privacy::Contribution& contribution = *made.contribution;
  OutboxEntry entry{.job = job_.id,
                    .round = round,
                    .weight = contribution.weight(),
                    .is_private = contribution.is_private(),
                    .tensors = contribution.tensors()};
  if (job_.spec.site_evaluation.enabled) {
    entry.tensors[tasks::evaluation_tensor] = evaluate(round, broadcast, training_progress);
  }
  if (const Status sendable = check_contribution(entry); !sendable) {
    Refusal refusal =
        refusal_of_round(fmt::format("training round {} made nothing that can be summed; its charge stays", round));
    refusal.detail = refusal.reason + ": " + sendable.error().message;
    return refusal;
  }
  if (site_.outbox != nullptr) {
    if (const Status kept = site_.outbox->put(entry); !kept) {
      return refusal_of_round(kept.error().message + "; the charge of the round stays");
    }
  }
  return entry;
}

JobRunner::Attempt JobRunner::attempt(const privacy::Charge& charge, const tasks::RoundPlan& plan,
                                      const TensorMap& broadcast, tasks::Progress& progress) {
  const std::int64_t round = plan.round;
  auto session =
      privacy::PrivacySession::open(*site_.ledger, charge, policy_.allow_non_private, site_.random_key(), *site_.clock);
  if (!session) return {.refusal = refusal_of_session(session.error(), round)};

  // From here on the charge is spent, whatever happens.
  std::optional<Error> device_error;
  auto contribution = [&]() -> Result<privacy::Contribution> {
    // A device that is lost or has no memory left throws from deep inside a step.
    try {
      return task_->train(broadcast, plan, *session, progress);
    } catch (const FatalError& failure) {
      if (failure.error().code == Errc::unavailable) device_error = failure.error();
      return failure.error();
    } catch (const std::bad_alloc&) {
      device_error = Error{Errc::unavailable, "the device has no memory for a single record"};
      return *device_error;
    }
  }();
  if (contribution) return {.contribution = std::move(*contribution)};
  if (device_error) return {.refusal = refusal_of_device(round, *device_error), .device_failed = true};
  const Error& error = contribution.error();
  Refusal refusal =
      refusal_of_round(fmt::format("training round {} failed ({}); its charge stays", round, to_string(error.code)));
  if (error.code == Errc::cancelled)
    refusal.reason = fmt::format("round {} was stopped at the site; its charge stays", round);
  refusal.detail = refusal.reason + ": " + error.message;
  return {.refusal = std::move(refusal)};
}

JobRunner::Attempt JobRunner::attempt_on_cpu(const Refusal& failure, const privacy::Charge& charge,
                                             const tasks::RoundPlan& plan, const TensorMap& broadcast,
                                             tasks::Progress& progress) {
  const auto give_up = [&](const std::string& why) {
    Refusal refusal = failure;
    refusal.detail += "; it is not trained again on the CPU: " + why;
    return Attempt{.refusal = std::move(refusal)};
  };
  if (progress.cancelled()) return give_up("the site was asked to stop");
  if (const auto over = check_budget()) return give_up("a second charge is needed, and " + over->reason);
  if (const Status moved = move_to_cpu(); !moved) return give_up(moved.error().message);
  spdlog::warn("job {}: {}; it is trained again on the CPU, under a second charge", job_.id, failure.detail);
  privacy::Charge second = charge;
  second.job += retry_suffix;
  return attempt(second, plan, broadcast, progress);
}

Status JobRunner::move_to_cpu() {
  TRIB_ASSIGN(const tasks::TaskDefinition* const definition, site_.find_task(job_.spec.task));
  // The file is read again, and the budget is its old content's.
  std::optional<FileStamp> stamp;
  if (site_.data_versions != nullptr) {
    TRIB_ASSIGN(stamp, site_.data_versions->check(*site_.ledger, job_.spec.data_set, policy_));
  }
  TRIB_ASSIGN(std::unique_ptr<tasks::ClientTask> task, on_device([&] {
                return definition->make_client(job_.spec, context_of(site_, policy_, {&kernels::cpu_device()}));
              }));
  if (stamp) {
    TRIB_ASSIGN(const FileStamp now, stamp_of(policy_.file));
    if (now != *stamp) return Error{Errc::unavailable, "the data file changed while it was read"};
  }
  if (has_constants_) TRIB_TRY(task->set_constants(constants_));
  task_ = std::move(task);
  on_cpu_ = true;
  return {};
}

Status JobRunner::check_devices() const {
  if (on_cpu_) return {};
  for (kernels::Device* device : site_.devices) TRIB_TRY(device->check());
  return {};
}

HostTensor JobRunner::evaluate(std::int64_t round, const TensorMap& broadcast, tasks::Progress& progress) {
  const HostTensor none(DType::f64, {3});
  if (!evaluation_charge_ || !job_.spec.is_evaluated(round)) return none;
  privacy::Charge charge = *evaluation_charge_;
  charge.round = round;
  const auto leave_out = [&](const Error& error) {
    log_warn({.job = job_.id, .round = round},
             "job {}: round {} is contributed without an evaluation on this site's data: {}", job_.id, round,
             error.message);
    return none;
  };
  if (charge.mechanism.kind != privacy::MechanismKind::none) {
    const privacy::Budget& budget = *policy_.budget;
    std::int64_t rounds_left = job_.spec.max_participations();
    for (const privacy::LedgerEntry& entry : site_.ledger->entries())
      rounds_left -= entry.charge.job == job_.id ? 1 : 0;
    privacy::Charge training = charge_;
    training.mechanism.steps *= std::max<std::int64_t>(rounds_left, 0);
    const double reserved = rounds_left > 0 ? site_.ledger->epsilon_after(job_.spec.data_set, budget.delta, training)
                                            : site_.ledger->epsilon_spent(job_.spec.data_set, budget.delta);
    const double cost = privacy::RdpCurve().add(charge.mechanism).epsilon(budget.delta);
    if (reserved + cost > budget.epsilon) {
      return leave_out({Errc::over_budget,
                        fmt::format("it would cost epsilon {:.4g}, and the job's training needs {:.4g} of the cap of "
                                    "{:.4g}; the site's owner can raise the cap",
                                    cost, reserved, budget.epsilon)});
    }
  }
  auto session =
      privacy::PrivacySession::open(*site_.ledger, charge, policy_.allow_non_private, site_.random_key(), *site_.clock);
  if (!session) return leave_out(session.error());
  auto counts = on_device([&] { return task_->evaluate(broadcast, *session, progress); });
  if (!counts) return leave_out(counts.error());
  return counts->tensors().at(tasks::evaluation_tensor);
}

Refusal JobRunner::refusal_of_session(const Error& error, std::int64_t round) const {
  switch (error.code) {
    case Errc::already_exists:
      return refusal_of_round(spent_reason(round));
    case Errc::over_budget:
      return final_refusal(error.message, true);
    case Errc::permission_denied:
      return final_refusal(error.message);
    default: {
      Refusal refusal = refusal_of_round(fmt::format("the ledger could not be charged for round {}", round));
      refusal.detail = refusal.reason + ": " + error.message;
      return refusal;
    }
  }
}

Status JobRunner::check_contribution(const OutboxEntry& entry) const {
  TRIB_TRY(entry.tensors.check_schema(job_.contribution_schema));
  TRIB_TRY(entry.tensors.check_finite());
  if (!(entry.weight > 0.0) || !std::isfinite(entry.weight)) {
    return Error{Errc::invalid_argument, fmt::format("its weight is {}, not a positive number", entry.weight)};
  }
  return {};
}

Status JobRunner::round_closed(std::int64_t round) {
  return site_.outbox == nullptr ? Status{} : site_.outbox->remove(job_.id, round);
}

Status JobRunner::job_ended() {
  return site_.outbox == nullptr ? Status{} : site_.outbox->remove_job(job_.id);
}

}  // namespace trib::client
