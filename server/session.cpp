#include "server/session.h"

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <cmath>
#include <cstring>

#include "common/failpoint.h"
#include "common/log.h"
#include "common/net/coroutine.h"
#include "common/net/x509.h"
#include "privacy/statement.h"

namespace trib::server {
namespace {

namespace asio = boost::asio;
using tributary::proto::ClientMessage;
using tributary::proto::ServerMessage;
using tributary::proto::Transfer;

constexpr std::size_t most_open_transfers = 64;
constexpr std::size_t small_chunk_bytes = 1024;  // smaller ones count as messages for the rate limit
constexpr Milliseconds goodbye_patience{2'000};
constexpr double burst_seconds = 5.0;
constexpr double statements_per_second = 0.2, statement_burst = 5.0;  // a client sends one a minute by itself

std::string_view as_text(const Sha256& digest) {
  return {reinterpret_cast<const char*>(digest.data()), digest.size()};
}

// Whether the site should not come back with the same bytes, rather than merely be told.
bool is_bad_input(Errc code) {
  return code == Errc::protocol_error || code == Errc::invalid_argument || code == Errc::limit_exceeded;
}

// Whether the site should come back later and send again.
bool is_our_trouble(Errc code) {
  return code == Errc::unavailable || code == Errc::no_space || code == Errc::io_error;
}

}  // namespace

Session::Session(std::unique_ptr<net::Channel> channel, Sessions& sessions)
    : channel_(std::move(channel)),
      sessions_(sessions),
      messages_(static_cast<double>(sessions.services().config->messages_per_second),
                burst_seconds * static_cast<double>(sessions.services().config->messages_per_second),
                sessions.services().clock->now()),
      statements_(statements_per_second, statement_burst, sessions.services().clock->now()),
      last_heard_(sessions.services().clock->now()) {}

asio::awaitable<void> Session::run() {
  const auto self = shared_from_this();
  const Status talked = co_await converse();
  const Error error = ended_ ? *ended_ : talked.error();
  const bool expected = error.code == Errc::unavailable || error.code == Errc::cancelled;
  log_line(expected ? spdlog::level::info : spdlog::level::warn, {.client = site()}, "session of '{}' ({}) ended: {}",
           site(), remote_address(), error.message);
  incoming_.clear();
  sessions_.remove(*this);
  if (!ended_) co_await say_goodbye(error);
  channel_->close();
}

asio::awaitable<Status> Session::converse() {
  TRIB_CO_TRY(co_await greet());
  while (true) {
    TRIB_CO_ASSIGN(const net::Frame frame, co_await receive());
    if (ended_) co_return *ended_;
    last_heard_ = sessions_.services().clock->now();
    const bool is_chunk = frame.kind == net::FrameKind::chunk;
    if ((!is_chunk || frame.chunk.bytes.size() < small_chunk_bytes) && !messages_.take(last_heard_))
      co_return Error{Errc::limit_exceeded, "more messages than limits.messages_per_second = " +
                                                std::to_string(sessions_.services().config->messages_per_second) +
                                                " allows"};
    if (is_chunk) {
      TRIB_CO_TRY(add_chunk(frame.chunk));
    } else {
      TRIB_CO_ASSIGN(const ClientMessage message, net::parse_message<ClientMessage>(frame));
      TRIB_CO_TRY(handle(message));
    }
    if (ended_) co_return *ended_;
  }
}

asio::awaitable<Result<net::Frame>> Session::receive() {
  Result<net::Frame> frame = co_await channel_->receive();
  // After these two the peer is still there, and is told why.
  if (!frame && frame.error().code != Errc::protocol_error && frame.error().code != Errc::limit_exceeded)
    unreachable_ = true;
  co_return frame;
}

asio::awaitable<Status> Session::greet() {
  TRIB_CO_ASSIGN(const net::Frame frame, co_await receive());
  TRIB_CO_ASSIGN(const ClientMessage first, net::parse_message<ClientMessage>(frame));
  if (!first.has_hello()) co_return Error{Errc::protocol_error, "the first message of a session must be a Hello"};
  const auto& hello = first.hello();
  if (hello.protocol_version() != protocol_version)
    co_return Error{Errc::unsupported, fmt::format("the client ({}) speaks protocol version {}, this aggregator ({}) "
                                                   "version {}: upgrade the older one",
                                                   hello.software_version(), hello.protocol_version(),
                                                   TRIBUTARY_VERSION, protocol_version)};
  TRIB_CO_TRY(sessions_.admit(shared_from_this()));
  const SessionServices& services = sessions_.services();
  ServerMessage message;
  auto& welcome = *message.mutable_welcome();
  welcome.set_protocol_version(protocol_version);
  welcome.set_software_version(TRIBUTARY_VERSION);
  welcome.set_federation(services.config->federation);
  welcome.set_heartbeat_interval_ms(static_cast<std::uint32_t>(services.config->heartbeat_interval.count()));
  welcome.set_takes_packed_chunks(true);
  TRIB_CO_ASSIGN(const auto known, services.store->ledger_head(site(), ""));
  if (known) {
    welcome.mutable_known_ledger_head()->set_count(known->count);
    welcome.mutable_known_ledger_head()->set_hash(std::string(as_text(known->hash)));
    if (hello.ledger_head().count() == known->count && hello.ledger_head().hash() != as_text(known->hash))
      co_return Error{
          Errc::permission_denied,
          fmt::format(
              "the ledger of '{}' is not the one that was known here: its entry {} has another hash, so it was "
              "edited or replaced. Restore the newest copy of ledger.jsonl; if there is none, keep the file for "
              "the record, take it out of the site's directory, and start the client again: what is known here "
              "is then charged at its worst",
              site(), known->count)};
    if (hello.ledger_head().count() < known->count)
      log_warn({.client = site()},
               "'{}' has a ledger of {} entries, {} were known: restored from a backup? It will charge the gap", site(),
               hello.ledger_head().count(), known->count);
  }
  send(std::move(message));
  note_ledger_head(hello.ledger_head());
  log_info({.client = site()}, "'{}' connected from {} ({}, device {})", site(), remote_address(),
           hello.software_version(), hello.device());
  services.coordinator->client_connected(
      site(), {.software_version = hello.software_version(), .device = hello.device(), .address = remote_address()});
  co_return Status();
}

void Session::note_ledger_head(const tributary::proto::LedgerHead& head) {
  if (head.count() <= ledger_count_ || head.hash().size() != Sha256{}.size()) return;
  ledger_count_ = head.count();
  LedgerHeadRecord record{head.count(), {}, sessions_.services().clock->wall_now()};
  std::memcpy(record.hash.data(), head.hash().data(), record.hash.size());
  const Status noted = sessions_.services().store->advance_ledger_head(site(), head.data_set(), record);
  if (!noted)
    log_error({.client = site()}, "the ledger head of '{}' is not recorded: {}", site(), noted.error().message);
}

// A statement is the site's own word: it must be signed with the key of its certificate and be about itself. Its
// figures are for who reads it to recompute (`trib privacy verify`).
Status Session::check_statement(const std::string& text) const {
  Store& store = *sessions_.services().store;
  TRIB_ASSIGN(const privacy::Statement statement, privacy::read_statement(text, site()));
  if (statement.site != site())
    return Error{Errc::permission_denied, fmt::format("it is the statement of '{}'", statement.site)};
  TRIB_ASSIGN(const auto record, store.find_certificate(peer().serial));
  if (!record) return Error{Errc::not_found, "the certificate of this session is not known any more"};
  TRIB_ASSIGN(const auto certificate, net::Certificate::from_pem(record->pem));
  if (to_hex(certificate.public_key_sha256()) != statement.key_sha256)
    return Error{
        Errc::permission_denied,
        fmt::format("it is signed with the key {}…, and the site's certificate is for {}…",
                    statement.key_sha256.substr(0, 16), to_hex(certificate.public_key_sha256()).substr(0, 16))};
  TRIB_ASSIGN(const auto known, store.statement(site()));
  if (known && statement.head_count < known->head_count)
    return Error{Errc::already_exists, fmt::format("it is of entry {} of the ledger, and one of entry {} is known",
                                                   statement.head_count, known->head_count)};
  return store.put_statement(site(), {text, sessions_.services().clock->wall_now(), statement.head_count});
}

// It changes nothing that a site may do: one that is not taken costs the site no session.
void Session::note_statement(const std::string& text) {
  const bool is_in_time = statements_.take(sessions_.services().clock->now());
  const Status taken = is_in_time ? check_statement(text) : Status(Error{Errc::limit_exceeded, "too many in a row"});
  auto& counts = sessions_.statement_counts_;
  ++(taken ? counts.taken : counts.refused);
  if (!taken)
    log_warn({.client = site()}, "the privacy statement of '{}' is not kept: {}", site(), taken.error().message);
}

Status Session::handle(const ClientMessage& message) {
  Coordinator& coordinator = *sessions_.services().coordinator;
  std::string job;
  std::int64_t round = 0;
  // What comes too late, because a round closed or a job ended while it was under way, is nobody's fault.
  const auto note = [&](std::string_view what, const Status& status) {
    if (!status)
      log_debug({.job = job, .round = round, .client = site()}, "'{}': {}: {}", site(), what, status.error().message);
  };
  switch (message.body_case()) {
    case ClientMessage::kHeartbeat:
      break;
    case ClientMessage::kJobReply: {
      const auto& reply = message.job_reply();
      job = reply.job_id();
      std::optional<SiteBudget> budget;
      if (reply.delta() > 0.0) budget = SiteBudget{reply.epsilon_spent(), reply.epsilon_budget(), reply.delta()};
      note("job reply",
           coordinator.job_reply(site(), job, reply.accepted(), reply.reason(), reply.declared_records(), budget));
      break;
    }
    case ClientMessage::kFetchConstants:
      job = message.fetch_constants().job_id();
      send_constants(job);
      break;
    case ClientMessage::kRoundReply: {
      const auto& reply = message.round_reply();
      job = reply.job_id();
      round = reply.round();
      note("round reply", coordinator.round_reply(site(), job, round,
                                                  {.accepted = reply.accepted(),
                                                   .reason = reply.reason(),
                                                   .over_budget = reply.over_budget(),
                                                   .final = reply.final()}));
      break;
    }
    case ClientMessage::kProgress: {
      const auto& progress = message.progress();
      job = progress.job_id();
      round = progress.round();
      if (progress.has_ledger_head()) note_ledger_head(progress.ledger_head());
      coordinator.progress(site(), job,
                           {.round = round,
                            .step = progress.step(),
                            .steps = progress.steps(),
                            .epsilon_spent = progress.epsilon_spent(),
                            .epsilon_budget = progress.epsilon_budget(),
                            .delta = progress.delta()});
      break;
    }
    case ClientMessage::kContributionStart:
      TRIB_TRY(begin_contribution(message.contribution_start()));
      job = message.contribution_start().job_id();
      round = message.contribution_start().round();
      break;
    case ClientMessage::kRenewCertificate:
      renew_certificate(message.renew_certificate().certificate_request_pem());
      break;
    case ClientMessage::kStatement:
      note_statement(message.statement().text());
      break;
    case ClientMessage::kGoodbye:
      unreachable_ = true;
      return Error{Errc::unavailable, "the site said goodbye: " + message.goodbye().reason()};
    case ClientMessage::kHello:
      return Error{Errc::protocol_error, "a second Hello in one session"};
    case ClientMessage::BODY_NOT_SET:
      return Error{Errc::protocol_error, "a message of a kind that this aggregator does not know"};
  }
  account_received(job, round);
  return {};
}

void Session::send_constants(const std::string& job) {
  const auto offer = sessions_.services().coordinator->offer(job);
  if (!offer) {
    log_debug({.job = job, .client = site()}, "'{}' asks for the constants of {}: {}", site(), job,
              offer.error().message);
    return;
  }
  // Asking again while they are under way gets them once.
  for (const Outgoing& outgoing : outgoing_)
    if (outgoing.tensors == (*offer)->constants) return;
  ServerMessage message;
  message.mutable_constants_start()->set_job_id(job);
  send_tensors(
      std::move(message), [](ServerMessage& m) { return m.mutable_constants_start()->mutable_transfer(); },
      (*offer)->constants, job, 0);
}

void Session::renew_certificate(const std::string& request_pem) {
  const auto certificate = sessions_.services().authority->renew(peer(), request_pem);
  if (!certificate) {
    log_warn({.client = site()}, "the certificate of '{}' is not renewed: {}", site(), certificate.error().message);
    return;
  }
  log_info({.client = site()}, "'{}' got certificate {} until {}", site(), certificate->serial(),
           to_iso8601(certificate->not_after()));
  ServerMessage message;
  message.mutable_certificate_issued()->set_certificate_pem(certificate->to_pem());
  send(std::move(message));
}

// ---------------------------------------------------------------------------------------------------------------
// Contributions

Status Session::begin_contribution(const tributary::proto::ContributionStart& start) {
  const SessionServices& services = sessions_.services();
  const Transfer& transfer = start.transfer();
  if (incoming_.contains(transfer.id()))
    return Error{Errc::protocol_error, fmt::format("transfer {} is under way and was announced again", transfer.id())};
  if (incoming_.size() >= most_open_transfers)
    return Error{Errc::limit_exceeded, fmt::format("more than {} transfers at once", most_open_transfers)};
  if (transfer.byte_count() > services.config->transfer_bytes)
    return Error{Errc::limit_exceeded, fmt::format("a contribution of {} bytes is over limits.transfer_bytes = {}",
                                                   transfer.byte_count(), services.config->transfer_bytes)};
  Incoming incoming;
  incoming.job = start.job_id();
  incoming.round = start.round();
  incoming.weight = start.weight();
  incoming.is_private = start.is_private();
  incoming.bytes_left = transfer.byte_count();
  Status allowed = services.coordinator->check_contribution(site(), incoming.job, incoming.round, incoming.weight,
                                                            incoming.is_private);
  if (allowed) {
    const auto offer = services.coordinator->offer(incoming.job);
    if (offer) {
      auto staged = services.staging->begin(transfer, (*offer)->contribution_schema, services.config->transfer_bytes);
      if (staged) {
        incoming.staged = std::move(*staged);
      } else {
        allowed = staged.error();
      }
    } else {
      allowed = offer.error();
    }
  }
  if (!allowed) send_receipt(incoming, allowed);
  if (!allowed && (is_bad_input(allowed.error().code) || is_our_trouble(allowed.error().code))) return allowed.error();
  const auto position = incoming_.emplace(transfer.id(), std::move(incoming)).first;
  return position->second.bytes_left == 0 ? finish_contribution(position) : Status();
}

Status Session::add_chunk(const net::Chunk& chunk) {
  const auto position = incoming_.find(chunk.transfer_id);
  if (position == incoming_.end())
    return Error{Errc::protocol_error,
                 fmt::format("a chunk of transfer {}, which was not announced", chunk.transfer_id)};
  Incoming& incoming = position->second;
  account_received(incoming.job, incoming.round);
  if (chunk.bytes.size() > incoming.bytes_left)
    return Error{Errc::protocol_error,
                 fmt::format("transfer {} has more bytes than were announced", chunk.transfer_id)};
  if (incoming.staged) TRIB_TRY(incoming.staged->add(chunk));
  incoming.bytes_left -= chunk.bytes.size();
  TRIB_FAILPOINT("server.mid_upload");
  return incoming.bytes_left == 0 ? finish_contribution(position) : Status();
}

Status Session::finish_contribution(std::map<std::uint32_t, Incoming>::iterator position) {
  Incoming incoming = std::move(position->second);
  incoming_.erase(position);
  if (!incoming.staged) return {};
  auto tensors = incoming.staged->finish();
  Status counted;
  if (tensors) {
    TRIB_FAILPOINT("server.before_fold");
    counted = sessions_.services().coordinator->contribution(site(), incoming.job, incoming.round, incoming.weight,
                                                             incoming.is_private, std::move(*tensors));
    TRIB_FAILPOINT("server.after_fold");
  } else {
    counted = tensors.error();
  }
  send_receipt(incoming, counted);
  if (!counted && (is_bad_input(counted.error().code) || is_our_trouble(counted.error().code))) return counted.error();
  return {};
}

void Session::send_receipt(const Incoming& incoming, const Status& outcome) {
  // A contribution that was counted before is safe: the site need not know that it sent it twice.
  const bool is_counted = outcome.ok() || outcome.error().code == Errc::already_exists;
  if (!is_counted)
    log_warn({.job = incoming.job, .round = incoming.round, .client = site()},
             "contribution of '{}' to {} round {} not taken: {}", site(), incoming.job, incoming.round,
             outcome.error().message);
  ServerMessage message;
  auto& receipt = *message.mutable_contribution_receipt();
  receipt.set_job_id(incoming.job);
  receipt.set_round(static_cast<std::uint32_t>(incoming.round));
  receipt.set_accepted(is_counted);
  if (!is_counted) receipt.set_reason(outcome.error().message);
  send(std::move(message), incoming.job, incoming.round);
}

void Session::account_received(const std::string& job, std::int64_t round) {
  const std::uint64_t received = channel_->bytes_received();
  if (!job.empty())
    sessions_.services().coordinator->account_bytes(site(), job, round, 0, received - accounted_received_);
  accounted_received_ = received;
}

// ---------------------------------------------------------------------------------------------------------------
// Sending

void Session::send(ServerMessage message, std::string job, std::int64_t round) {
  enqueue({.message = std::move(message), .tensors = nullptr, .transfer_id = 0, .job = std::move(job), .round = round});
}

void Session::send_tensors(ServerMessage message, Transfer* (*transfer_of)(ServerMessage&),
                           std::shared_ptr<const TensorMap> tensors, std::string job, std::int64_t round) {
  const std::uint32_t id = next_transfer_id_++;
  *transfer_of(message) = sessions_.announcement(tensors, id);
  enqueue({.message = std::move(message),
           .tensors = std::move(tensors),
           .transfer_id = id,
           .job = std::move(job),
           .round = round});
}

void Session::enqueue(Outgoing outgoing) {
  if (ended_ || unreachable_) return;
  outgoing_.push_back(std::move(outgoing));
  if (writing_) return;
  writing_ = true;
  asio::co_spawn(
      channel_->executor(), [self = shared_from_this()] { return self->write(); }, asio::detached);
}

void Session::beat() {
  if (writing_) return;
  ServerMessage message;
  message.mutable_heartbeat();
  send(std::move(message));
}

// The one writer of a session: what is queued goes out in order, and tensors follow their announcement.
asio::awaitable<void> Session::write() {
  const auto self = shared_from_this();
  while (!outgoing_.empty() && !ended_) {
    // It stays at the front while it is sent, so that the queue shows what is under way.
    const Outgoing& next = outgoing_.front();
    const std::uint64_t before = channel_->bytes_sent();
    Status sent = co_await channel_->send(next.message);
    if (sent && next.tensors) sent = co_await net::send_tensors(*channel_, next.transfer_id, *next.tensors);
    if (!sent) {  // receive() ends with the same error
      unreachable_ = true;
      break;
    }
    if (!next.job.empty())
      sessions_.services().coordinator->account_bytes(site(), next.job, next.round, channel_->bytes_sent() - before, 0);
    outgoing_.pop_front();
  }
  outgoing_.clear();
  writing_ = false;
}

void Session::end(Errc code, std::string reason) {
  if (ended_) return;
  ended_ = Error{code, std::move(reason)};
  asio::co_spawn(
      channel_->executor(),
      [self = shared_from_this()]() -> asio::awaitable<void> {
        co_await self->say_goodbye(*self->ended_);
        self->channel_->close();
      },
      asio::detached);
}

asio::awaitable<void> Session::say_goodbye(Error error) {
  if (unreachable_) co_return;
  ServerMessage message;
  message.mutable_goodbye()->set_code(std::string(to_string(error.code)));
  message.mutable_goodbye()->set_reason(error.message);
  const Status sent = co_await channel_->send(message);
  if (sent) co_await channel_->finish(goodbye_patience);
}

// ---------------------------------------------------------------------------------------------------------------
// All of them

asio::awaitable<void> Sessions::serve(std::unique_ptr<net::Channel> channel) {
  const auto session = std::make_shared<Session>(std::move(channel), *this);
  ++serving_;
  co_await session->run();
  --serving_;
}

Status Sessions::admit(const std::shared_ptr<Session>& session) {
  const std::string& site = session->site();
  if (draining_) return Error{Errc::unavailable, "the aggregator is shutting down: come back later"};
  const auto found = sessions_.find(site);
  if (found != sessions_.end()) {
    const std::shared_ptr<Session> other = found->second;
    const auto silence = services_.clock->now() - other->last_heard();
    if (silence < 2 * services_.config->heartbeat_interval)
      return Error{Errc::already_exists,
                   fmt::format("another session of '{}' is alive, from {}: stop the other client, or give this one a "
                               "name of its own with a new invite",
                               site, other->remote_address())};
    remove(*other);
    other->end(Errc::already_exists,
               "a newer session of '" + site + "' takes its place: nothing was heard from this one");
  } else if (sessions_.size() >= static_cast<std::size_t>(services_.config->clients)) {
    return Error{Errc::limit_exceeded,
                 fmt::format("limits.clients = {} sites are connected already", services_.config->clients)};
  }
  sessions_[site] = session;
  return {};
}

void Sessions::remove(const Session& session) {
  const auto found = sessions_.find(session.site());
  if (found == sessions_.end() || found->second.get() != &session) return;
  sessions_.erase(found);
  services_.coordinator->client_disconnected(session.site());
}

Session* Sessions::find(std::string_view site) {
  const auto found = sessions_.find(site);
  return found == sessions_.end() ? nullptr : found->second.get();
}

Transfer Sessions::announcement(const std::shared_ptr<const TensorMap>& tensors, std::uint32_t transfer_id) {
  std::erase_if(announced_, [](const Announced& entry) { return entry.tensors.expired(); });
  for (const Announced& entry : announced_) {
    if (entry.tensors.lock() != tensors) continue;
    Transfer transfer = entry.transfer;
    transfer.set_id(transfer_id);
    return transfer;
  }
  Transfer transfer = net::announce(transfer_id, *tensors, tensors->schema());
  announced_.push_back({tensors, transfer});
  return transfer;
}

void Sessions::offer_job(const std::string& client, std::shared_ptr<const JobOffer> offer) {
  Session* session = find(client);
  if (session == nullptr) return;
  ServerMessage message;
  auto& job = *message.mutable_job_offer();
  job.set_job_id(offer->job_id);
  job.set_job_file(offer->job_file);
  *job.mutable_broadcast_schema() = net::to_proto(offer->broadcast_schema);
  *job.mutable_contribution_schema() = net::to_proto(offer->contribution_schema);
  if (!offer->constants->empty()) {
    *job.mutable_constants_schema() = net::to_proto(offer->constants->schema());
    job.set_constants_sha256(std::string(as_text(offer->constants_sha256)));
  }
  session->send(std::move(message), offer->job_id);
}

void Sessions::start_round(const std::string& client, const std::string& job, std::int64_t round,
                           std::int64_t last_counted, std::shared_ptr<const TensorMap> broadcast) {
  Session* session = find(client);
  if (session == nullptr || draining_) return;
  ServerMessage message;
  message.mutable_round_start()->set_job_id(job);
  message.mutable_round_start()->set_round(static_cast<std::uint32_t>(round));
  message.mutable_round_start()->set_last_counted_round(static_cast<std::uint32_t>(last_counted));
  session->send_tensors(
      std::move(message), [](ServerMessage& m) { return m.mutable_round_start()->mutable_transfer(); },
      std::move(broadcast), job, round);
}

void Sessions::close_round(const std::string& client, const std::string& job, std::int64_t round) {
  Session* session = find(client);
  if (session == nullptr) return;
  ServerMessage message;
  message.mutable_round_closed()->set_job_id(job);
  message.mutable_round_closed()->set_round(static_cast<std::uint32_t>(round));
  session->send(std::move(message), job, round);
}

void Sessions::end_job(const std::string& client, const std::string& job, const std::string& outcome) {
  Session* session = find(client);
  if (session == nullptr) return;
  ServerMessage message;
  message.mutable_job_ended()->set_job_id(job);
  message.mutable_job_ended()->set_outcome(outcome);
  session->send(std::move(message), job);
}

bool Sessions::end(std::string_view site, Errc code, const std::string& reason) {
  const auto found = sessions_.find(site);
  if (found == sessions_.end()) return false;
  const std::shared_ptr<Session> session = found->second;
  remove(*session);
  session->end(code, reason);
  return true;
}

void Sessions::recheck(const std::string& site) {
  Session* session = find(site);
  if (session == nullptr) return;
  const Status checked = services_.authority->check(session->peer());
  if (!checked) end(site, checked.error().code, checked.error().message);
}

bool Sessions::request_statement(std::string_view site) {
  Session* session = find(site);
  if (session == nullptr) return false;
  ServerMessage message;
  message.mutable_statement_request();
  session->send(std::move(message));
  return true;
}

std::size_t Sessions::queued() const {
  std::size_t count = 0;
  for (const auto& [site, session] : sessions_) count += session->queued();
  return count;
}

void Sessions::end_all(Errc code, const std::string& reason) {
  const auto sessions = sessions_;
  for (const auto& [site, session] : sessions) end(site, code, reason);
}

void Sessions::beat() {
  for (const auto& [site, session] : sessions_) session->beat();
}

std::size_t Sessions::uploads() const {
  return static_cast<std::size_t>(
      std::ranges::count_if(sessions_, [](const auto& entry) { return entry.second->is_uploading(); }));
}

}  // namespace trib::server
