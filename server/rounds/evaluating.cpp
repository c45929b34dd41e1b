#include "server/rounds/states.h"

namespace trib::server {
namespace {

// Nobody watches an evaluation's steps; it only has to stop when its job ends.
class EvaluationProgress final : public tasks::QuietProgress {
 public:
  explicit EvaluationProgress(std::shared_ptr<std::atomic<bool>> cancelled) : cancelled_(std::move(cancelled)) {}
  bool cancelled() const override { return cancelled_->load(); }

 private:
  std::shared_ptr<std::atomic<bool>> cancelled_;
};

}  // namespace

void Evaluating::enter() {
  since_ = job_.engine().clock.wall_now();
  auto result = std::make_shared<Result<tasks::Evaluation>>(Error{});
  auto work = [task = job_.task(), state = job_.model_state(), cancelled = cancelled_]() -> Result<tasks::Evaluation> {
    EvaluationProgress progress(cancelled);
    return task->evaluate(*state, progress);
  };
  job_.run_work([result, work] { *result = guarded(work); },
                [this, result] {
                  const auto fail = [this](const Error& error) {
                    job_.fail(error.with_context("evaluating round " + std::to_string(job_.committed_round())).message);
                  };
                  if (!*result) return fail(result->error());
                  EvaluationRecord record{job_.committed_round(), (*result)->metrics};
                  if (const Status stored = job_.engine().store.put_evaluation(job_.id(), record); !stored)
                    return fail(stored.error());
                  job_.add_evaluation(std::move(record));
                  job_.go_on();
                });
}

std::optional<WaitReport> Evaluating::waiting() const {
  return WaitReport{"round " + std::to_string(job_.committed_round()) + " is being evaluated on the public test set",
                    {},
                    since_,
                    std::nullopt};
}

}  // namespace trib::server
