#include "server/admin.h"

#include <spdlog/spdlog.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/json.hpp>

#include "common/files.h"
#include "common/log.h"
#include "common/net/coroutine.h"
#include "common/net/enrolment.h"
#include "server/completion.h"
#include "server/privacy_report.h"

namespace trib::server {
namespace {

namespace asio = boost::asio;
namespace json = boost::json;
using tributary::proto::AdminReply;
using tributary::proto::AdminRequest;

AdminReply failure(const Error& error) {
  AdminReply reply;
  reply.set_error_code(std::string(to_string(error.code)));
  reply.set_error(error.message);
  return reply;
}

AdminReply document(Result<std::string> text) {
  if (!text) return failure(text.error());
  AdminReply reply;
  reply.set_json(std::move(*text));
  return reply;
}

// The files of a directory, names relative to it.
Result<AdminReply> files_of(const std::filesystem::path& directory) {
  AdminReply reply;
  json::array names;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    if (!entry.is_regular_file()) continue;
    auto* file = reply.add_files();
    file->set_name(std::filesystem::relative(entry.path(), directory).string());
    TRIB_ASSIGN(*file->mutable_content(), read_file(entry.path()));
    names.emplace_back(file->name());
  }
  reply.set_json(json::serialize(json::object{{"files", std::move(names)}}));
  return reply;
}

}  // namespace

// One operator's connection. The next request is read while a stream of answers goes out, so that the stream ends when
// the operator leaves or asks for something else.
struct Admin::Conversation : std::enable_shared_from_this<Admin::Conversation> {
  explicit Conversation(std::unique_ptr<net::Channel> connected)
      : channel(std::move(connected)), changed(channel->executor()) {}

  void read_next() {
    if (is_reading || received) return;
    is_reading = true;
    asio::co_spawn(
        channel->executor(), [self = shared_from_this()] { return self->read(); }, asio::detached);
  }

  asio::awaitable<void> read() {
    const auto self = shared_from_this();
    const auto frame = co_await channel->receive();
    if (frame) {
      received = net::parse_message<AdminRequest>(*frame);
    } else {
      received = frame.error();
      has_left = true;
    }
    is_reading = false;
    changed.set(true);
  }

  std::unique_ptr<net::Channel> channel;
  Completion<bool> changed;  // a request has come, or the watched job has changed
  bool is_reading = false;
  bool has_left = false;
  std::optional<Result<AdminRequest>> received;
};

Admin::Admin(const SessionServices& services, Sessions& sessions, std::vector<net::HostPort> addresses)
    : services_(services), sessions_(sessions), addresses_(std::move(addresses)), started_(services.clock->now()) {}

