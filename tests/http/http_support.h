// A daemon with its HTTP API, and a client that sends exactly the bytes that a test says, over real sockets and TLS.
#pragma once

#include <algorithm>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <cctype>
#include <map>

#include "server/http/api.h"
#include "tests/daemon/daemon_support.h"

namespace trib::server::http::testing {

namespace asio = boost::asio;
namespace json = boost::json;
using boost::system::error_code;
using server::testing::AdminReply;
using server::testing::AdminRequest;

struct Reply {
  int status = 0;                                   // 0: the connection ended without one
  std::multimap<std::string, std::string> headers;  // names in lower case
  std::string head, body;

  std::string header(const std::string& name) const {
    const auto found = headers.find(name);
    return found == headers.end() ? std::string() : found->second;
  }
  json::value document() const {
    error_code error;
    json::value value = json::parse(body, error);
    EXPECT_FALSE(error) << status << " " << body;
    return value;
  }
  std::string error_message() const {
    const json::value value = document();
    return value.is_object() && value.as_object().contains("error")
               ? std::string(value.at("error").at("message").as_string())
               : "no error: " + body;
  }
};

inline auto redirect(error_code& error) {
  return asio::redirect_error(asio::use_awaitable, error);
}

class Client {
 public:
  // `ca` empty: plain text.
  Client(asio::io_context& context, std::uint16_t port, const std::string& ca_pem, int tls_version = TLS1_3_VERSION)
      : context_(context), ssl_(asio::ssl::context::tls_client), stream_(context, ssl_), is_tls_(!ca_pem.empty()) {
    lowest().expires_after(patience);
    error_code error;
    lowest().socket().connect({asio::ip::address_v4::loopback(), port}, error);
    is_open_ = !error;
    if (!is_tls_ || error) return;
    ssl_.add_certificate_authority(asio::buffer(ca_pem));
    SSL_set_max_proto_version(stream_.native_handle(), tls_version);
    SSL_set_verify(stream_.native_handle(), SSL_VERIFY_PEER, nullptr);
    net::run(context_, [&]() -> asio::awaitable<bool> {
      co_await stream_.async_handshake(asio::ssl::stream_base::client, redirect(handshake_error));
      co_return true;
    }());
    is_open_ = !handshake_error;
  }

  bool send(std::string_view bytes) {
    error_code error;
    net::run(context_, [&]() -> asio::awaitable<bool> {
      lowest().expires_after(patience);
      if (is_tls_) {
        co_await asio::async_write(stream_, asio::buffer(bytes), redirect(error));
      } else {
        co_await asio::async_write(lowest(), asio::buffer(bytes), redirect(error));
      }
      co_return true;
    }());
    return !error;
  }

  // Some bytes, or nothing at the end of the connection.
  std::string receive_some(Milliseconds patience_now = patience) {
    std::string bytes(16384, '\0');
    std::size_t count = 0;
    net::run(context_, [&]() -> asio::awaitable<bool> {
      lowest().expires_after(patience_now);
      error_code error;
      if (is_tls_) {
        count = co_await stream_.async_read_some(asio::buffer(bytes), redirect(error));
      } else {
        count = co_await lowest().async_read_some(asio::buffer(bytes), redirect(error));
      }
      timed_out = error == boost::beast::error::timeout;
      co_return true;
    }());
    bytes.resize(count);
    return bytes;
  }

  std::string receive_all() {
    std::string all = std::move(received_);
    received_.clear();
    for (std::string some = receive_some(); !some.empty(); some = receive_some()) all += some;
    return all;
  }
  // Until `text` has come; false at the end of the connection.
  bool receive_until(std::string_view text) {
    while (received_.find(text) == std::string::npos) {
      const std::string some = receive_some();
      if (some.empty()) return false;
      received_ += some;
    }
    return true;
  }
  std::string& received() { return received_; }

  Reply receive_reply(bool has_body = true) {
    Reply reply;
    if (!receive_until("\r\n\r\n")) return reply;
    const std::size_t end = received_.find("\r\n\r\n");
    reply.head = received_.substr(0, end + 2);
    received_.erase(0, end + 4);
    reply.status = std::stoi(reply.head.substr(9, 3));
    for (std::size_t at = reply.head.find("\r\n") + 2; at < reply.head.size();) {
      const std::size_t line_end = reply.head.find("\r\n", at);
      const std::string line = reply.head.substr(at, line_end - at);
      std::string name = line.substr(0, line.find(':'));
      std::ranges::transform(name, name.begin(), [](char c) { return static_cast<char>(std::tolower(c)); });
      reply.headers.emplace(name, line.substr(std::min(line.find(':') + 2, line.size())));
      at = line_end + 2;
    }
    const std::string length = reply.header("content-length");
    if (length.empty() || !has_body) return reply;
    while (received_.size() < std::stoul(length)) {
      const std::string some = receive_some();
      if (some.empty()) break;
      received_ += some;
    }
    reply.body = received_.substr(0, std::stoul(length));
    received_.erase(0, reply.body.size());
    return reply;
  }

