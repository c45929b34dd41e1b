#include "common/log.h"
#include "server/rounds/states.h"

namespace trib::server {

void Ended::enter() {
  log_info({.job = job_.id()}, "job {} {}{}{}", job_.id(), to_string(outcome_), reason_.empty() ? "" : ": ", reason_);
  job_.set_outcome(outcome_, reason_);
  save();
}

void Ended::save() {
  auto& engine = job_.engine();
  auto traffic = job_.take_traffic();
  const Status saved = engine.store.end_job(job_.id(), outcome_, reason_, *job_.record().ended, traffic);
  retry_.reset();
  if (saved) return;
  // A restart before this succeeds takes the job up again and comes to the same end.
  log_error({.job = job_.id()}, "job {}: {}", job_.id(), saved.error().message);
  job_.restore_traffic(std::move(traffic));
  retry_ = engine.clock.now() + engine.options.storage_retry;
}

void Ended::tick() {
  if (retry_ && job_.engine().clock.now() >= *retry_) save();
}

std::optional<MonotonicTime> Ended::next_deadline() const {
  return retry_;
}

}  // namespace trib::server
