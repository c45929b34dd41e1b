// Time, injected: the round engine and the ledger take a Clock, so that tests and simulations own it.
#pragma once

#include <chrono>
#include <string>

namespace trib {

using Milliseconds = std::chrono::milliseconds;
using WallTime = std::chrono::sys_time<std::chrono::milliseconds>;       // what a person reads; may jump
using MonotonicTime = std::chrono::time_point<std::chrono::steady_clock, std::chrono::nanoseconds>;  // never jumps

class Clock {
 public:
  virtual ~Clock() = default;
  virtual WallTime wall_now() const = 0;
  virtual MonotonicTime now() const = 0;
};

Clock& system_clock();

// A clock that stands still until it is told to move.
class ManualClock : public Clock {
 public:
  WallTime wall_now() const override { return wall_; }
  MonotonicTime now() const override { return monotonic_; }
  void advance(std::chrono::nanoseconds duration) {
    monotonic_ += duration;
    wall_ += std::chrono::duration_cast<Milliseconds>(duration);
  }
  void set_wall(WallTime wall) { wall_ = wall; }

 private:
  WallTime wall_{std::chrono::sys_days{std::chrono::January / 1 / 2026}};
  MonotonicTime monotonic_{};
};

std::string to_iso8601(WallTime time);  // "2026-11-24T15:04:05.123Z"

}  // namespace trib
