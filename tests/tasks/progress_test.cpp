#include "tasks/progress.h"

#include <gtest/gtest.h>

namespace trib::tasks {
namespace {

using std::chrono::seconds;

TEST(LongWork, IsSaidEveryFiveSeconds) {
  LongWork work;
  const MonotonicTime begin;
  EXPECT_FALSE(work.is_due("features", 0.1, begin));
  EXPECT_FALSE(work.is_due("features", 0.2, begin + seconds(4)));
  EXPECT_TRUE(work.is_due("features", 0.3, begin + seconds(5)));
  EXPECT_FALSE(work.is_due("features", 0.4, begin + seconds(9)));
  EXPECT_TRUE(work.is_due("features", 1.0, begin + seconds(10)));
}

TEST(LongWork, ThatBeginsAnewIsNotLongYet) {
  LongWork work;
  const MonotonicTime begin;
  EXPECT_FALSE(work.is_due("features", 0.1, begin));
  EXPECT_FALSE(work.is_due("features", 1.0, begin + seconds(4)));
  EXPECT_FALSE(work.is_due("features", 0.1, begin + seconds(60)));  // of the next site
  EXPECT_FALSE(work.is_due("loading", 0.5, begin + seconds(66)));
  EXPECT_TRUE(work.is_due("loading", 0.6, begin + seconds(71)));
}

}  // namespace
}  // namespace trib::tasks
