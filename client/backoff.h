// How long to wait before dialling again: exponential with full jitter, so that a thousand sites that lost the same
// aggregator do not come back at the same moment (M. Brooker, "Exponential Backoff And Jitter", 2015).
#pragma once

#include <algorithm>

#include "common/clock.h"
#include "common/random.h"

namespace trib::client {

class Backoff {
 public:
  Backoff(Milliseconds minimum, Milliseconds maximum) : minimum_(minimum), maximum_(maximum) {}

  // Uniform in [0, min(maximum, minimum·2^failures)]; each call counts as one more failure.
  Milliseconds next(RandomSource& random) {
    const Milliseconds bound = std::min(maximum_, ceiling_);
    ceiling_ = std::min(maximum_, ceiling_ * 2);
    return Milliseconds(static_cast<Milliseconds::rep>(random.below(static_cast<std::uint64_t>(bound.count()) + 1)));
  }
  // The peer said that trying soon is pointless: uniform in [maximum/2, maximum].
  Milliseconds longest(RandomSource& random) {
    ceiling_ = maximum_;
    const Milliseconds half = maximum_ / 2;
    return half +
           Milliseconds(static_cast<Milliseconds::rep>(random.below(static_cast<std::uint64_t>(half.count()) + 1)));
  }
  // A connection held: the next failure is the first again.
  void reset() { ceiling_ = minimum_; }

 private:
  Milliseconds minimum_, maximum_;
  Milliseconds ceiling_ = minimum_;
};

}  // namespace trib::client
