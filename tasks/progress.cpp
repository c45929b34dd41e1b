#include "tasks/progress.h"

#include <spdlog/spdlog.h>

#include <chrono>

namespace trib::tasks {

bool LongWork::is_due(std::string_view what, double done, MonotonicTime now) {
  constexpr auto interval = std::chrono::seconds(5);
  if (!said_ || what_ != what) {
    what_ = what;
    said_ = now;
  }
  const bool is_due = now - *said_ >= interval;
  if (is_due) said_ = now;
  if (done >= 1.0) said_.reset();
  return is_due;
}

void LoggedProgress::fraction(std::string_view what, double done) {
  const std::lock_guard lock(mutex_);
  if (work_.is_due(what, done, clock_.now())) spdlog::info("{}: {:.0f} %", what, 100.0 * done);
}

}  // namespace trib::tasks
