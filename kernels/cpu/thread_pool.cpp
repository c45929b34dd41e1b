#include "kernels/cpu/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace trib::kernels::cpu {
namespace {

thread_local bool in_task = false;

int threads_from_environment(const char* variable) {
  const char* text = std::getenv(variable);
  return text == nullptr ? 0 : std::clamp(std::atoi(text), 0, 1024);
}

int default_thread_count() {
  if (int threads = threads_from_environment("TRIBUTARY_THREADS")) return threads;
  if (int threads = threads_from_environment("OMP_NUM_THREADS")) return threads;
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace

struct ThreadPool::State {
  std::mutex submit;  // held by the caller whose tasks are running
  std::mutex mutex;
  std::condition_variable work_ready, work_done;
  const std::function<void(int)>* task = nullptr;
  int count = 0;
  std::atomic<int> next{0};
  int workers_busy = 0;
  std::uint64_t generation = 0;
  bool stopping = false;
  std::exception_ptr error;
  std::vector<std::thread> threads;

  void take_tasks() {
    in_task = true;
    for (int index = next.fetch_add(1); index < count; index = next.fetch_add(1)) {
      try {
        (*task)(index);
      } catch (...) {
        std::scoped_lock lock(mutex);
        if (!error) error = std::current_exception();
      }
    }
    in_task = false;
  }

  void work() {
    std::uint64_t seen = 0;
    std::unique_lock lock(mutex);
    for (;;) {
      work_ready.wait(lock, [&] { return stopping || generation != seen; });
      if (stopping) return;
      seen = generation;
      lock.unlock();
      take_tasks();
      lock.lock();
      if (--workers_busy == 0) work_done.notify_one();
    }
  }
};

ThreadPool& ThreadPool::instance() {
  static ThreadPool pool(default_thread_count());
  return pool;
}

ThreadPool::ThreadPool(int threads) : size_(std::max(1, threads)), state_(std::make_unique<State>()) {
  for (int i = 1; i < size_; ++i) state_->threads.emplace_back([state = state_.get()] { state->work(); });
}

ThreadPool::~ThreadPool() {
  {
    std::scoped_lock lock(state_->mutex);
    state_->stopping = true;
  }
  state_->work_ready.notify_all();
  for (std::thread& thread : state_->threads) thread.join();
}

void ThreadPool::run(int count, const std::function<void(int)>& task) {
  State& state = *state_;
  std::unique_lock submit(state.submit, std::defer_lock);
  if (count <= 1 || size_ == 1 || in_task || !submit.try_lock()) {
    for (int index = 0; index < count; ++index) task(index);
    return;
  }
  {
    std::scoped_lock lock(state.mutex);
    state.task = &task;
    state.count = count;
    state.next = 0;
    state.error = nullptr;
    state.workers_busy = static_cast<int>(state.threads.size());
    ++state.generation;
  }
  state.work_ready.notify_all();
  state.take_tasks();
  std::unique_lock lock(state.mutex);
  state.work_done.wait(lock, [&] { return state.workers_busy == 0; });
  state.task = nullptr;
  if (state.error) std::rethrow_exception(std::exchange(state.error, nullptr));
}

bool inside_parallel_task() {
  return in_task;
}

void parallel_for(std::int64_t count, std::int64_t grain, const std::function<void(std::int64_t, std::int64_t)>& body) {
  ThreadPool& pool = ThreadPool::instance();
  std::int64_t parts = std::min<std::int64_t>(pool.size(), count / std::max<std::int64_t>(1, grain));
  if (parts <= 1 || in_task) {
    if (count > 0) body(0, count);
    return;
  }
  pool.run(static_cast<int>(parts), [&](int part) { body(count * part / parts, count * (part + 1) / parts); });
}

}  // namespace trib::kernels::cpu