  net::Certificate server_certificate() {
    X509* certificate = SSL_get1_peer_certificate(stream_.native_handle());
    if (certificate == nullptr) throw FatalError({Errc::unauthenticated, handshake_error.message()});
    return net::Certificate::from_native(certificate);
  }
  bool is_open() const { return is_open_; }

  error_code handshake_error;
  bool timed_out = false;  // of the last receive_some()
  static constexpr Milliseconds patience{5'000};

 private:
  boost::beast::tcp_stream& lowest() { return stream_.next_layer(); }

  asio::io_context& context_;
  asio::ssl::context ssl_;
  asio::ssl::stream<boost::beast::tcp_stream> stream_;
  bool is_tls_, is_open_ = false;
  std::string received_;
};

class HttpTest : public server::testing::DaemonTest {
 protected:
  HttpTest() { config.http.listen = net::HostPort{"127.0.0.1", 0}; }

  std::string create_token(const std::string& name, const std::string& role) {
    AdminRequest request;
    request.mutable_create_token()->set_name(name);
    request.mutable_create_token()->set_role(role);
    const AdminReply reply = ask(request);
    EXPECT_EQ(reply.error(), "");
    return std::string(json::parse(reply.json()).at("token").as_string());
  }
  AdminReply revoke_token(const std::string& name) {
    AdminRequest request;
    request.mutable_revoke_token()->set_name(name);
    return ask(request);
  }
  std::string viewer() {
    if (viewer_.empty()) viewer_ = create_token("officer", "viewer");
    return viewer_;
  }
  std::string operating() {
    if (operator_.empty()) operator_ = create_token("alice", "operator");
    return operator_;
  }

  Client connect() {
    return Client(context, daemon->http_port().value(), config.http.tls ? ca().to_pem() : std::string());
  }
  std::string host() const { return "127.0.0.1:" + std::to_string(daemon->http_port().value()); }
  std::string origin() const { return (config.http.tls ? "https://" : "http://") + host(); }

  static std::string bearer(const std::string& token) { return "Authorization: Bearer " + token + "\r\n"; }
  // `headers`: whole lines.
  std::string make(const std::string& method, const std::string& target, const std::string& headers = "",
                   const std::optional<std::string>& body = std::nullopt) {
    std::string text = method + " " + target + " HTTP/1.1\r\nHost: " + host() + "\r\n" + headers;
    if (body) text += "Content-Type: application/json\r\nContent-Length: " + std::to_string(body->size()) + "\r\n";
    return text + "\r\n" + body.value_or("");
  }
  Reply exchange(const std::string& bytes, bool has_body = true) {
    Client client = connect();
    client.send(bytes);
    return client.receive_reply(has_body);
  }
  Reply get(const std::string& target, const std::string& headers = "") {
    return exchange(make("GET", target, headers));
  }
  Reply view(const std::string& target) { return get(target, bearer(viewer())); }
  Reply post(const std::string& target, const std::string& body, const std::string& headers) {
    return exchange(make("POST", target, headers, body));
  }

  // --- Browsers ---
  struct Browser {
    std::string cookie, csrf, set_cookie;
    std::string headers() const { return "Cookie: " + cookie + "\r\n"; }
    std::string changing() const { return headers() + "X-Tributary-CSRF: " + csrf + "\r\n"; }
  };
  Browser sign_in(const std::string& token) {
    const Reply reply = post("/api/v1/session", json::serialize(json::object{{"token", token}}), "");
    EXPECT_EQ(reply.status, 200) << reply.body;
    Browser browser;
    browser.set_cookie = reply.header("set-cookie");
    browser.cookie = browser.set_cookie.substr(0, browser.set_cookie.find(';'));
    browser.csrf = std::string(reply.document().at("csrf").as_string());
    return browser;
  }

 private:
  std::string viewer_, operator_;
};

}  // namespace trib::server::http::testing
