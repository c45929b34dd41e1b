#include "client/session.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "common/failpoint.h"
#include "common/net/coroutine.h"
#include "common/net/enrolment.h"

namespace trib::client {
namespace {

namespace asio = boost::asio;

constexpr std::size_t most_open_transfers = 64;
constexpr Milliseconds shortest_heartbeat{50};
constexpr Milliseconds longest_heartbeat{60'000};
constexpr auto renewal_check = std::chrono::minutes(1);
constexpr Milliseconds goodbye_patience{2'000};

// Sleeps; false if the timer was cancelled.
asio::awaitable<bool> sleep_for(asio::steady_timer& timer, std::chrono::steady_clock::duration duration) {
  boost::system::error_code error;
  timer.expires_after(duration);
  co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, error));
  co_return !error;
}

}  // namespace

Session::Session(std::unique_ptr<net::Channel> channel, SiteJobs& jobs, SessionHost& host, std::uint64_t transfer_bytes)
    : channel_(std::move(channel)),
      jobs_(&jobs),
      host_(&host),
      transfer_bytes_(transfer_bytes),
      heartbeat_timer_(channel_->executor()),
      renewal_timer_(channel_->executor()) {}

asio::awaitable<Error> Session::run() {
  const auto self = shared_from_this();
  const Status talked = co_await talk();
  if (welcomed_) jobs_->disconnected();
  Error error = failure_ ? *failure_ : talked.error();
  if (!ended_ && error.code != Errc::unavailable && error.code != Errc::deadline_exceeded) {
    // The aggregator is there and is told why it loses us.
    proto::ClientMessage message;
    message.mutable_goodbye()->set_code(std::string(to_string(error.code)));
    message.mutable_goodbye()->set_reason(error.message);
    if (co_await channel_->send(message)) co_await channel_->finish(goodbye_patience);
  }
  ended_ = true;
  heartbeat_timer_.cancel();
  renewal_timer_.cancel();
  channel_->close();
  co_return error;
}

asio::awaitable<Status> Session::talk() {
  proto::ClientMessage first;
  *first.mutable_hello() = host_->hello();
  TRIB_CO_TRY(co_await channel_->send(first));
  while (true) {
    TRIB_CO_ASSIGN(const net::Frame frame, co_await channel_->receive());
    if (failure_) co_return *failure_;
    if (frame.kind == net::FrameKind::chunk) {
      TRIB_CO_TRY(add_chunk(frame.chunk));
    } else {
      TRIB_CO_ASSIGN(const proto::ServerMessage message, net::parse_message<proto::ServerMessage>(frame));
      TRIB_CO_TRY(handle(message));
    }
    if (failure_) co_return *failure_;
  }
}

void Session::close(const std::string& reason) {
  if (ended_) return;
  ended_ = true;
  failure_ = Error{Errc::cancelled, reason};
  asio::co_spawn(
      channel_->executor(),
      [self = shared_from_this(), reason]() -> asio::awaitable<void> {
        proto::ClientMessage message;
        message.mutable_goodbye()->set_code(std::string(to_string(Errc::cancelled)));
        message.mutable_goodbye()->set_reason(reason);
        if (co_await self->channel_->send(message)) co_await self->channel_->finish(goodbye_patience);
        self->channel_->close();
      },
      asio::detached);
}

void Session::fail(Error error) {
  if (!failure_) failure_ = std::move(error);
  channel_->close();
}

void Session::send(proto::ClientMessage message) {
  enqueue({.message = std::move(message), .tensors = nullptr});
}

void Session::upload(std::shared_ptr<const OutboxEntry> entry, const TensorSchema& expected, net::ChunkForm form) {
  if (!uploads_.emplace(entry->job, entry->round).second) return;
  Outgoing outgoing{.tensors = std::move(entry),
                    .transfer_id = next_transfer_id_++,
                    .form = takes_packed_chunks_ ? form : net::ChunkForm::plain};
  auto& start = *outgoing.message.mutable_contribution_start();
  start.set_job_id(outgoing.tensors->job);
  start.set_round(static_cast<std::uint32_t>(outgoing.tensors->round));
  start.set_weight(outgoing.tensors->weight);
  start.set_is_private(outgoing.tensors->is_private);
  *start.mutable_transfer() = net::announce(outgoing.transfer_id, outgoing.tensors->tensors, expected);
  enqueue(std::move(outgoing));
}

void Session::enqueue(Outgoing outgoing) {
  if (ended_) return;
  outgoing_.push_back(std::move(outgoing));
  if (writing_) return;
  writing_ = true;
  asio::co_spawn(
      channel_->executor(), [self = shared_from_this()] { return self->write(); }, asio::detached);
}

// One writer, so that messages arrive in the order of send(). Tensors go beside it: a heartbeat does not wait for them.
asio::awaitable<void> Session::write() {
  while (!outgoing_.empty() && !ended_) {
    const Outgoing next = std::move(outgoing_.front());
    outgoing_.pop_front();
    if (const Status sent = co_await channel_->send(next.message); !sent) {
      fail(sent.error());
      break;
    }
    if (next.tensors) {
      TRIB_FAILPOINT("client.mid_upload");
      asio::co_spawn(
          channel_->executor(),
          [self = shared_from_this(), tensors = next.tensors, id = next.transfer_id, form = next.form] {
            return self->send_tensors(tensors, id, form);
          },
          asio::detached);
    }
  }
  writing_ = false;
}

asio::awaitable<void> Session::send_tensors(std::shared_ptr<const OutboxEntry> entry, std::uint32_t transfer_id,
                                            net::ChunkForm form) {
  const Status sent = co_await net::send_tensors(*channel_, transfer_id, entry->tensors, form);
  if (!sent && !ended_) fail(sent.error());
}

asio::awaitable<void> Session::beat() {
  const auto self = shared_from_this();
  while (co_await sleep_for(heartbeat_timer_, heartbeat_interval_)) {
    if (ended_) co_return;
    proto::ClientMessage message;
    message.mutable_heartbeat();
    send(std::move(message));
  }
}

asio::awaitable<void> Session::renew() {
  const auto self = shared_from_this();
  do {
    if (ended_) co_return;
    if (auto request = host_->renewal_request()) {
      proto::ClientMessage message;
      message.mutable_renew_certificate()->set_certificate_request_pem(*request);
      send(std::move(message));
    }
  } while (co_await sleep_for(renewal_timer_, renewal_check));
}

Status Session::handle(const proto::ServerMessage& message) {
  using Body = proto::ServerMessage::BodyCase;
  if (message.body_case() == Body::kGoodbye) {
    const auto& goodbye = message.goodbye();
    return Error{net::errc_from_text(goodbye.code()), "the aggregator ended the connection: " + goodbye.reason()};
  }
  if (!welcomed_) {
    if (message.body_case() != Body::kWelcome) {
      return Error{Errc::protocol_error, "the aggregator's first message is not a welcome"};
    }
    const auto& welcome = message.welcome();
    if (welcome.protocol_version() != protocol_version) {
      return Error{
          Errc::protocol_error,
          fmt::format("the aggregator ({}) speaks protocol version {}, this client version {}: upgrade the older one",
                      welcome.software_version(), welcome.protocol_version(), protocol_version)};
    }
    TRIB_TRY(host_->welcomed(welcome));
    welcomed_ = true;
    takes_packed_chunks_ = welcome.takes_packed_chunks();
    if (welcome.heartbeat_interval_ms() > 0) {
      heartbeat_interval_ =
          std::clamp(Milliseconds(welcome.heartbeat_interval_ms()), shortest_heartbeat, longest_heartbeat);
    }
    const auto self = shared_from_this();
    asio::co_spawn(
        channel_->executor(), [self] { return self->beat(); }, asio::detached);
    asio::co_spawn(
        channel_->executor(), [self] { return self->renew(); }, asio::detached);
    jobs_->connected(*this);
    return {};
  }
  switch (message.body_case()) {
    case Body::kHeartbeat:
      return {};
    case Body::kJobOffer:
      return jobs_->offered(message.job_offer());
    case Body::kConstantsStart: {
      const auto& start = message.constants_start();
      return begin_transfer(start.transfer(), jobs_->constants_started(start.job_id()), start.job_id(), 0);
    }
    case Body::kRoundStart: {
      const auto& start = message.round_start();
      if (start.round() == 0) return Error{Errc::protocol_error, "rounds are counted from 1, and round 0 was started"};
      return begin_transfer(start.transfer(),
                            jobs_->round_started(start.job_id(), start.round(), start.last_counted_round()),
                            start.job_id(), start.round());
    }
    case Body::kContributionReceipt: {
      const auto& receipt = message.contribution_receipt();
      uploads_.erase({receipt.job_id(), receipt.round()});
      jobs_->receipt(receipt.job_id(), receipt.round(), receipt.accepted(), receipt.reason());
      return {};
    }
    case Body::kRoundClosed:
      jobs_->round_closed(message.round_closed().job_id(), message.round_closed().round());
      return {};
    case Body::kJobEnded:
      jobs_->job_ended(message.job_ended().job_id(), message.job_ended().outcome());
      return {};
    case Body::kStatementRequest:
      jobs_->statement_requested();
      return {};
    case Body::kCertificateIssued:
      return host_->renewed(message.certificate_issued().certificate_pem());
    case Body::kWelcome:
      return Error{Errc::protocol_error, "the aggregator said welcome twice"};
    default:
      return Error{Errc::protocol_error, "the aggregator sent a message that this client does not know"};
  }
}

Status Session::begin_transfer(const proto::Transfer& transfer, const TensorSchema* schema, std::string job,
                               std::int64_t round) {
  if (incoming_.contains(transfer.id())) {
    return Error{Errc::protocol_error, fmt::format("transfer {} was started twice", transfer.id())};
  }
  if (incoming_.size() >= most_open_transfers) {
    return Error{Errc::limit_exceeded, fmt::format("more than {} transfers at once", most_open_transfers)};
  }
  Incoming incoming{.bytes_left = transfer.byte_count(), .job = std::move(job), .round = round};
  if (schema != nullptr) {
    TRIB_ASSIGN(incoming.receiver, net::TensorReceiver::begin(transfer, *schema, transfer_bytes_));
  }
  const auto position = incoming_.emplace(transfer.id(), std::move(incoming)).first;
  return position->second.bytes_left == 0 ? finish_transfer(position) : Status{};
}

Status Session::add_chunk(const net::Chunk& chunk) {
  const auto position = incoming_.find(chunk.transfer_id);
  if (position == incoming_.end()) {
    return Error{Errc::protocol_error,
                 fmt::format("a chunk belongs to transfer {}, which was not announced", chunk.transfer_id)};
  }
  Incoming& incoming = position->second;
  if (incoming.receiver) {
    TRIB_ASSIGN(const bool complete, incoming.receiver->add(chunk));
    return complete ? finish_transfer(position) : Status{};
  }
  if (chunk.bytes.size() > incoming.bytes_left) {
    return Error{Errc::protocol_error,
                 fmt::format("transfer {} has more bytes than were announced", chunk.transfer_id)};
  }
  incoming.bytes_left -= chunk.bytes.size();
  return incoming.bytes_left == 0 ? finish_transfer(position) : Status{};
}

Status Session::finish_transfer(std::map<std::uint32_t, Incoming>::iterator position) {
  Incoming incoming = std::move(position->second);
  incoming_.erase(position);
  if (!incoming.receiver) return {};
  TRIB_ASSIGN(TensorMap tensors, incoming.receiver->finish());
  if (incoming.round == 0) return jobs_->constants_arrived(incoming.job, tensors);
  jobs_->broadcast_arrived(incoming.job, incoming.round, std::move(tensors));
  return {};
}

}  // namespace trib::client
