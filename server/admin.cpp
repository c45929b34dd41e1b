#include "server/admin.h"

#include <spdlog/spdlog.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/json.hpp>

#include "common/files.h"
#include "common/log.h"
#include "common/net/coroutine.h"
#include "server/background.h"
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

Admin::Admin(const SessionServices& services, Operations& operations, WorkQueue& background)
    : services_(services), operations_(operations), background_(background) {}

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
  const std::string by = channel.protocol().empty() ? "the local operator" : "operator '" + channel.peer().name + "'";
  AdminReply reply;
  switch (request.body_case()) {
    case AdminRequest::kCreateInvite: {
      const auto& invite = request.create_invite();
      reply = document(operations_.invite(invite.site(), invite.is_operator(), invite.valid_minutes(), by));
      break;
    }
    case AdminRequest::kRevokeSite:
      reply = document(operations_.revoke(request.revoke_site().site(), request.revoke_site().reason(), by));
      break;
    case AdminRequest::kListSites:
      reply = document(operations_.sites());
      break;
    case AdminRequest::kSubmitJob: {
      const auto& job = request.submit_job();
      auto submitted = co_await operations_.submit(job.job_file(), job.job_file_name(), by);
      reply = document(std::move(submitted));
      break;
    }
    case AdminRequest::kListJobs:
      reply = document(operations_.jobs());
      break;
    case AdminRequest::kShowJob:
      reply = document(operations_.job(request.show_job().job_id()));
      break;
    case AdminRequest::kCancelJob:
      reply = document(operations_.cancel(request.cancel_job().job_id(), request.cancel_job().reason(), by));
      break;
    case AdminRequest::kPrivacyReport: {
      const auto report = [this] {
        return privacy_report_json(*services_.store, services_.config->federation, services_.clock->wall_now(),
                                   *services_.plans);
      };
      auto text = co_await in_background(background_, channel.executor(), report);
      reply = document(std::move(text));
      break;
    }
    case AdminRequest::kPrivacyHistory: {
      const auto& asked = request.privacy_history();
      const auto history = [this, &asked] {
        return privacy_history_json(*services_.store, asked.site(), asked.data_set(), services_.clock->wall_now(),
                                    *services_.plans);
      };
      auto text = co_await in_background(background_, channel.executor(), history);
      reply = document(std::move(text));
      break;
    }
    case AdminRequest::kSiteStatement:
      reply = document(operations_.site_statement(request.site_statement().site()));
      break;
    case AdminRequest::kServerStatus:
      reply = document(operations_.status());
      break;
    case AdminRequest::kCreateToken:
      reply = document(operations_.create_token(request.create_token().name(), request.create_token().role(), by));
      break;
    case AdminRequest::kListTokens:
      reply = document(operations_.tokens());
      break;
    case AdminRequest::kRevokeToken:
      reply = document(operations_.revoke_token(request.revoke_token().name(), by));
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
