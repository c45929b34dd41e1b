#include "common/clock.h"

#include <gtest/gtest.h>

namespace trib {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::sys_days;

TEST(Clock, WritesTimesAsIso8601InUtc) {
  EXPECT_EQ(to_iso8601(WallTime{}), "1970-01-01T00:00:00.000Z");
  EXPECT_EQ(to_iso8601(WallTime{milliseconds{1'767'225'599'999}}), "2025-12-31T23:59:59.999Z");
  // The seconds that `date -u -d 2028-02-29T12:34:56Z +%s` prints: a leap day.
  EXPECT_EQ(to_iso8601(WallTime{seconds{1'835'440'496} + milliseconds{7}}), "2028-02-29T12:34:56.007Z");
}

TEST(Clock, WritesTimesBeforeTheEpoch) {
  EXPECT_EQ(to_iso8601(WallTime{milliseconds{-1}}), "1969-12-31T23:59:59.999Z");
}

TEST(Clock, SystemClockAgreesWithTheStandardLibrary) {
  const auto before = std::chrono::floor<milliseconds>(std::chrono::system_clock::now());
  const auto steady_before = std::chrono::steady_clock::now();
  const WallTime wall = system_clock().wall_now();
  const MonotonicTime steady = system_clock().now();
  EXPECT_LE(before, wall);
  EXPECT_LE(wall, std::chrono::system_clock::now());
  EXPECT_LE(steady_before, steady);
  EXPECT_LE(steady, std::chrono::steady_clock::now());
}

TEST(Clock, ManualClockMovesOnlyWhenTold) {
  ManualClock clock;
  const WallTime wall = clock.wall_now();
  const MonotonicTime steady = clock.now();
  EXPECT_EQ(clock.wall_now(), wall);
  clock.advance(seconds{90});
  EXPECT_EQ(clock.wall_now() - wall, seconds{90});
  EXPECT_EQ(clock.now() - steady, seconds{90});
}

TEST(Clock, SettingTheWallClockLeavesTheMonotonicOneAlone) {
  ManualClock clock;
  const MonotonicTime steady = clock.now();
  clock.set_wall(WallTime{sys_days{std::chrono::June / 1 / 2020}});
  EXPECT_EQ(to_iso8601(clock.wall_now()), "2020-06-01T00:00:00.000Z");
  EXPECT_EQ(clock.now(), steady);
}

}  // namespace
}  // namespace trib
