// The operator's channel: requests in, JSON documents out. Over the Unix socket, or TLS with an operator's certificate.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "common/net/channel.h"
#include "proto/tributary.pb.h"
#include "server/operations.h"
#include "server/session.h"

namespace trib::server {

class Admin {
 public:
  // `background` reads what is long. Everything outlives it.
  Admin(const SessionServices& services, Operations& operations, WorkQueue& background);

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

  SessionServices services_;
  Operations& operations_;
  WorkQueue& background_;
  std::uint64_t exports_ = 0;
};

}  // namespace trib::server
