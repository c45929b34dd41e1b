#include "client/site_jobs.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <cmath>
#include <system_error>

#include "common/files.h"
#include "common/log.h"
#include "common/net/transfer.h"
#include "common/safetensors.h"

namespace trib::client {
namespace {

constexpr auto report_interval = std::chrono::seconds(1);

Result<OfferedJob> read_offer(const proto::JobOffer& offer) {
  OfferedJob job;
  job.id = offer.job_id();
  if (!is_valid_job_id(job.id)) return Error{Errc::protocol_error, "a job was offered under an id that cannot be one"};
  const auto schema = [&](const proto::TensorSchema& message, TensorSchema& into) -> Status {
    auto read = net::from_proto(message);
    if (!read) return Error{Errc::protocol_error, "the offer of job " + job.id + ": " + read.error().message};
    into = std::move(*read);
    return {};
  };
  TRIB_TRY(schema(offer.broadcast_schema(), job.broadcast_schema));
  TRIB_TRY(schema(offer.contribution_schema(), job.contribution_schema));
  TRIB_TRY(schema(offer.constants_schema(), job.constants_schema));
  const std::string& digest = offer.constants_sha256();
  if (!digest.empty()) {
    if (digest.size() != sizeof(Sha256)) {
      return Error{Errc::protocol_error,
                   "the offer of job " + job.id + ": the digest of its constants is not 32 bytes"};
    }
    Sha256 value{};
    std::copy(digest.begin(), digest.end(), value.begin());
    job.constants_digest = value;
  }
  return job;
}

bool is_same_offer(const proto::JobOffer& a, const proto::JobOffer& b) {
  return a.SerializeAsString() == b.SerializeAsString();
}

Refusal stopping_refusal() {
  Refusal refusal;
  refusal.reason = refusal.detail = "the client is being stopped";
  return refusal;
}

// The part of preparing a job that only the thread for it does: parsing the job, loading model and data.
JobRunner::Acceptance prepare(OfferedJob job, const std::string& job_file, const Site& site) {
  auto spec = tasks::read_job_text(job_file, "job " + job.id);
  if (!spec) {
    Refusal refusal;
    refusal.reason = "this client cannot read the job: " + spec.error().message;
    refusal.detail = refusal.reason;
    refusal.final = true;
    return {nullptr, std::move(refusal)};
  }
  job.spec = std::move(*spec);
  return JobRunner::accept(std::move(job), site);
}

}  // namespace

struct SiteJobs::Job {
  std::string id;
  proto::JobOffer offer;
  std::uint64_t preparation = 0;      // which accept() is awaited: an earlier offer's answer does not count
  bool is_prepared = false;           // accept() has answered; `runner` is null if it refused
  std::shared_ptr<JobRunner> runner;  // shared with the training thread
  TensorSchema broadcast_schema;
  JobStatus status;
  Refusal refusal;

  // The round that the aggregator has asked for and that is not being trained yet.
  struct Asked {
    std::int64_t round = 0;
    std::int64_t last_counted = 0;  // tasks::RoundPlan::last_counted
    bool answered = false;          // RoundReply was sent
    std::optional<TensorMap> broadcast = {};
  };
  std::optional<Asked> asked;
};

struct SiteJobs::Training {
  std::shared_ptr<JobRunner> runner;
  std::string job;
  std::int64_t round = 0;
  std::int64_t last_counted = 0;
  bool wanted = true;  // cleared when the aggregator closes the round meanwhile
  std::atomic<bool> cancelled{false};
  // Last said by the training thread, copied on the executor.
  std::int64_t step = 0, steps = 0;
  std::optional<double> loss;
};

// Runs on the training thread.
class SiteJobs::RoundProgress final : public tasks::Progress {
 public:
  RoundProgress(SiteJobs& jobs, std::shared_ptr<Training> training, std::weak_ptr<bool> alive)
      : jobs_(jobs), training_(std::move(training)), alive_(std::move(alive)), clock_(*jobs.site_.clock) {}

  void step(std::int64_t step, std::int64_t steps, double loss) override {
    const auto now = clock_.now();
    // The first tells the aggregator the ledger's new head.
    if (reported_ && step < steps && now - *reported_ < report_interval) return;
    reported_ = now;
    boost::asio::post(jobs_.executor_, [&jobs = jobs_, training = training_, alive = alive_, step, steps, loss] {
      if (alive.expired()) return;
      training->step = step;
      training->steps = steps;
      training->loss = loss;
      jobs.report(*training);
    });
  }
  void fraction(std::string_view, double) override {}
  bool cancelled() const override { return training_->cancelled; }

