#include "cli/admin_client.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/json.hpp>
#include <cstdlib>
#include <filesystem>
#include <optional>

#include "common/files.h"
#include "common/net/channel.h"
#include "common/net/enrolment.h"
#include "common/net/tls.h"

namespace trib::cli {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;
using tributary::proto::AdminReply;
using tributary::proto::AdminRequest;

// Replies carry a job's whole report, and exported adapters.
net::Limits admin_limits() {
  net::Limits limits;
  limits.message_bytes = 256u << 20;
  limits.idle_timeout = Milliseconds(600'000);
  return limits;
}

// Runs one coroutine to its end on a context that nothing else uses.
template <typename T>
T run(asio::io_context& context, asio::awaitable<T> work) {
  std::optional<T> result;
  std::exception_ptr failure;
  bool done = false;
  asio::co_spawn(
      context, [&]() -> asio::awaitable<void> { result.emplace(co_await std::move(work)); },
      [&](std::exception_ptr error) {
        failure = error;
        done = true;
      });
  context.restart();
  while (!done && context.run_one() > 0) {
  }
  if (failure) std::rethrow_exception(failure);
  return std::move(result).value();
}

Result<boost::json::value> parse_document(const AdminReply& reply) {
  boost::system::error_code error;
  boost::json::value value = boost::json::parse(reply.json().empty() ? "{}" : reply.json(), error);
  if (error) return Error{Errc::protocol_error, "the aggregator's answer is not JSON: " + error.message()};
  return value;
}

}  // namespace

struct AdminClient::Impl {
  asio::io_context context;
  std::unique_ptr<net::Channel> channel;
  std::string target;
};

AdminClient::AdminClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
AdminClient::AdminClient(AdminClient&&) noexcept = default;
AdminClient& AdminClient::operator=(AdminClient&&) noexcept = default;
AdminClient::~AdminClient() = default;

Result<AdminClient> AdminClient::connect(const ServerOptions& options) {
  std::string target = options.server;
  if (target.empty()) {
    const char* environment = std::getenv("TRIBUTARY_SERVER");
    target = environment && *environment ? environment : "federation";
  }
  auto impl = std::make_unique<Impl>();
  impl->target = target;
  fs::path socket = target;
  if (fs::is_directory(socket)) socket /= "admin.sock";
  if (fs::exists(socket) || target.find(':') == std::string::npos) {
    if (!fs::exists(socket)) {
      return Error{Errc::unavailable, "no aggregator at " + fs::absolute(target).string() +
                                          ": start it with `trib-server --config " + target +
                                          "/server.toml`, or name another with --server DIR or --server HOST:PORT"};
    }
    auto channel = run(impl->context, net::connect_unix(impl->context.get_executor(), socket, admin_limits()));
    if (!channel) {
      return Error{Errc::unavailable,
                   "the aggregator does not answer at " + socket.string() + ": " + channel.error().message};
    }
    impl->channel = std::move(*channel);
  } else {
    if (options.credentials.empty()) {
      return Error{Errc::invalid_argument,
                   "--server " + target + " needs --credentials DIR, made by `trib operator join TOKEN`"};
    }
    const fs::path directory = options.credentials;
    TRIB_ASSIGN(const std::string ca_pem, read_file(directory / "ca.pem"));
    TRIB_ASSIGN(const std::string certificate_pem, read_file(directory / "certificate.pem"));
    TRIB_ASSIGN(const std::string key_pem, read_file(directory / "key.pem"));
    TRIB_ASSIGN(const net::Certificate ca, net::Certificate::from_pem(ca_pem));
    net::ClientCredentials credentials;
    TRIB_ASSIGN(credentials.certificate, net::Certificate::from_pem(certificate_pem));
    TRIB_ASSIGN(credentials.key, net::PrivateKey::from_pem(key_pem));
    TRIB_ASSIGN(impl->channel,
                run(impl->context, net::connect_tls(impl->context.get_executor(), target, ca, &credentials,
                                                    net::admin_protocol, admin_limits(), Milliseconds(15'000))));
  }
  return AdminClient(std::move(impl));
}

Result<AdminReply> AdminClient::exchange(const AdminRequest& request) {
  TRIB_TRY(run(impl_->context, impl_->channel->send(request)));
  TRIB_ASSIGN(const net::Frame frame, run(impl_->context, impl_->channel->receive()));
  TRIB_ASSIGN(AdminReply reply, net::parse_message<AdminReply>(frame));
  if (!reply.error_code().empty()) return Error{net::errc_from_text(reply.error_code()), reply.error()};
  return reply;
}

Result<boost::json::value> AdminClient::request(const AdminRequest& request) {
  TRIB_ASSIGN(const AdminReply reply, exchange(request));
  return parse_document(reply);
}

Status AdminClient::watch(const AdminRequest& request,
                          const std::function<bool(const boost::json::value&)>& on_document) {
  TRIB_TRY(run(impl_->context, impl_->channel->send(request)));
  while (true) {
    TRIB_ASSIGN(const net::Frame frame, run(impl_->context, impl_->channel->receive()));
    TRIB_ASSIGN(const AdminReply reply, net::parse_message<AdminReply>(frame));
    if (!reply.error_code().empty()) return Error{net::errc_from_text(reply.error_code()), reply.error()};
    TRIB_ASSIGN(const boost::json::value document, parse_document(reply));
    if (!on_document(document) || !reply.more()) return {};
  }
}

}  // namespace trib::cli
