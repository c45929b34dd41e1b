#include "server/http/listener.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <spdlog/spdlog.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <map>

#include "common/net/listen.h"
#include "server/http/connection.h"
#include "server/rate_limit.h"

namespace trib::server::http {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;
using SslContext = std::shared_ptr<asio::ssl::context>;

constexpr Milliseconds accept_retry{200};
constexpr Milliseconds certificate_check{1'000};
constexpr Milliseconds complaint_interval{10'000};

std::string ssl_problem() {
  char text[256] = "unknown error";
  if (const unsigned long code = ERR_get_error(); code != 0) ERR_error_string_n(code, text, sizeof text);
  ERR_clear_error();
  return text;
}

// TLS 1.3, no client certificates and no ALPN: what speaks to this port speaks HTTP/1.1.
SslContext make_context() {
  auto context = std::make_shared<asio::ssl::context>(asio::ssl::context::tls_server);
  SSL_CTX_set_min_proto_version(context->native_handle(), TLS1_3_VERSION);
  SSL_CTX_set_verify(context->native_handle(), SSL_VERIFY_NONE, nullptr);
  // A key with a passphrase is an error, not a question on a terminal.
  SSL_CTX_set_default_passwd_cb(context->native_handle(), [](char*, int, int, void*) { return 0; });
  return context;
}

Result<SslContext> context_for(const OwnCertificate& own) {
  SslContext context = make_context();
  SSL_CTX* native = context->native_handle();
  if (SSL_CTX_use_certificate(native, own.certificate.native()) != 1 ||
      SSL_CTX_use_PrivateKey(native, own.key.native()) != 1 || SSL_CTX_check_private_key(native) != 1)
    return Error{Errc::invalid_argument, "the aggregator's certificate and key: " + ssl_problem()};
  SSL_CTX_add1_chain_cert(native, own.ca.native());
  return context;
}

Result<SslContext> context_for(const std::filesystem::path& certificate, const std::filesystem::path& key) {
  SslContext context = make_context();
  SSL_CTX* native = context->native_handle();
  ERR_clear_error();
  if (SSL_CTX_use_certificate_chain_file(native, certificate.c_str()) != 1)
    return Error{Errc::invalid_argument, "http.certificate = " + certificate.string() +
                                             " is not a certificate in PEM that can be read: " + ssl_problem()};
  if (SSL_CTX_use_PrivateKey_file(native, key.c_str(), SSL_FILETYPE_PEM) != 1 || SSL_CTX_check_private_key(native) != 1)
    return Error{Errc::invalid_argument, "http.key = " + key.string() + " is not the unencrypted key, in PEM, of " +
                                             certificate.string() + ": " + ssl_problem()};
  return context;
}

// Whom a limit counts as one: an IPv4 address, or the network that one subscriber has (RFC 6177) of IPv6.
std::string limited_as(asio::ip::address address) {
  if (address.is_v6() && address.to_v6().is_v4_mapped())
    address = asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6());
  if (!address.is_v6()) return address.to_string();
  auto bytes = address.to_v6().to_bytes();
  std::fill(bytes.begin() + 8, bytes.end(), std::uint8_t{0});
  return asio::ip::address_v6(bytes).to_string() + "/64";
}

// Connections at once, all together and of each address; connections hold it.
struct Census {
  std::size_t all = 0;
  std::map<std::string, std::int64_t> by_address;
};

class Seat {
 public:
  Seat(std::shared_ptr<Census> census, std::string address) : census_(std::move(census)), address_(std::move(address)) {
    ++census_->all;
    ++census_->by_address[address_];
  }
  ~Seat() {
    --census_->all;
    if (--census_->by_address[address_] == 0) census_->by_address.erase(address_);
  }
  Seat(const Seat&) = delete;
  Seat& operator=(const Seat&) = delete;

 private:
  std::shared_ptr<Census> census_;
  std::string address_;
};

asio::awaitable<void> serve_seated(tcp::socket socket, SslContext context, std::shared_ptr<Shared> shared,
                                   std::string address, std::shared_ptr<Seat> seat) {
  const auto seated = std::move(seat);
  boost::beast::tcp_stream stream(std::move(socket));
  if (context) {
    co_await serve(TlsStream(std::move(stream), *context), std::move(shared), std::move(address));
  } else {
    co_await serve(std::move(stream), std::move(shared), std::move(address));
  }
}

class ListenerImpl final : public Listener {
 public:
  ListenerImpl(asio::io_context& context, const HttpConfig& config, Handler& handler, const Clock& clock,
               tcp::acceptor acceptor, SslContext ssl)
      : context_(context),
        clock_(clock),
        acceptor_(std::move(acceptor)),
        ssl_(std::move(ssl)),
        shared_(std::make_shared<Shared>()),
        limiter_(config.requests_per_minute) {
    shared_->config = config;
    shared_->handler = &handler;
    note_files();
  }
  void start() override { asio::co_spawn(context_, accept(shared_), asio::detached); }
  std::uint16_t port() const override { return port_; }
  std::string url() const override {
    net::HostPort address = *shared_->config.listen;
    address.port = port_;
    return (shared_->config.tls ? "https://" : "http://") + address.to_string();
  }
  Status replace_certificate(const OwnCertificate& own) override {
    if (!shared_->config.tls || !shared_->config.certificate.empty()) return {};
    TRIB_ASSIGN(SslContext replacement, context_for(own));
    asio::post(context_, [this, replacement] { ssl_ = replacement; });
    return {};
  }
  void close() override {
    shared_->is_closing = true;
    asio::post(context_, [this] {
      error_code ignored;
      acceptor_.close(ignored);
    });
  }
  std::size_t answering() const override { return shared_->answering; }

 private:
  asio::awaitable<void> accept(std::shared_ptr<Shared> shared) {
    while (!shared->is_closing) {
      error_code error;
      tcp::socket socket = co_await acceptor_.async_accept(asio::redirect_error(asio::use_awaitable, error));
      if (shared->is_closing) co_return;
      if (error) {
        spdlog::error("an HTTP connection cannot be accepted: {}", error.message());
        asio::steady_timer timer(context_, accept_retry);
        co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, error));
        continue;
      }
      const auto endpoint = socket.remote_endpoint(error);
      if (!error) admit(std::move(socket), endpoint.address());
    }
  }

