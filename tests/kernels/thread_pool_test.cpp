#include "kernels/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "kernels/lanes.h"

namespace trib::kernels::cpu {
namespace {

TEST(ThreadPool, RunsEveryTaskOnce) {
  ThreadPool pool(4);
  for (int count : {0, 1, 3, 4, 100}) {
    std::vector<std::atomic<int>> calls(static_cast<std::size_t>(count));
    pool.run(count, [&](int i) { ++calls[static_cast<std::size_t>(i)]; });
    for (const auto& called : calls) EXPECT_EQ(called, 1);
  }
}

TEST(ThreadPool, RethrowsATasksExceptionAndGoesOnWorking) {
  ThreadPool pool(3);
  EXPECT_THROW(pool.run(10,
                        [](int i) {
                          if (i == 7) throw std::runtime_error("seven");
                        }),
               std::runtime_error);
  std::atomic<int> calls = 0;
  pool.run(10, [&](int) { ++calls; });
  EXPECT_EQ(calls, 10);
}

TEST(ThreadPool, DoesNestedWorkInPlace) {
  ThreadPool pool(2);
  std::atomic<int> calls = 0;
  pool.run(2, [&](int) {
    EXPECT_TRUE(inside_parallel_task());
    const std::thread::id self = std::this_thread::get_id();
    pool.run(5, [&](int) {
      EXPECT_EQ(std::this_thread::get_id(), self);
      ++calls;
    });
    EXPECT_TRUE(inside_parallel_task());
  });
  EXPECT_EQ(calls, 10);
  EXPECT_FALSE(inside_parallel_task());
}

TEST(ThreadPool, ServesSeveralCallersAtOnce) {
  ThreadPool pool(2);
  std::atomic<int> calls = 0;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller)
    callers.emplace_back([&] {
      for (int i = 0; i < 200; ++i) pool.run(3, [&](int) { ++calls; });
    });
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(calls, 4 * 200 * 3);
}

TEST(ParallelFor, CoversTheRangeOnce) {
  for (std::int64_t count : {0, 1, 7, 1000}) {
    std::vector<std::atomic<int>> seen(static_cast<std::size_t>(count));
    parallel_for(count, 10, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
    });
    for (const auto& times : seen) EXPECT_EQ(times, 1);
  }
}

TEST(Lanes, EachHaveAStreamOfTheSameDevice) {
  auto stream = cpu_device().make_stream();
  EXPECT_GE(lane_count(*stream), 1);
  std::vector<std::atomic<int>> calls(5);
  for_each_lane(*stream, 5, [&](Stream& lane_stream, int lane) {
    EXPECT_EQ(&lane_stream.device(), &cpu_device());
    ++calls[static_cast<std::size_t>(lane)];
  });
  for (const auto& called : calls) EXPECT_EQ(called, 1);
}

}  // namespace
}  // namespace trib::kernels::cpu
