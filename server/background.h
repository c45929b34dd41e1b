// Coroutines that wait for work done elsewhere.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <memory>
#include <optional>
#include <utility>

#include "server/completion.h"
#include "server/coordinator.h"

namespace trib::server {

// Does `work` on a thread of `queue` and comes back with what it returned. `executor` is the caller's own, and the one
// on which the queue reports.
template <typename Work>
auto in_background(WorkQueue& queue, boost::asio::any_io_executor executor, Work work)
    -> boost::asio::awaitable<decltype(work())> {
  using Value = decltype(work());
  auto completion = std::make_shared<Completion<Value>>(std::move(executor));
  auto value = std::make_shared<std::optional<Value>>();
  queue.run([value, work = std::move(work)] { value->emplace(work()); },
            [value, completion] { completion->set(std::move(**value)); });
  Value result = co_await completion->wait();
  co_return result;
}

// Calls `start` on another executor, which may run on another thread, waits for the coroutine that it returns, and
// comes back with what that returned.
template <typename Start>
auto await_on_executor(boost::asio::any_io_executor executor, Start start) -> decltype(start()) {
  using Value = typename decltype(start())::value_type;
  auto value = std::make_shared<std::optional<Value>>();
  auto call = [value, start = std::move(start)]() mutable -> boost::asio::awaitable<void> {
    value->emplace(co_await start());
  };
  co_await boost::asio::co_spawn(std::move(executor), std::move(call), boost::asio::use_awaitable);
  Value result = std::move(**value);
  co_return result;
}

// The same for work that waits for nothing.
template <typename Work>
auto on_executor(boost::asio::any_io_executor executor, Work work) -> boost::asio::awaitable<decltype(work())> {
  using Value = decltype(work());
  auto start = [work = std::move(work)]() mutable -> boost::asio::awaitable<Value> { co_return work(); };
  Value result = co_await await_on_executor(std::move(executor), std::move(start));
  co_return result;
}

}  // namespace trib::server