  void admit(tcp::socket socket, const asio::ip::address& address) {
    const std::string who = limited_as(address);
    const HttpConfig& config = shared_->config;
    const auto of_address = census_->by_address.find(who);
    const std::int64_t seats = of_address == census_->by_address.end() ? 0 : of_address->second;
    std::string refused;
    if (census_->all >= static_cast<std::size_t>(config.connections)) {
      refused = fmt::format("http.connections = {}", config.connections);
    } else if (seats >= config.connections_per_address) {
      refused = fmt::format("http.connections_per_address = {}", config.connections_per_address);
    } else if (!limiter_.take(who, clock_.now())) {  // a handshake costs more than most requests
      refused = fmt::format("http.requests_per_minute = {}", config.requests_per_minute);
    }
    if (!refused.empty()) {
      if (const MonotonicTime now = clock_.now(); now >= next_complaint_) {
        spdlog::warn("HTTP connections from {} are over {}, and dropped", address.to_string(), refused);
        next_complaint_ = now + complaint_interval;
      }
      return;
    }
    error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    read_changed_certificate();
    asio::co_spawn(context_, serve_seated(std::move(socket), ssl_, shared_, who, std::make_shared<Seat>(census_, who)),
                   asio::detached);
  }

  // The files' times as they are now; returns whether they differ from before.
  bool note_files() {
    const HttpConfig& config = shared_->config;
    if (!ssl_ || config.certificate.empty()) return false;
    std::error_code ignored;
    const auto certificate = std::filesystem::last_write_time(config.certificate, ignored);
    const auto key = std::filesystem::last_write_time(config.key, ignored);
    const bool differs = certificate != certificate_time_ || key != key_time_;
    certificate_time_ = certificate;
    key_time_ = key;
    return differs;
  }

  void read_changed_certificate() {
    const MonotonicTime now = clock_.now();
    if (now < next_check_) return;
    next_check_ = now + certificate_check;
    if (!note_files()) return;
    auto context = context_for(shared_->config.certificate, shared_->config.key);
    if (context) {
      ssl_ = std::move(*context);
      spdlog::info("{} has changed and is in use", shared_->config.certificate.string());
    } else {  // written by halves, perhaps: the other file's time will differ
      spdlog::error("{}; the one before stays in use", context.error().message);
    }
  }

  asio::io_context& context_;
  const Clock& clock_;
  tcp::acceptor acceptor_;
  SslContext ssl_;  // null: plain text
  std::shared_ptr<Shared> shared_;
  std::shared_ptr<Census> census_ = std::make_shared<Census>();
  RateLimiter limiter_;
  std::uint16_t port_ = acceptor_.local_endpoint().port();
  MonotonicTime next_check_{}, next_complaint_{};
  std::filesystem::file_time_type certificate_time_{}, key_time_{};
};

}  // namespace

Result<std::unique_ptr<Listener>> Listener::open(asio::io_context& context, const HttpConfig& config,
                                                 const OwnCertificate& own, Handler& handler, const Clock& clock) {
  SslContext ssl;
  if (config.tls && config.certificate.empty()) {
    TRIB_ASSIGN(ssl, context_for(own));
  } else if (config.tls) {
    TRIB_ASSIGN(ssl, context_for(config.certificate, config.key));
  }
  TRIB_ASSIGN(tcp::acceptor acceptor, net::listen_on(context, *config.listen, "http.listen"));
  return std::unique_ptr<Listener>(
      new ListenerImpl(context, config, handler, clock, std::move(acceptor), std::move(ssl)));
}

}  // namespace trib::server::http
