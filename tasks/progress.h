// How far work is, for whoever watches, and how work is told to stop.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "common/clock.h"

namespace trib::tasks {

// What a half may show while it works; also how it is told to stop.
class Progress {
 public:
  virtual ~Progress() = default;
  // `loss` is computed from records: implementations show it on the site's own screen and nowhere else.
  virtual void step(std::int64_t step, std::int64_t steps, double loss) = 0;
  // Fraction of a longer piece of work without steps (loading, evaluating).
  virtual void fraction(std::string_view what, double done) = 0;
  virtual bool cancelled() const = 0;
};

// Where nobody watches; it stops nothing by itself.
class QuietProgress : public Progress {
 public:
  void step(std::int64_t, std::int64_t, double) override {}
  void fraction(std::string_view, double) override {}
  bool cancelled() const override { return false; }
};

// What a part of a longer piece of work says: the part from `begin` on, `share` of the whole.
class PartProgress final : public Progress {
 public:
  PartProgress(Progress& whole, double begin, double share) : whole_(whole), begin_(begin), share_(share) {}
  void step(std::int64_t, std::int64_t, double) override {}
  void fraction(std::string_view what, double done) override { whole_.fraction(what, begin_ + share_ * done); }
  bool cancelled() const override { return whole_.cancelled(); }

 private:
  Progress& whole_;
  double begin_, share_;
};

// When to write a line about work where no bar is drawn: whenever it has gone on for 5 s since the last line, and so
// never where it is quick.
class LongWork {
 public:
  // `what` is done up to `done` at `now`.
  bool is_due(std::string_view what, double done, MonotonicTime now);

 private:
  std::string what_;
  std::optional<MonotonicTime> said_;  // when the last line was, or when the work began
};

// Writes these lines into the process's log. May be shared by threads.
class LoggedProgress final : public QuietProgress {
 public:
  explicit LoggedProgress(const Clock& clock) : clock_(clock) {}  // which outlives it
  void fraction(std::string_view what, double done) override;

 private:
  const Clock& clock_;
  std::mutex mutex_;
  LongWork work_;
};

}  // namespace trib::tasks