net::Limits Admin::limits(const net::Limits& sessions) {
  net::Limits limits = sessions;
  limits.message_bytes = 256u << 20;
  limits.idle_timeout = Milliseconds(600'000);  // an operator may think between two requests
  return limits;
}

asio::awaitable<void> Admin::serve(std::unique_ptr<net::Channel> connected) {
  const auto conversation = std::make_shared<Conversation>(std::move(connected));
  net::Channel& channel = *conversation->channel;
  const bool is_remote = !channel.protocol().empty();
  if (is_remote) spdlog::info("operator '{}' connected from {}", channel.peer().name, channel.remote_address());
  Status going_on;
  while (going_on) {
    conversation->read_next();
    while (!conversation->received) co_await conversation->changed.wait();
    Result<AdminRequest> request = std::move(*conversation->received);
    conversation->received.reset();
    if (conversation->has_left) break;
    if (request && is_remote) {
      if (const Status allowed = services_.authority->check(channel.peer()); !allowed) request = allowed.error();
    }
    if (request) {
      going_on = co_await answer(*conversation, *request);
    } else {
      going_on = co_await channel.send(failure(request.error()));
    }
  }
  if (is_remote) spdlog::info("operator '{}' left", channel.peer().name);
  channel.close();
}

asio::awaitable<Status> Admin::answer(Conversation& conversation, const AdminRequest& request) {
  net::Channel& channel = *conversation.channel;
  AdminReply reply;
  switch (request.body_case()) {
    case AdminRequest::kCreateInvite:
      reply = document(create_invite(request.create_invite()));
      break;
    case AdminRequest::kRevokeSite:
      reply = document(revoke(request.revoke_site()));
      break;
    case AdminRequest::kListSites:
      reply = document(services_.coordinator->sites_json());
      break;
    case AdminRequest::kSubmitJob:
      reply = document(submit(request.submit_job()));
      break;
    case AdminRequest::kListJobs:
      reply = document(services_.coordinator->jobs_json());
      break;
    case AdminRequest::kShowJob:
      reply = document(services_.coordinator->job_json(request.show_job().job_id()));
      break;
    case AdminRequest::kCancelJob:
      reply = document(cancel(request.cancel_job()));
      break;
    case AdminRequest::kPrivacyReport:
      reply =
          document(privacy_report_json(*services_.store, services_.config->federation, services_.clock->wall_now()));
      break;
    case AdminRequest::kPrivacyHistory:
      reply = document(privacy_history_json(*services_.store, request.privacy_history().site(),
                                            request.privacy_history().data_set(), services_.clock->wall_now()));
      break;
    case AdminRequest::kSiteStatement:
      reply = document(site_statement(request.site_statement().site()));
      break;
    case AdminRequest::kServerStatus:
      reply = document(status());
      break;
    case AdminRequest::kExportModel:
      reply = co_await export_model(channel, request.export_model());
      break;
    case AdminRequest::kWatchJob: {
      Status watched = co_await watch(conversation, request.watch_job().job_id());
      co_return watched;
    }
    case AdminRequest::BODY_NOT_SET:
      reply = failure({Errc::unsupported, "this aggregator (" TRIBUTARY_VERSION
                                          ") does not know the request: upgrade the older of it and trib"});
      break;
  }
  Status sent = co_await channel.send(reply);
  if (!sent && sent.error().code == Errc::limit_exceeded) sent = co_await channel.send(failure(sent.error()));
  co_return sent;
}

Result<std::string> Admin::create_invite(const tributary::proto::CreateInvite& request) {
  const Milliseconds valid_for = request.valid_minutes() == 0
                                     ? services_.config->invite_lifetime
                                     : Milliseconds(std::chrono::minutes(request.valid_minutes()));
  TRIB_ASSIGN(const auto invite,
              services_.authority->invite(request.site(), request.is_operator(), valid_for, addresses_));
  const std::string expires = to_iso8601(WallTime(std::chrono::seconds(invite.expires_unix())));
  log_info({.client = request.site()}, "invited '{}' as {}, until {}", request.site(),
           request.is_operator() ? "operator" : "site", expires);
  return json::serialize(json::object{{"site", request.site()},
                                      {"role", request.is_operator() ? "operator" : "site"},
                                      {"token", net::make_token(invite)},
                                      {"expires", expires}});
}

Result<std::string> Admin::revoke(const tributary::proto::RevokeSite& request) {
  TRIB_TRY(services_.authority->revoke(request.site(), request.reason()));
  const std::string reason =
      "the operator revoked this site" + (request.reason().empty() ? std::string() : ": " + request.reason());
  const bool was_connected = sessions_.end(request.site(), Errc::permission_denied, reason);
  services_.coordinator->client_revoked(request.site(), request.reason());
  log_warn({.client = request.site()}, "'{}' is revoked{}: {}", request.site(),
           was_connected ? ", its session has ended" : "",
           request.reason().empty() ? "no reason given" : request.reason());
  return json::serialize(json::object{{"site", request.site()}, {"revoked", true}, {"session_ended", was_connected}});
}

Result<std::string> Admin::submit(const tributary::proto::SubmitJob& request) {
  if (sessions_.is_draining()) return Error{Errc::unavailable, "the aggregator is shutting down"};
  TRIB_ASSIGN(const std::string id, services_.coordinator->submit_job(request.job_file(), request.job_file_name()));
  return json::serialize(json::object{{"id", id}});
}

Result<std::string> Admin::cancel(const tributary::proto::CancelJob& request) {
  TRIB_TRY(services_.coordinator->cancel_job(request.job_id(), request.reason()));
  log_info({.job = request.job_id()}, "job {} cancelled: {}", request.job_id(), request.reason());
  return json::serialize(json::object{{"id", request.job_id()}, {"state", "cancelled"}});
}

Result<std::string> Admin::site_statement(const std::string& site) {
  TRIB_ASSIGN(const auto statement, services_.store->statement(site));
  const bool is_asked = sessions_.request_statement(site);
  if (!statement)
    return Error{
        Errc::not_found,
        fmt::format("'{}' has sent no privacy statement: {}", site,
                    is_asked ? "it is asked for one now; try again in a moment. If none comes, its client.toml "
                               "says share_statement = false, or its client is older"
                             : "it is not connected, or not a site of this federation")};
  return json::serialize(json::object{{"site", site},
                                      {"received", to_iso8601(statement->received)},
                                      {"head_count", statement->head_count},
                                      {"fresh_one_requested", is_asked},
                                      {"statement", statement->text}});
}

std::string Admin::status() const {
  json::array addresses;
  for (const net::HostPort& address : addresses_) addresses.emplace_back(address.to_string());
  const auto uptime = std::chrono::duration<double>(services_.clock->now() - started_).count();
  return json::serialize(json::object{{"federation", services_.config->federation},
                                      {"software_version", TRIBUTARY_VERSION},
                                      {"addresses", std::move(addresses)},
                                      {"uptime_seconds", uptime},
                                      {"draining", sessions_.is_draining()},
                                      {"sessions", sessions_.count()},
                                      {"uploads", sessions_.uploads()},
                                      {"staging_memory_bytes", services_.staging->memory_in_use()},
                                      {"staging_disk_bytes", services_.staging->disk_in_use()},
                                      {"ca_sha256", to_hex(services_.authority->ca_certificate().sha256())},
                                      {"ca_until", to_iso8601(services_.authority->ca_certificate().not_after())}});
}

asio::awaitable<AdminReply> Admin::export_model(net::Channel& channel, const tributary::proto::ExportModel& request) {
  const std::filesystem::path directory = services_.staging->directory() / ("export-" + std::to_string(exports_++));
  auto exported = std::make_shared<Completion<Status>>(channel.executor());
  if (const Status made = make_directories(directory, 0700); !made) co_return failure(made.error());
  services_.coordinator->export_model(request.job_id(), !request.last_round(), directory,
                                      [exported](Status status) { exported->set(std::move(status)); });
  const Status done = co_await exported->wait();
  Result<AdminReply> reply = done ? files_of(directory) : Result<AdminReply>(done.error());
  std::error_code ignored;
  std::filesystem::remove_all(directory, ignored);
  if (!reply) co_return failure(reply.error());
  co_return std::move(*reply);
}

asio::awaitable<Status> Admin::watch(Conversation& conversation, const std::string& job) {
  struct News {  // only the newest document counts
    std::optional<std::string> document;
    bool is_last = false;
  };
  const auto news = std::make_shared<News>();
  const auto subscription = services_.coordinator->subscribe(
      job, [news, self = conversation.shared_from_this()](const std::string& text, bool is_last) {
        news->document = text;
        news->is_last = is_last;
        self->changed.set(true);
      });
  if (!subscription) {
    Status refused = co_await conversation.channel->send(failure(subscription.error()));
    co_return refused;
  }
  conversation.read_next();
  Status going_on;
  bool told_last = false;
  while (going_on && !told_last && !conversation.received) {
    co_await conversation.changed.wait();
    if (!news->document) continue;
    AdminReply reply;
    reply.set_json(std::move(*news->document));
    news->document.reset();
    told_last = news->is_last;
    reply.set_more(!told_last);
    going_on = co_await conversation.channel->send(reply);
  }
  services_.coordinator->unsubscribe(*subscription);
  co_return going_on;
}

}  // namespace trib::server
