// An aggregator that answers the operator's requests from a script: over the Unix socket of a directory, like the real
// one.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "common/net/tls.h"
#include "proto/tributary.pb.h"
#include "tests/common/temporary_directory.h"

namespace trib::cli {

class ScriptedAggregator {
 public:
  using Request = tributary::proto::AdminRequest;
  using Reply = tributary::proto::AdminReply;
  using Script = std::function<std::vector<Reply>(const Request&)>;

  explicit ScriptedAggregator(Script script)
      : script_(std::move(script)), acceptor_(context_, Protocol::endpoint((directory_ / "admin.sock").string())) {
    boost::asio::co_spawn(context_, accept(), boost::asio::detached);
    thread_ = std::thread([this] { context_.run(); });
  }
  ~ScriptedAggregator() {
    context_.stop();
    thread_.join();
  }

  std::string directory() const { return directory_.path().string(); }
  std::vector<Request> requests() const {
    const std::lock_guard lock(mutex_);
    return requests_;
  }

  static Reply answer(const std::string& json) {
    Reply reply;
    reply.set_json(json);
    return reply;
  }
  static Reply refusal(const std::string& code, const std::string& message) {
    Reply reply;
    reply.set_error_code(code);
    reply.set_error(message);
    return reply;
  }

 private:
  using Protocol = boost::asio::local::stream_protocol;

  boost::asio::awaitable<void> accept() {
    while (true) {
      boost::system::error_code error;
      auto socket = co_await acceptor_.async_accept(boost::asio::redirect_error(boost::asio::use_awaitable, error));
      if (error) co_return;
      boost::asio::co_spawn(context_, serve(net::accept_unix(std::move(socket), {})), boost::asio::detached);
    }
  }

  boost::asio::awaitable<void> serve(std::unique_ptr<net::Channel> channel) {
    while (true) {
      const Result<net::Frame> frame = co_await channel->receive();
      if (!frame) co_return;
      const Request request = net::parse_message<Request>(*frame).value();
      {
        const std::lock_guard lock(mutex_);
        requests_.push_back(request);
      }
      for (const Reply& reply : script_(request))
        if (!co_await channel->send(reply)) co_return;
    }
  }

  test::TemporaryDirectory directory_;
  Script script_;
  boost::asio::io_context context_;
  Protocol::acceptor acceptor_;
  std::thread thread_;
  mutable std::mutex mutex_;
  std::vector<Request> requests_;
};

}  // namespace trib::cli