 private:
  SiteJobs& jobs_;
  std::shared_ptr<Training> training_;
  std::weak_ptr<bool> alive_;
  const Clock& clock_;
  std::optional<MonotonicTime> reported_;
};

SiteJobs::SiteJobs(boost::asio::any_io_executor executor, const Site& site, std::filesystem::path constants_directory,
                   std::function<void()> changed)
    : executor_(std::move(executor)),
      site_(site),
      constants_directory_(std::move(constants_directory)),
      changed_(std::move(changed)),
      statements_(executor_, site) {}

SiteJobs::~SiteJobs() {
  alive_.reset();
  stop_training();
}

void SiteJobs::connected(AggregatorLink& link) {
  link_ = &link;
  statements_.connected(link);
}

void SiteJobs::disconnected() {
  link_ = nullptr;
  statements_.disconnected();
  // The aggregator asks again; only what is being trained goes on.
  for (auto& [id, job] : jobs_) job->asked.reset();
}

SiteJobs::Job* SiteJobs::find(const std::string& id) {
  const auto found = jobs_.find(id);
  return found == jobs_.end() ? nullptr : found->second.get();
}

Status SiteJobs::offered(const proto::JobOffer& offer) {
  TRIB_ASSIGN(OfferedJob offered_job, read_offer(offer));
  Job* known = find(offer.job_id());
  if (known != nullptr && is_same_offer(known->offer, offer)) {
    if (!known->is_prepared) return {};
    if (known->runner) {
      reply_to_offer(*known);
      return {};
    }
    // It was refused earlier in this process's life; what was wrong may have been put right.
  }
  auto job = std::make_unique<Job>();
  job->id = offer.job_id();
  job->offer = offer;
  job->broadcast_schema = offered_job.broadcast_schema;
  job->status.name = job->id;
  job->status.state = "preparing";
  const std::uint64_t preparation = ++preparations_;
  job->preparation = preparation;
  jobs_[job->id] = std::move(job);
  changed_();
  log_info({.job = offer.job_id()}, "job {} was offered; preparing it", offer.job_id());

  preparer_.run([this, preparation, alive = std::weak_ptr(alive_), offered_job = std::move(offered_job),
                 file = offer.job_file()]() mutable {
    const std::string id = offered_job.id;
    auto acceptance = std::make_shared<JobRunner::Acceptance>(prepare(std::move(offered_job), file, site_));
    if (acceptance->runner && acceptance->runner->needs_constants()) {
      if (const Status cached = load_cached_constants(*acceptance->runner); !cached) {
        log_debug({.job = id}, "job {}: its constants have to be fetched: {}", id, cached.error().message);
      }
    }
    boost::asio::post(executor_, [this, alive, id, preparation, acceptance] {
      if (!alive.expired()) accepted(id, preparation, std::move(*acceptance));
    });
  });
  return {};
}

std::filesystem::path SiteJobs::constants_path(const Sha256& digest) const {
  return constants_directory_ / (to_hex(digest) + ".safetensors");
}

Status SiteJobs::load_cached_constants(JobRunner& runner) const {
  TRIB_ASSIGN(const SafetensorsFile file, read_safetensors(constants_path(*runner.offer().constants_digest)));
  return runner.set_constants(file.tensors);
}

void SiteJobs::accepted(const std::string& id, std::uint64_t preparation, JobRunner::Acceptance acceptance) {
  Job* job = find(id);
  if (job == nullptr || job->preparation != preparation) return;  // it ended, or was offered anew, meanwhile
  job->is_prepared = true;
  job->runner = std::move(acceptance.runner);
  job->refusal = std::move(acceptance.refusal);
  if (job->runner) {
    const tasks::JobSpec& spec = job->runner->spec();
    job->status.name = spec.name;
    job->status.data_set = spec.data_set;
    job->status.rounds = spec.rounds;
    job->status.state = "waiting";
    job->status.epsilon_spent = job->runner->epsilon_spent();
    job->status.epsilon_budget = job->runner->epsilon_budget();
    log_info({.job = id}, "job {} is accepted: task {}, data set '{}'", id, spec.task, spec.data_set);
  } else {
    job->status.state = "refused";
    job->status.reason = job->refusal.detail;
    log_warn({.job = id}, "job {} is refused: {}", id, job->refusal.detail);
  }
  changed_();
  reply_to_offer(*job);
}

void SiteJobs::reply_to_offer(Job& job) {
  if (link_ == nullptr) return;
  proto::ClientMessage message;
  auto& reply = *message.mutable_job_reply();
  reply.set_job_id(job.id);
  reply.set_accepted(job.runner != nullptr);
  if (job.runner) {
    reply.set_declared_records(job.runner->declared_records());
    reply.set_epsilon_spent(job.runner->epsilon_spent());
    reply.set_epsilon_budget(job.runner->epsilon_budget());
    reply.set_delta(job.runner->epsilon_delta());
  } else {
    reply.set_reason(job.refusal.reason);
  }
  link_->send(std::move(message));
  if (job.runner && job.runner->needs_constants()) {
    proto::ClientMessage fetch;
    fetch.mutable_fetch_constants()->set_job_id(job.id);
    link_->send(std::move(fetch));
  }
  advance(job);
}

const TensorSchema* SiteJobs::round_started(const std::string& id, std::int64_t round, std::int64_t last_counted) {
  Job* job = find(id);
  if (job == nullptr) {
    // The offer comes first on every connection, so this is a job that has ended here.
    proto::ClientMessage message;
    message.mutable_round_reply()->set_job_id(id);
    message.mutable_round_reply()->set_round(static_cast<std::uint32_t>(round));
    message.mutable_round_reply()->set_reason("the job was not offered on this connection");
    if (link_ != nullptr) link_->send(std::move(message));
    return nullptr;
  }
  if (site_.outbox != nullptr) {
    // Rounds come one after the other: those before this one are closed, whether or not this site has heard of it.
    for (const auto& item : site_.outbox->list()) {
      if (item.job == id && item.round < round) round_closed(id, item.round);
    }
  }
  job->asked = Job::Asked{.round = round, .last_counted = last_counted};
  if (training_ && training_->job == id && training_->round != round) training_->cancelled = true;
  advance(*job);
  return job->asked && !job->asked->broadcast ? &job->broadcast_schema : nullptr;
}

const TensorSchema* SiteJobs::constants_started(const std::string& id) const {
  const auto found = jobs_.find(id);
  if (found == jobs_.end() || !found->second->runner || !found->second->runner->needs_constants()) return nullptr;
  return &found->second->runner->offer().constants_schema;
}

void SiteJobs::broadcast_arrived(const std::string& id, std::int64_t round, TensorMap broadcast) {
  Job* job = find(id);
  if (job == nullptr || !job->asked || job->asked->round != round) return;
  job->asked->broadcast = std::move(broadcast);
  advance(*job);
}

Status SiteJobs::constants_arrived(const std::string& id, const TensorMap& constants) {
  Job* job = find(id);
  if (job == nullptr || !job->runner || !job->runner->needs_constants()) return {};
  TRIB_TRY(job->runner->set_constants(constants));
  Status cached = make_directories(constants_directory_, 0700);
  if (cached) cached = write_safetensors(constants_path(*job->runner->offer().constants_digest), constants);
  if (!cached)
    log_warn({.job = id}, "job {}: its constants will be fetched again next time: {}", id, cached.error().message);
  advance(*job);
  return {};
}

// Takes the job as far as what has arrived allows.
void SiteJobs::advance(Job& job) {
  if (!job.asked || !job.is_prepared) return;
  Job::Asked& asked = *job.asked;
  if (!job.runner) {
    decline(job, asked.round, job.refusal);
    return;
  }
  const bool is_being_trained = training_ && training_->job == job.id && training_->round == asked.round;
  if (!asked.answered) {
    if (!is_being_trained) {
      std::optional<Refusal> refusal = job.runner->check_round(asked.round);
      if (!refusal && draining_ && !job.runner->is_made(asked.round)) refusal = stopping_refusal();
      if (refusal) {
        decline(job, asked.round, *refusal);
        return;
      }
    }
    proto::ClientMessage message;
    auto& reply = *message.mutable_round_reply();
    reply.set_job_id(job.id);
    reply.set_round(static_cast<std::uint32_t>(asked.round));
    reply.set_accepted(true);
    if (link_ != nullptr) link_->send(std::move(message));
    asked.answered = true;
  }
  if (is_being_trained) {  // since an earlier connection; sent when it is done
    training_->wanted = true;
    job.asked.reset();
    return;
  }
  if (job.runner->is_made(asked.round)) {
    const std::int64_t round = asked.round;
    auto entry = site_.outbox->get(job.id, round);
    if (entry) {
      log_info({.job = job.id, .round = round}, "job {}: round {} is in the outbox and sent again", job.id, round);
      job.asked.reset();
      upload(job, std::move(*entry));
    } else {
      Refusal refusal;
      refusal.reason = fmt::format("round {} is spent: its contribution in the outbox cannot be read", round);
      refusal.detail = entry.error().message;
      decline(job, round, refusal);
    }
    return;
  }
  // One round is trained at a time; whoever waits is looked at again when that one is done.
  if (asked.broadcast && !job.runner->needs_constants() && !training_) train(job);
}

void SiteJobs::train(Job& job) {
  auto training = std::make_shared<Training>();
  training->runner = job.runner;
  training->job = job.id;
  training->round = job.asked->round;
  training->last_counted = job.asked->last_counted;
  training_ = training;
  job.status.state = "training";
  job.status.reason.clear();
  job.status.round = training->round;
  job.status.step = 0;
  job.status.steps = 0;
  job.status.loss.reset();
  changed_();
  log_info({.job = job.id, .round = training->round}, "job {}: round {} of {} begins", job.id, training->round,
           job.runner->spec().rounds);

  auto broadcast = std::make_shared<TensorMap>(std::move(*job.asked->broadcast));
  job.asked.reset();
  trainer_.run([this, training, broadcast, alive = std::weak_ptr(alive_)] {
    RoundProgress progress(*this, training, alive);
    auto outcome = std::make_shared<RoundOutcome>(
        training->runner->run_round(training->round, *broadcast, progress, training->last_counted));
    boost::asio::post(executor_, [this, training, outcome, alive] {
      if (!alive.expired()) trained(training, std::move(*outcome));
    });
  });
}

void SiteJobs::report(const Training& training) {
  Job* job = find(training.job);
  if (job == nullptr || training_.get() != &training) return;
  job->status.step = training.step;
  job->status.steps = training.steps;
  job->status.loss = training.loss;
  job->status.epsilon_spent = training.runner->epsilon_spent();
  changed_();
  if (link_ == nullptr) return;
  proto::ClientMessage message;
  auto& progress = *message.mutable_progress();
  progress.set_job_id(training.job);
  progress.set_round(static_cast<std::uint32_t>(training.round));
  progress.set_step(static_cast<std::uint32_t>(training.step));
  progress.set_steps(static_cast<std::uint32_t>(training.steps));
  progress.set_epsilon_spent(job->status.epsilon_spent);
  progress.set_epsilon_budget(job->status.epsilon_budget);
  progress.set_delta(training.runner->epsilon_delta());
  const privacy::LedgerHead head = site_.ledger->head();
  progress.mutable_ledger_head()->set_count(head.count);
  progress.mutable_ledger_head()->set_hash(head.hash.data(), head.hash.size());
  link_->send(std::move(message));
  statements_.ledger_changed();
}

void SiteJobs::trained(const std::shared_ptr<Training>& training, RoundOutcome outcome) {
  Job* job = find(training->job);
  if (job != nullptr && job->runner == training->runner) {
    // An evaluation is charged after the last step; the round's report says so before its contribution goes.
    if (job->runner->epsilon_spent() != job->status.epsilon_spent) report(*training);
    training_.reset();
    job->status.epsilon_spent = job->runner->epsilon_spent();
    if (outcome.contribution) {
      ++job->status.rounds_done;
      ++rounds_.trained;
      job->status.step = job->status.steps;
      if (training->wanted) {
        upload(*job, std::move(*outcome.contribution));
      } else {
        job->status.state = "waiting";
        if (const Status removed = job->runner->round_closed(training->round); !removed) {
          log_warn({.job = job->id, .round = training->round}, "job {}: {}", job->id, removed.error().message);
        }
      }
    } else {
      decline(*job, training->round, outcome.refusal);
    }
  } else if (job == nullptr && site_.outbox != nullptr) {
    // The job ended while its round was trained.
    if (const Status removed = site_.outbox->remove_job(training->job); !removed) {
      log_warn({.job = training->job, .round = training->round}, "job {}: {}", training->job, removed.error().message);
    }
  }
  training_.reset();
  changed_();
  for (auto& [id, waiting] : jobs_) advance(*waiting);
}

void SiteJobs::upload(Job& job, OutboxEntry entry) {
  job.status.state = "sending";
  job.status.round = entry.round;
  changed_();
  if (link_ != nullptr) {
    const OfferedJob& offer = job.runner->offer();
    // How small a packed contribution is depends on its values. Where the aggregator will add the noise they have none
    // yet, and nobody on the network may learn anything of them.
    const auto form = offer.spec.trusts_aggregator() ? net::ChunkForm::plain : net::ChunkForm::packed;
    link_->upload(std::make_shared<const OutboxEntry>(std::move(entry)), offer.contribution_schema, form);
  }
}

void SiteJobs::decline(Job& job, std::int64_t round, const Refusal& refusal) {
  ++rounds_.declined;
  log_warn({.job = job.id, .round = round}, "job {}: round {} is declined: {}", job.id, round, refusal.detail);
  if (job.asked && job.asked->round == round) job.asked.reset();
  job.status.state = job.runner ? "declined" : "refused";
  job.status.reason = refusal.detail;
  job.status.round = round;
  changed_();
  if (link_ == nullptr) return;
  proto::ClientMessage message;
  auto& reply = *message.mutable_round_reply();
  reply.set_job_id(job.id);
  reply.set_round(static_cast<std::uint32_t>(round));
  reply.set_accepted(false);
  reply.set_reason(refusal.reason);
  reply.set_over_budget(refusal.over_budget);
  reply.set_final(refusal.final);
  link_->send(std::move(message));
}

void SiteJobs::receipt(const std::string& id, std::int64_t round, bool is_accepted, const std::string& reason) {
  Job* job = find(id);
  if (!is_accepted)
    log_warn({.job = id, .round = round}, "job {}: the aggregator did not take the contribution to round {}: {}", id,
             round, reason);
  if (job == nullptr || job->status.round != round || job->status.state != "sending") return;
  job->status.state = "waiting";
  job->status.reason = is_accepted ? "" : reason;
  changed_();
}

void SiteJobs::round_closed(const std::string& id, std::int64_t round) {
  if (training_ && training_->job == id && training_->round == round) {
    training_->wanted = false;
    training_->cancelled = true;  // what is charged is spent; there is no use in the rest
  }
  Job* job = find(id);
  if (job != nullptr && job->asked && job->asked->round == round) job->asked.reset();
  if (site_.outbox == nullptr) return;
  if (const Status removed = site_.outbox->remove(id, round); !removed) {
    log_warn({.job = id}, "job {}: {}", id, removed.error().message);
  }
  changed_();
}

void SiteJobs::job_ended(const std::string& id, const std::string& outcome) {
  log_info({.job = id}, "job {} has ended: {}", id, outcome);
  if (training_ && training_->job == id) training_->cancelled = true;
  if (site_.outbox != nullptr) {
    if (const Status removed = site_.outbox->remove_job(id); !removed) {
      log_warn({.job = id}, "job {}: {}", id, removed.error().message);
    }
  }
  if (Job* job = find(id); job != nullptr && job->offer.constants_sha256().size() == sizeof(Sha256)) {
    Sha256 digest{};
    std::copy(job->offer.constants_sha256().begin(), job->offer.constants_sha256().end(), digest.begin());
    std::error_code ignored;  // another job may have the same constants and fetches them again
    std::filesystem::remove(constants_path(digest), ignored);
  }
  jobs_.erase(id);
  statements_.job_ended();
  changed_();
}

void SiteJobs::drain() {
  draining_ = true;
  for (auto& [id, job] : jobs_) {
    if (!job->asked || !job->runner || job->runner->is_made(job->asked->round)) continue;
    decline(*job, job->asked->round, stopping_refusal());
  }
}

void SiteJobs::stop_training() {
  if (training_) training_->cancelled = true;
}

std::map<std::string, JobStatus> SiteJobs::status() const {
  std::map<std::string, JobStatus> result;
  for (const auto& [id, job] : jobs_) result[id] = job->status;
  return result;
}

}  // namespace trib::client
