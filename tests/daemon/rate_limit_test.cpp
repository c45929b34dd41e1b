#include "server/rate_limit.h"

#include <gtest/gtest.h>

namespace trib::server {
namespace {

using namespace std::chrono_literals;

TEST(TokenBucket, AllowsABurstAndThenTheRate) {
  ManualClock clock;
  TokenBucket bucket(2.0, 3.0, clock.now());
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(bucket.take(clock.now())) << i;
  EXPECT_FALSE(bucket.take(clock.now()));
  clock.advance(500ms);
  EXPECT_TRUE(bucket.take(clock.now()));
  EXPECT_FALSE(bucket.take(clock.now()));
  clock.advance(1h);
  EXPECT_TRUE(bucket.is_full(clock.now()));
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(bucket.take(clock.now())) << i;
  EXPECT_FALSE(bucket.take(clock.now()));
}

TEST(RateLimiter, CountsEachKeyByItself) {
  ManualClock clock;
  RateLimiter limiter(60);
  for (int i = 0; i < 60; ++i) EXPECT_TRUE(limiter.take("192.0.2.1", clock.now()));
  EXPECT_FALSE(limiter.take("192.0.2.1", clock.now()));
  EXPECT_TRUE(limiter.take("192.0.2.2", clock.now()));
  clock.advance(1s);
  EXPECT_TRUE(limiter.take("192.0.2.1", clock.now()));
  EXPECT_FALSE(limiter.take("192.0.2.1", clock.now()));
}

TEST(RateLimiter, ForgettingIdleKeysNeverForgivesABusyOne) {
  ManualClock clock;
  RateLimiter limiter(1);
  EXPECT_TRUE(limiter.take("busy", clock.now()));
  for (int i = 0; i < 3000; ++i) EXPECT_TRUE(limiter.take("idle-" + std::to_string(i), clock.now()));
  EXPECT_FALSE(limiter.take("busy", clock.now()));
}

}  // namespace
}  // namespace trib::server
