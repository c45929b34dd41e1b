// A value that is made elsewhere and awaited once.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <optional>
#include <utility>

namespace trib::server {

// set() and wait() on the same executor.
template <typename T>
class Completion {
 public:
  explicit Completion(boost::asio::any_io_executor executor)
      : timer_(std::move(executor), std::chrono::steady_clock::time_point::max()) {}
  void set(T value) {
    value_ = std::move(value);
    timer_.cancel();
  }
  boost::asio::awaitable<T> wait() {
    while (!value_) {
      boost::system::error_code ignored;
      co_await timer_.async_wait(boost::asio::redirect_error(boost::asio::use_awaitable, ignored));
    }
    T value = std::move(*value_);
    value_.reset();
    co_return value;
  }

 private:
  boost::asio::steady_timer timer_;
  std::optional<T> value_;
};

}  // namespace trib::server
