// The threads behind the CPU device. Coarse work (a lane of a training step) and loops over rows share them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace trib::kernels::cpu {

// A fixed set of worker threads; the caller of run() works too. Thread-safe: a caller that finds the pool busy, and a
// task that calls run() itself, do all their work on the calling thread.
class ThreadPool {
 public:
  // TRIBUTARY_THREADS, else OMP_NUM_THREADS, else the processors this process may use.
  static ThreadPool& instance();

  explicit ThreadPool(int threads);
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool();

  int size() const { return size_; }
  // Calls task(0) … task(count − 1), each once, and returns when all are done. The first exception is rethrown.
  void run(int count, const std::function<void(int)>& task);

 private:
  struct State;
  int size_;
  std::unique_ptr<State> state_;
};

// Whether this thread is inside a task of a pool, where further parallelism would only cost.
bool inside_parallel_task();

// Splits [0, count) into at most pool-size ranges of at least `grain` elements and calls body(begin, end) for each.
void parallel_for(std::int64_t count, std::int64_t grain, const std::function<void(std::int64_t, std::int64_t)>& body);

}  // namespace trib::kernels::cpu
