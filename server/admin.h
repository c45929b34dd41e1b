// The operator's channel: requests in, JSON documents out. Over the Unix socket, or TLS with an operator's certificate.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "common/net/address.h"
#include "common/net/channel.h"
#include "proto/tributary.pb.h"
#include "server/session.h"

namespace trib::server {

class Admin {
 public:
  // `addresses` go into tokens. `services` and `sessions` outlive it.
  Admin(const SessionServices& services, Sessions& sessions, std::vector<net::HostPort> addresses);

  // Answers one request after the other until the peer leaves. An operator that is revoked loses the channel at the
  // next request.
  boost::asio::awaitable<void> serve(std::unique_ptr<net::Channel> channel);

  // Requests and replies of operators: a reply may carry an exported model.
  static net::Limits limits(const net::Limits& sessions);

 private:
  struct Conversation;
  boost::asio::awaitable<Status> answer(Conversation& conversation, const tributary::proto::AdminRequest& request);
  boost::asio::awaitable<Status> watch(Conversation& conversation, const std::string& job);
  boost::asio::awaitable<tributary::proto::AdminReply> export_model(net::Channel& channel,
                                                                    const tributary::proto::ExportModel& request);
  Result<std::string> create_invite(const tributary::proto::CreateInvite& request);
  Result<std::string> revoke(const tributary::proto::RevokeSite& request);
  Result<std::string> submit(const tributary::proto::SubmitJob& request);
  Result<std::string> cancel(const tributary::proto::CancelJob& request);
  Result<std::string> site_statement(const std::string& site);
  std::string status() const;

  SessionServices services_;
  Sessions& sessions_;
  std::vector<net::HostPort> addresses_;
  MonotonicTime started_;
  std::uint64_t exports_ = 0;
};

}  // namespace trib::server
