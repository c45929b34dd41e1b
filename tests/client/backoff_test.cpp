#include "client/backoff.h"

#include <gtest/gtest.h>

#include <set>

namespace trib::client {
namespace {

constexpr Milliseconds minimum{500};
constexpr Milliseconds maximum{60'000};

TEST(Backoff, DoublesItsBoundUpToTheMaximum) {
  ChaCha20Random random(RandomKey::from_seed(1));
  for (int trial = 0; trial < 200; ++trial) {
    Backoff backoff(minimum, maximum);
    Milliseconds bound = minimum;
    for (int failure = 0; failure < 12; ++failure) {
      ASSERT_LE(backoff.next(random), bound);
      bound = std::min(maximum, bound * 2);
    }
  }
}

TEST(Backoff, SpreadsOverTheWholeInterval) {
  ChaCha20Random random(RandomKey::from_seed(2));
  Backoff backoff(minimum, maximum);
  for (int failure = 0; failure < 10; ++failure) backoff.next(random);
  double sum = 0;
  std::set<std::int64_t> tenths;
  constexpr int draws = 4000;
  for (int i = 0; i < draws; ++i) {
    const auto pause = backoff.next(random).count();
    sum += static_cast<double>(pause);
    tenths.insert(pause / (maximum.count() / 10));
  }
  EXPECT_GE(tenths.size(), 10U);
  EXPECT_NEAR(sum / draws, static_cast<double>(maximum.count()) / 2, 1'000);  // stddev of the mean: 274 ms
}

TEST(Backoff, BeginsAnewAfterAConnectionThatHeld) {
  ChaCha20Random random(RandomKey::from_seed(3));
  Backoff backoff(minimum, maximum);
  for (int failure = 0; failure < 10; ++failure) backoff.next(random);
  backoff.reset();
  EXPECT_LE(backoff.next(random), minimum);
}

TEST(Backoff, WaitsLongWhereTheAggregatorRefused) {
  ChaCha20Random random(RandomKey::from_seed(4));
  Backoff backoff(minimum, maximum);
  for (int i = 0; i < 100; ++i) {
    const Milliseconds pause = backoff.longest(random);
    ASSERT_GE(pause, maximum / 2);
    ASSERT_LE(pause, maximum);
  }
}

}  // namespace
}  // namespace trib::client
