#include "server/http/connection.h"

#include <spdlog/fmt/chrono.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <ctime>

namespace trib::server::http {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace bhttp = boost::beast::http;
using boost::system::error_code;
using Parser = bhttp::request_parser<bhttp::string_body>;

constexpr Milliseconds farewell{2'000};  // for what a peer still sends after an answer that refuses it
constexpr std::size_t most_discarded = 8u << 20;
constexpr std::size_t one_write = 16u << 10;  // head and body together up to this

// A refusal before there is a whole request: the connection ends after it.
struct Refusal {
  int status = 400;
  Error error;
};

Refusal bad_request(std::string message) {
  return {400, {Errc::invalid_argument, std::move(message)}};
}

std::string text_of(const Parser& parser, bhttp::field field) {
  return std::string(parser.get()[field]);
}

// The head as a Request, or why it is none that is answered here.
std::optional<Refusal> read_head(const Parser& parser, Request& request) {
  const auto& message = parser.get();
  if (message.version() != 10 && message.version() != 11) return bad_request("only HTTP/1.1 is spoken here");
  for (const auto field :
       {bhttp::field::host, bhttp::field::authorization, bhttp::field::cookie, bhttp::field::origin,
        bhttp::field::content_length, bhttp::field::content_type, bhttp::field::expect, bhttp::field::if_none_match})
    if (message.count(field) > 1)
      return bad_request("the header field " + std::string(bhttp::to_string(field)) + " is there more than once");
  for (const char* field : {"X-Tributary-CSRF", "Sec-Fetch-Site", "X-Forwarded-Proto"})
    if (message.count(field) > 1)
      return bad_request("the header field " + std::string(field) + " is there more than once");
  if (message.count(bhttp::field::transfer_encoding) > 0)
    return Refusal{411, {Errc::invalid_argument, "a body needs a Content-Length: no other transfer is taken"}};
  if (message[bhttp::field::content_length].find(',') != beast::string_view::npos)
    return bad_request("Content-Length must be one number");
  request.host = text_of(parser, bhttp::field::host);
  if (request.host.empty() && message.version() == 11) return bad_request("the Host header is missing");
  const std::string expect = text_of(parser, bhttp::field::expect);
  if (!expect.empty() && !beast::iequals(expect, "100-continue"))
    return Refusal{417, {Errc::unsupported, "no other expectation than 100-continue is met"}};
  request.method = std::string(message.method_string());
  request.is_head = request.method == "HEAD";
  if (request.is_head) request.method = "GET";
  request.target = std::string(message.target());
  auto segments = decode_path(request.target);
  if (!segments) return Refusal{400, segments.error()};
  request.segments = std::move(*segments);
  request.content_length = parser.content_length().value_or(0);
  request.authorization = text_of(parser, bhttp::field::authorization);
  request.cookie = text_of(parser, bhttp::field::cookie);
  request.origin = text_of(parser, bhttp::field::origin);
  request.content_type = text_of(parser, bhttp::field::content_type);
  request.if_none_match = text_of(parser, bhttp::field::if_none_match);
  request.csrf = std::string(message["X-Tributary-CSRF"]);
  request.fetch_site = std::string(message["Sec-Fetch-Site"]);
  // A proxy that speaks TLS for us says so; whoever else says it only makes their own cookie stricter.
  request.is_tls = request.is_tls || message["X-Forwarded-Proto"] == "https";
  return std::nullopt;
}

// What to say about a request that the parser did not take; nothing where the peer is gone or too slow.
std::optional<Refusal> describe(const error_code& error, const HttpConfig& config) {
  if (error == bhttp::error::header_limit || error == bhttp::error::buffer_overflow)
    return Refusal{431,
                   {Errc::limit_exceeded, fmt::format("the request's head is longer than http.header_bytes = {} allows",
                                                      config.header_bytes)}};
  if (error == bhttp::error::body_limit)
    return Refusal{
        413,
        {Errc::limit_exceeded,
         fmt::format("the request's body is longer than http.request_bytes = {} allows", config.request_bytes)}};
  if (error == bhttp::error::end_of_stream || error == bhttp::error::partial_message) return std::nullopt;
  if (error.category() != make_error_code(bhttp::error::bad_method).category()) return std::nullopt;
  return bad_request("this is not HTTP/1.1: " + error.message());
}

std::string make_head(const Request& request, const Response& response, bool keep_alive, std::string_view framing) {
  std::string head = fmt::format("HTTP/1.1 {} {}\r\nDate: {:%a, %d %b %Y %H:%M:%S} GMT\r\n", response.status,
                                 reason_phrase(response.status), fmt::gmtime(std::time(nullptr)));
  const auto add = [&head](std::string_view name, std::string_view value) {
    if (!is_header_safe(value)) {
      spdlog::error("the header field {} has a control character and is left out: please report this", name);
      return;
    }
    head.append(name).append(": ").append(value).append("\r\n");
  };
  if (response.status != 304 && response.status != 204) add("Content-Type", response.content_type);
  for (const auto& [name, value] : security_headers(response, request)) add(name, value);
  for (const auto& [name, value] : response.headers) add(name, value);
  add("Connection", keep_alive ? "keep-alive" : "close");
  head.append(framing);
  return head + "\r\n";
}

template <typename Stream>
class Connection {
 public:
  Connection(Stream& stream, Shared& shared, std::string remote_address, bool is_tls)
      : stream_(stream),
        shared_(shared),
        remote_address_(std::move(remote_address)),
        is_tls_(is_tls),
        buffer_(static_cast<std::size_t>(shared.config.header_bytes) + (64u << 10)) {}

  asio::awaitable<void> run() {
    bool is_first = true;
    while (true) {
      limit(is_first ? shared_.config.header_timeout : shared_.config.idle_timeout);
      is_first = false;
      if (buffer_.size() == 0 && !co_await wait_for_bytes()) break;
      if (shared_.is_closing) break;
      ++shared_.answering;
      const bool goes_on = co_await answer_one();
      --shared_.answering;
      if (!goes_on) break;
    }
  }
  // Whether the peer may still be sending what nobody wants any more.
  bool has_unread() const { return has_unread_; }

 private:
  static auto redirect(error_code& error) { return asio::redirect_error(asio::use_awaitable, error); }
  void limit(Milliseconds timeout) { beast::get_lowest_layer(stream_).expires_after(timeout); }

  asio::awaitable<bool> wait_for_bytes() {
    error_code error;
    const std::size_t count = co_await stream_.async_read_some(buffer_.prepare(4096), redirect(error));
    buffer_.commit(count);
    co_return !error;
  }

  // Whether the connection goes on to another request.
  asio::awaitable<bool> answer_one() {
    Request request;
    request.is_tls = is_tls_;
    request.remote_address = remote_address_;
    Parser parser;
    parser.header_limit(static_cast<std::uint32_t>(shared_.config.header_bytes));
    parser.body_limit(shared_.config.request_bytes);
    limit(shared_.config.header_timeout);
    error_code error;
    co_await bhttp::async_read_header(stream_, buffer_, parser, redirect(error));
    std::optional<Refusal> refusal = error ? describe(error, shared_.config) : read_head(parser, request);
    if (error && !refusal) co_return false;
    if (shared_.is_closing) co_return false;
    if (refusal) {
      spdlog::debug("a request from {} is refused: {}", remote_address_, refusal->error.message);
      has_unread_ = true;
      co_await write(request, error_response(refusal->status, refusal->error), false);
      co_return false;
    }
    bool goes_on = parser.get().version() == 11 && parser.keep_alive();
    std::optional<Response> response = shared_.handler->check_head(request);
    if (response) {
      if (request.content_length > 0) goes_on = false, has_unread_ = true;
    } else {
      if (!parser.is_done()) {
        co_await read_body(parser, error);
        if (error || shared_.is_closing) co_return false;
      }
      request.body = std::move(parser.get().body());
      co_await answer(request, response);
    }
    goes_on = goes_on && !shared_.is_closing;
    if (response->stream && !request.is_head) {
      co_await write_stream(request, *response, parser.get().version() == 11);
      co_return false;
    }
    const bool written = co_await write(request, *response, goes_on);
    co_return written&& goes_on;
  }

  // A bug in one answer costs that answer, not the aggregator.
  asio::awaitable<void> answer(const Request& request, std::optional<Response>& response) {
    try {
      response.emplace(co_await shared_.handler->answer(request));
    } catch (const std::exception& error) {
      spdlog::error("answering a {} from {}: {}: please report this", request.method, remote_address_, error.what());
      response.emplace(error_response({Errc::internal, "the aggregator failed at this; its log says more"}));
    }
  }

  asio::awaitable<void> read_body(Parser& parser, error_code& error) {
    limit(shared_.config.body_timeout);
    if (!parser.get()[bhttp::field::expect].empty()) {
      static constexpr std::string_view go_on = "HTTP/1.1 100 Continue\r\n\r\n";
      co_await asio::async_write(stream_, asio::buffer(go_on), redirect(error));
      if (error) co_return;
    }
    co_await bhttp::async_read(stream_, buffer_, parser, redirect(error));
  }

  asio::awaitable<bool> write(const Request& request, const Response& response, bool keep_alive) {
    const bool has_body = response.status != 304 && response.status != 204;
    std::string head = make_head(request, response, keep_alive,
                                 has_body ? fmt::format("Content-Length: {}\r\n", response.body.size()) : "");
    std::string_view body = has_body && !request.is_head ? response.body : std::string_view();
    if (head.size() + body.size() <= one_write) {
      head += body;
      body = {};
    }
    limit(shared_.config.write_timeout);
    error_code error;
    const std::array<asio::const_buffer, 2> buffers{asio::buffer(head), asio::buffer(body)};
    co_await asio::async_write(stream_, buffers, redirect(error));
    co_return !error;
  }

  // Until the stream ends, the peer leaves, or it takes nothing for http.write_timeout.
  asio::awaitable<void> write_stream(const Request& request, const Response& response, bool is_chunked) {
    std::string piece = make_head(request, response, false, is_chunked ? "Transfer-Encoding: chunked\r\n" : "");
    error_code error;
    while (true) {
      limit(shared_.config.write_timeout);
      co_await asio::async_write(stream_, asio::buffer(piece), redirect(error));
      if (error) break;
      auto text = co_await response.stream->next();
      if (!text) break;
      piece = is_chunked ? fmt::format("{:x}\r\n{}\r\n", text->size(), *text) : std::move(*text);
    }
    response.stream->close();
    if (error || !is_chunked) co_return;
    limit(shared_.config.write_timeout);
    static constexpr std::string_view last_chunk = "0\r\n\r\n";
    co_await asio::async_write(stream_, asio::buffer(last_chunk), redirect(error));
  }

  Stream& stream_;
  Shared& shared_;
  std::string remote_address_;
  bool is_tls_;
  beast::flat_buffer buffer_;
  bool has_unread_ = false;
};

// Reads on for a moment, so that the answer before is not lost with a reset connection.
asio::awaitable<void> discard(beast::tcp_stream& stream) {
  stream.expires_after(farewell);
  std::array<char, 16384> bytes;
  std::size_t discarded = 0;
  error_code error;
  while (!error && discarded < most_discarded)
    discarded += co_await stream.async_read_some(asio::buffer(bytes), asio::redirect_error(asio::use_awaitable, error));
}

void close(beast::tcp_stream& stream) {
  error_code ignored;
  stream.socket().shutdown(asio::ip::tcp::socket::shutdown_both, ignored);
  stream.close();
}

}  // namespace

asio::awaitable<void> serve(PlainStream stream, std::shared_ptr<Shared> shared, std::string remote_address) {
  Connection<PlainStream> connection(stream, *shared, std::move(remote_address), false);
  co_await connection.run();
  error_code ignored;
  stream.socket().shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  if (connection.has_unread()) co_await discard(stream);
  close(stream);
}

asio::awaitable<void> serve(TlsStream stream, std::shared_ptr<Shared> shared, std::string remote_address) {
  beast::tcp_stream& socket = stream.next_layer();
  socket.expires_after(shared->config.header_timeout);
  error_code error;
  co_await stream.async_handshake(asio::ssl::stream_base::server, asio::redirect_error(asio::use_awaitable, error));
  if (error) {
    spdlog::debug("an HTTPS connection from {} failed: {}", remote_address, error.message());
    co_return;
  }
  Connection<TlsStream> connection(stream, *shared, std::move(remote_address), true);
  co_await connection.run();
  if (socket.socket().is_open()) {
    // Our farewell, and then the peer's; where it sends other things instead they are dropped as they come.
    socket.expires_after(farewell);
    co_await stream.async_shutdown(asio::redirect_error(asio::use_awaitable, error));
    if (connection.has_unread()) co_await discard(socket);
  }
  close(socket);
}

}  // namespace trib::server::http
