#include "server/rounds/states.h"

namespace trib::server {

// What the work brings back: the task, and the state to go on from.
struct Preparing::Prepared {
  std::shared_ptr<tasks::ServerTask> task;
  std::shared_ptr<const JobOffer> offer;
  std::shared_ptr<const TensorMap> state, broadcast;
  std::string state_sha256;  // of an initial state that has just been written
};

void Preparing::enter() {
  since_ = job_.engine().clock.wall_now();
  if (job_.committed_round() >= 0) give_up_ = job_.deadline_in(Milliseconds(job_.spec().selection.round_deadline_ms));
  work();
}

void Preparing::work() {
  retry_.reset();
  auto result = std::make_shared<Result<std::shared_ptr<Prepared>>>(Error{});
  const auto& rounds = job_.committed_rounds();
  const std::string last_state = rounds.empty() ? "" : rounds.back().state_sha256;
  // The work may outlive the job, so it has its own copies.
  auto prepare = [spec = job_.spec(), id = job_.id(), file = job_.record().file_text, last_state,
                  find_task = job_.engine().options.find_task, context = job_.engine().context,
                  &state_files = job_.engine().state_files]() -> Result<std::shared_ptr<Prepared>> {
    TRIB_ASSIGN(const tasks::TaskDefinition* definition, find_task(spec.task));
    auto prepared = std::make_shared<Prepared>();
    TRIB_ASSIGN(prepared->task, definition->make_server(spec, context));
    if (last_state.empty()) {
      TRIB_ASSIGN(TensorMap initial, prepared->task->initial_state());
      TRIB_ASSIGN(prepared->state_sha256, state_files.write(initial, id, 0));
      prepared->state = std::make_shared<TensorMap>(std::move(initial));
    } else {
      TRIB_ASSIGN(TensorMap stored, state_files.read(last_state));
      prepared->state = std::make_shared<TensorMap>(std::move(stored));
    }
    TRIB_ASSIGN(TensorMap broadcast, prepared->task->broadcast(*prepared->state));
    prepared->broadcast = std::make_shared<TensorMap>(std::move(broadcast));
    auto offer = std::make_shared<JobOffer>();
    offer->job_id = id;
    offer->job_file = file;
    offer->broadcast_schema = prepared->task->broadcast_schema();
    offer->contribution_schema = prepared->task->contribution_schema();
    offer->constants = std::make_shared<TensorMap>(prepared->task->constants());
    offer->constants_sha256 = offer->constants->digest();
    prepared->offer = std::move(offer);
    return prepared;
  };
  job_.run_work([result, prepare] { *result = guarded(prepare); }, [this, result] { finish(*result); });
}

void Preparing::finish(const Result<std::shared_ptr<Prepared>>& prepared) {
  if (!prepared) {
    problem_ = prepared.error().message;
    // A job that has come some way is not given up for a file that may come back.
    if (give_up_ && job_.engine().clock.now() < give_up_->at) {
      retry_ = job_.deadline_in(job_.engine().options.storage_retry);
    } else {
      job_.fail(problem_);
    }
    return;
  }
  const Prepared& made = **prepared;
  job_.set_task(made.task, made.offer);
  if (made.state_sha256.empty()) {
    job_.set_model(job_.committed_round(), made.state, made.broadcast);
  } else {
    RoundCommit commit;
    commit.job = job_.id();
    commit.state_sha256 = made.state_sha256;
    commit.time = job_.engine().clock.wall_now();
    if (const Status committed = job_.engine().store.commit_round(commit); !committed)
      return job_.fail(committed.error().message);
    job_.set_model(0, made.state, made.broadcast);
    RoundRecord record;
    record.opened = commit.time;
    record.committed = commit.time;
    record.state_sha256 = commit.state_sha256;
    job_.round_committed(std::move(record));
  }
  if (job_.open_round()) {
    job_.go<Collecting>();
  } else if (job_.committed_round() == 0) {
    job_.go<Recruiting>();
  } else {
    job_.go_on();
  }
  job_.offer_to_all();
}

void Preparing::tick() {
  if (retry_ && job_.engine().clock.now() >= retry_->at) work();
}

std::optional<MonotonicTime> Preparing::next_deadline() const {
  return retry_ ? std::optional(retry_->at) : std::nullopt;
}

std::optional<WaitReport> Preparing::waiting() const {
  if (!retry_) return WaitReport{"the task is being loaded", {}, since_, std::nullopt};
  return WaitReport{"to be tried again at " + to_iso8601(retry_->wall) + ": " + problem_, {}, since_, give_up_->wall};
}

}  // namespace trib::server
