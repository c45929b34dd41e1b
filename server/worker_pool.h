// The coordinator's work on threads of its own.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <functional>

#include "server/coordinator.h"

namespace trib::server {

class WorkerPool final : public WorkQueue {
 public:
  // `done` of each piece of work runs on `executor`, which must outlive this object.
  WorkerPool(std::size_t threads, boost::asio::io_context& executor) : executor_(executor), pool_(threads) {}
  // What has not begun is dropped; what has is waited for.
  ~WorkerPool() override {
    pool_.stop();
    pool_.join();
  }
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  void run(std::function<void()> work, std::function<void()> done) override {
    ++running_;
    boost::asio::post(pool_, [this, work = std::move(work), done = std::move(done)]() mutable {
      work();
      boost::asio::post(executor_, [this, done = std::move(done)] {
        --running_;
        done();
      });
    });
  }
  bool is_idle() const { return running_ == 0; }
  std::size_t pending() const { return running_; }  // queued or running

 private:
  boost::asio::io_context& executor_;
  boost::asio::thread_pool pool_;
  std::size_t running_ = 0;  // touched on the executor alone
};

}  // namespace trib::server
