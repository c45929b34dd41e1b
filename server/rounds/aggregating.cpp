#include "common/failpoint.h"
#include "common/log.h"
#include "server/rounds/states.h"

namespace trib::server {

// The next state on its way to the disk.
struct Aggregating::Next {
  std::shared_ptr<const TensorMap> state, broadcast;
  std::string sha256;  // empty until the file is written
  double weight = 0.0;
  std::vector<std::string> contributors;
};

void Aggregating::enter() {
  since_ = job_.engine().clock.wall_now();
  compute();
}

void Aggregating::compute() {
  OpenRound& open = *job_.open_round();
  next_ = std::make_shared<Next>();
  for (const auto& [name, site] : open.sites)
    if (site.status == RoundSiteStatus::contributed) next_->contributors.push_back(name);
  auto result = std::make_shared<Status>();
  auto work = [task = job_.task(), state = job_.model_state(), sum = std::shared_ptr<RoundSum>(std::move(open.sum)),
               next = next_]() -> Status {
    TRIB_ASSIGN(const tasks::Sum total, sum->finish());
    next->weight = total.weight();
    TRIB_ASSIGN(TensorMap made, task->next_state(*state, total));
    TRIB_TRY(made.check_finite());
    TRIB_ASSIGN(TensorMap broadcast, task->broadcast(made));
    next->state = std::make_shared<TensorMap>(std::move(made));
    next->broadcast = std::make_shared<TensorMap>(std::move(broadcast));
    return {};
  };
  job_.run_work([result, work] { *result = guarded(work); },
                [this, result] {
                  if (!*result) return job_.fail(result->error().with_context("computing the next state").message);
                  write();
                });
}

void Aggregating::write() {
  auto result = std::make_shared<Result<std::string>>(Error{});
  job_.run_work([result, next = next_, &files = job_.engine().state_files, id = job_.id(),
                 round = job_.open_round()->round] { *result = files.write(*next->state, id, round); },
                [this, result] {
                  if (!*result) return storage_failed(result->error());
                  next_->sha256 = **result;
                  commit();
                });
}

void Aggregating::commit() {
  RoundCommit commit;
  commit.job = job_.id();
  commit.round = job_.open_round()->round;
  commit.state_sha256 = next_->sha256;
  commit.time = job_.engine().clock.wall_now();
  commit.weight = next_->weight;
  commit.contributors = next_->contributors;
  commit.traffic = job_.take_traffic();
  commit.sites = job_.site_records();
  commit.parts = job_.round_records();
  TRIB_FAILPOINT("round.before_commit");
  if (const Status committed = job_.engine().store.commit_round(commit); !committed) {
    job_.restore_traffic(std::move(commit.traffic));
    return storage_failed(committed.error());
  }
  TRIB_FAILPOINT("round.after_commit");
  RoundRecord record;
  record.round = commit.round;
  record.attempt = job_.open_round()->attempt;
  record.opened = job_.open_round()->opened;
  record.committed = commit.time;
  record.state_sha256 = commit.state_sha256;
  record.contributions = std::ssize(commit.contributors);
  record.weight = commit.weight;
  log_info({.job = job_.id(), .round = commit.round}, "round {} of {} is committed: {} contributions, attempt {}",
           commit.round, job_.spec().rounds, record.contributions, record.attempt);
  job_.set_model(commit.round, next_->state, next_->broadcast);
  job_.round_committed(std::move(record));
  job_.go_on();
}

void Aggregating::storage_failed(const Error& error) {
  auto& engine = job_.engine();
  if (!give_up_) give_up_ = job_.deadline_in(Milliseconds(job_.spec().selection.round_deadline_ms));
  if (engine.clock.now() >= give_up_->at) return job_.fail(error.message);
  problem_ = error.message;
  retry_ = job_.deadline_in(engine.options.storage_retry);
  log_error({.job = job_.id(), .round = job_.open_round()->round}, "job {}: {}; to be tried again at {}", job_.id(),
            problem_, to_iso8601(retry_->wall));
}

void Aggregating::tick() {
  if (!retry_ || job_.engine().clock.now() < retry_->at) return;
  retry_.reset();
  if (next_->sha256.empty()) {
    write();
  } else {
    commit();
  }
}

std::optional<MonotonicTime> Aggregating::next_deadline() const {
  return retry_ ? std::optional(retry_->at) : std::nullopt;
}

std::optional<WaitReport> Aggregating::waiting() const {
  if (!retry_) return WaitReport{"the next state is being computed and written", {}, since_, std::nullopt};
  return WaitReport{"to be tried again at " + to_iso8601(retry_->wall) + ": " + problem_, {}, since_, give_up_->wall};
}

}  // namespace trib::server
