// A site's connection, from its Hello to its end, and the table of all of them: the coordinator's way to the sites.
//
// Bad input costs the peer its session, never the job: a message that does not parse, a chunk out of order, a checksum
// that does not hold, a tensor of the wrong name or shape, a NaN. The peer is told why (Goodbye) and the log says it.
//
// One session a site. A second one with the same identity is refused (Errc::already_exists) while the first is alive,
// that is, was heard from within two heartbeat intervals; otherwise the first is ended, with the reason, and the second
// takes its place. A site that lost its connection is therefore back after two intervals at the latest, and two
// machines that share a certificate are told so.
//
// Not thread-safe: everything runs on the channels' executor.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "common/net/channel.h"
#include "common/net/transfer.h"
#include "proto/tributary.pb.h"
#include "server/certificate_authority.h"
#include "server/config.h"
#include "server/coordinator.h"
#include "server/rate_limit.h"
#include "server/staging.h"
#include "server/store.h"

namespace trib::server {

class PrivacyPlans;

inline constexpr std::uint32_t protocol_version = 1;

class Sessions;

class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(std::unique_ptr<net::Channel> channel, Sessions& sessions);

  // Until the connection ends, whoever ends it.
  boost::asio::awaitable<void> run();

  const std::string& site() const { return channel_->peer().name; }
  const net::PeerIdentity& peer() const { return channel_->peer(); }
  std::string remote_address() const { return channel_->remote_address(); }
  MonotonicTime last_heard() const { return last_heard_; }
  bool is_uploading() const { return !incoming_.empty(); }
  std::size_t queued() const { return outgoing_.size(); }

  // Queued and sent in this order; bytes are accounted to the job and round, if one is named.
  void send(tributary::proto::ServerMessage message, std::string job = {}, std::int64_t round = 0);
  // The message, then the tensors that it announces in `transfer_of` it.
  void send_tensors(tributary::proto::ServerMessage message,
                    tributary::proto::Transfer* (*transfer_of)(tributary::proto::ServerMessage&),
                    std::shared_ptr<const TensorMap> tensors, std::string job, std::int64_t round);
  void beat();  // a heartbeat, unless something is being sent anyway
  // Says why and ends the session; run() returns soon after.
  void end(Errc code, std::string reason);

 private:
  struct Incoming {  // a contribution under way
    std::string job;
    std::int64_t round = 0;
    double weight = 0.0;
    bool is_private = false;
    std::unique_ptr<StagedContribution> staged;  // null: refused, its bytes are dropped
    std::uint64_t bytes_left = 0;
  };
  struct Outgoing {
    tributary::proto::ServerMessage message;
    std::shared_ptr<const TensorMap> tensors;
    std::uint32_t transfer_id = 0;
    std::string job;
    std::int64_t round = 0;
  };

  boost::asio::awaitable<Status> converse();
  boost::asio::awaitable<Result<net::Frame>> receive();
  boost::asio::awaitable<Status> greet();
  boost::asio::awaitable<void> write();
  boost::asio::awaitable<void> say_goodbye(Error error);
  void enqueue(Outgoing outgoing);
  Status handle(const tributary::proto::ClientMessage& message);
  Status begin_contribution(const tributary::proto::ContributionStart& start);
  Status add_chunk(const net::Chunk& chunk);
  Status finish_contribution(std::map<std::uint32_t, Incoming>::iterator position);
  void send_receipt(const Incoming& incoming, const Status& outcome);
  void send_constants(const std::string& job);
  void renew_certificate(const std::string& request_pem);
  void note_ledger_head(const tributary::proto::LedgerHead& head);
  void note_statement(const std::string& text);
  Status check_statement(const std::string& text) const;
  void account_received(const std::string& job, std::int64_t round);

  std::unique_ptr<net::Channel> channel_;
  Sessions& sessions_;
  TokenBucket messages_, statements_;
  MonotonicTime last_heard_;
  std::optional<Error> ended_;  // by this side
  std::map<std::uint32_t, Incoming> incoming_;
  std::deque<Outgoing> outgoing_;
  bool writing_ = false;
  bool unreachable_ = false;  // the peer went away
  std::uint32_t next_transfer_id_ = 1;
  std::uint64_t accounted_received_ = 0;
  std::int64_t ledger_count_ = -1;
};

// What sessions work with; all of it outlives them.
struct SessionServices {
  Coordinator* coordinator = nullptr;
  CertificateAuthority* authority = nullptr;
  Store* store = nullptr;
  Staging* staging = nullptr;
  const ServerConfig* config = nullptr;
  const Clock* clock = nullptr;
  PrivacyPlans* plans = nullptr;
};

class Sessions final : public CoordinatorTransport {
 public:
  Sessions() = default;
  // Before the first connection: the coordinator is made with this object as its transport.
  void set_services(SessionServices services) { services_ = services; }
  const SessionServices& services() const { return services_; }

  boost::asio::awaitable<void> serve(std::unique_ptr<net::Channel> channel);

  // --- CoordinatorTransport ---
  void offer_job(const std::string& client, std::shared_ptr<const JobOffer> offer) override;
  void start_round(const std::string& client, const std::string& job, std::int64_t round, std::int64_t last_counted,
                   std::shared_ptr<const TensorMap> broadcast) override;
  void close_round(const std::string& client, const std::string& job, std::int64_t round) override;
  void end_job(const std::string& client, const std::string& job, const std::string& outcome) override;

  // Ends the session of a site, if it has one; true if it had.
  bool end(std::string_view site, Errc code, const std::string& reason);
  // Ends the session of a site whose certificate no longer counts.
  void recheck(const std::string& site);
  // Asks a site for a fresh privacy statement; false if it is not connected.
  bool request_statement(std::string_view site);
  // Messages and tensors that wait to be sent, over all sessions.
  std::size_t queued() const;
  struct StatementCounts {
    std::uint64_t taken = 0, refused = 0;
  };
  const StatementCounts& statement_counts() const { return statement_counts_; }
  void end_all(Errc code, const std::string& reason);
  void beat();
  // From now on no session starts and no round is sent out; uploads that are under way go on.
  void drain() { draining_ = true; }
  bool is_draining() const { return draining_; }
  std::size_t uploads() const;
  std::size_t count() const { return sessions_.size(); }
  bool is_connected(std::string_view site) const { return sessions_.find(site) != sessions_.end(); }
  std::size_t serving() const { return serving_; }  // connections whose coroutine has not ended

  // The announcement of tensors that many sites get: their checksum is computed once.
  tributary::proto::Transfer announcement(const std::shared_ptr<const TensorMap>& tensors, std::uint32_t transfer_id);

 private:
  friend class Session;
  // Makes `session` its site's session, or says why not.
  Status admit(const std::shared_ptr<Session>& session);
  void remove(const Session& session);
  Session* find(std::string_view site);

  struct Announced {
    std::weak_ptr<const TensorMap> tensors;
    tributary::proto::Transfer transfer;
  };
  SessionServices services_;
  std::map<std::string, std::shared_ptr<Session>, std::less<>> sessions_;
  std::vector<Announced> announced_;
  std::size_t serving_ = 0;
  StatementCounts statement_counts_;
  bool draining_ = false;
};

}  // namespace trib::server
