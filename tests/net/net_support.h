// Two ends of a connection in one thread, and a small federation's certificates.
#pragma once

#include <gtest/gtest.h>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/connect_pair.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/net/channel.h"
#include "common/net/tls.h"
#include "common/net/x509.h"

namespace trib::net {

// Runs a coroutine to its end, together with whatever else was spawned on the context.
template <typename T>
T run(asio::io_context& context, asio::awaitable<T> work) {
  std::optional<T> result;
  asio::co_spawn(
      context, [&]() -> asio::awaitable<void> { result.emplace(co_await std::move(work)); },
      [](std::exception_ptr error) {
        if (error) std::rethrow_exception(error);
      });
  context.restart();
  while (!result && context.run_one() > 0) {
  }
  return std::move(result).value();
}

// Starts a coroutine whose result is looked at later.
template <typename T>
std::shared_ptr<std::optional<T>> start(asio::io_context& context, asio::awaitable<T> work) {
  auto result = std::make_shared<std::optional<T>>();
  asio::co_spawn(
      context,
      [result, task = std::make_shared<asio::awaitable<T>>(std::move(work))]() -> asio::awaitable<void> {
        result->emplace(co_await std::move(*task));
      },
      [](std::exception_ptr error) {
        if (error) std::rethrow_exception(error);
      });
  return result;
}

template <typename T>
T wait_for(asio::io_context& context, const std::shared_ptr<std::optional<T>>& result) {
  context.restart();
  while (!*result && context.run_one() > 0) {
  }
  return std::move(*result).value();
}

struct ChannelPair {
  std::unique_ptr<Channel> a, b;
};

inline ChannelPair make_channel_pair(asio::io_context& context, Limits limits = {}) {
  asio::local::stream_protocol::socket first(context), second(context);
  asio::local::connect_pair(first, second);
  return {accept_unix(std::move(first), limits), accept_unix(std::move(second), limits)};
}

// A channel whose other end is a bare socket, for bytes that no channel would send.
struct RawPair {
  std::unique_ptr<Channel> channel;
  asio::local::stream_protocol::socket raw;
};

inline RawPair make_raw_pair(asio::io_context& context, Limits limits = {}) {
  asio::local::stream_protocol::socket first(context), second(context);
  asio::local::connect_pair(first, second);
  return {accept_unix(std::move(first), limits), std::move(second)};
}

inline ClientCredentials make_credentials(const CertificateIssuer& issuer, const std::string& name,
                                          const std::string& role, std::chrono::seconds valid_from,
                                          std::chrono::seconds valid_until, std::vector<std::string> hosts = {}) {
  ClientCredentials credentials;
  credentials.key = PrivateKey::generate();
  const WallTime now = system_clock().wall_now();
  credentials.certificate = issuer
                                .issue(make_certificate_request(credentials.key, name),
                                       {.common_name = name, .role = role, .host_names = std::move(hosts)},
                                       now + valid_from, now + valid_until)
                                .value();
  return credentials;
}

inline ClientCredentials make_credentials(const CertificateIssuer& issuer, const std::string& name,
                                          const std::string& role, std::vector<std::string> hosts = {}) {
  return make_credentials(issuer, name, role, std::chrono::hours(-1), std::chrono::hours(1), std::move(hosts));
}

}  // namespace trib::net
