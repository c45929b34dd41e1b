// One connection to the aggregator: frames in, frames out, and the deadlines of both.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "client/site_jobs.h"
#include "common/net/channel.h"
#include "common/net/transfer.h"
#include "common/result.h"
#include "proto/tributary.pb.h"

namespace trib::client {

inline constexpr std::uint32_t protocol_version = 1;

// What a session asks of the client around it.
class SessionHost {
 public:
  virtual ~SessionHost() = default;
  // The first message of the connection.
  virtual proto::Hello hello() = 0;
  // Before anything else is acted on: the place where a ledger that is behind is charged for the gap. An error ends the
  // connection.
  virtual Status welcomed(const proto::Welcome& welcome) = 0;
  // A certificate request, when the certificate is due for renewal; asked about once a minute.
  virtual std::optional<std::string> renewal_request() = 0;
  virtual Status renewed(const std::string& certificate_pem) = 0;
};

// Runs on the channel's executor. Held by shared_ptr, since the coroutines that send outlive run() by a moment.
class Session final : public AggregatorLink, public std::enable_shared_from_this<Session> {
 public:
  // `transfer_bytes` bounds one broadcast.
  Session(std::unique_ptr<net::Channel> channel, SiteJobs& jobs, SessionHost& host, std::uint64_t transfer_bytes);

  // Until the connection ends. Never ok: the error says why it ended; Errc::cancelled after close(). Afterwards neither
  // `jobs` nor `host` is used any more.
  boost::asio::awaitable<Error> run();
  // Says goodbye and ends the connection.
  void close(const std::string& reason);

  bool was_welcomed() const { return welcomed_; }
  // Contributions that were given to this connection and that the aggregator has not answered yet.
  bool is_uploading() const { return !uploads_.empty(); }
  const net::Channel& channel() const { return *channel_; }

  void send(proto::ClientMessage message) override;
  void upload(std::shared_ptr<const OutboxEntry> entry, const TensorSchema& expected, net::ChunkForm form) override;

 private:
  struct Incoming {
    std::optional<net::TensorReceiver> receiver = {};  // none: the bytes are dropped
    std::uint64_t bytes_left = 0;
    std::string job = {};
    std::int64_t round = 0;  // 0: constants
  };
  struct Outgoing {
    proto::ClientMessage message = {};
    std::shared_ptr<const OutboxEntry> tensors = nullptr;  // that follow the message
    std::uint32_t transfer_id = 0;
    net::ChunkForm form = net::ChunkForm::plain;
  };

  boost::asio::awaitable<Status> talk();
  boost::asio::awaitable<void> write();
  boost::asio::awaitable<void> send_tensors(std::shared_ptr<const OutboxEntry> entry, std::uint32_t transfer_id,
                                            net::ChunkForm form);
  boost::asio::awaitable<void> beat();
  boost::asio::awaitable<void> renew();
  void enqueue(Outgoing outgoing);
  Status handle(const proto::ServerMessage& message);
  Status begin_transfer(const proto::Transfer& transfer, const TensorSchema* schema, std::string job,
                        std::int64_t round);
  Status add_chunk(const net::Chunk& chunk);
  Status finish_transfer(std::map<std::uint32_t, Incoming>::iterator incoming);
  void fail(Error error);

  std::unique_ptr<net::Channel> channel_;
  SiteJobs* jobs_;
  SessionHost* host_;
  std::uint64_t transfer_bytes_;
  bool welcomed_ = false;
  bool takes_packed_chunks_ = false;  // the aggregator does
  bool ended_ = false;
  bool writing_ = false;
  Milliseconds heartbeat_interval_{15'000};
  std::optional<Error> failure_;  // the first, if it was not receive() that failed
  std::deque<Outgoing> outgoing_;
  std::uint32_t next_transfer_id_ = 1;
  std::map<std::uint32_t, Incoming> incoming_;
  std::set<std::pair<std::string, std::int64_t>> uploads_;
  boost::asio::steady_timer heartbeat_timer_;
  boost::asio::steady_timer renewal_timer_;
};

}  // namespace trib::client
