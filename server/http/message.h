// Requests and answers of the HTTP API, free of any transport: connection.h reads and writes them, api.h answers them.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/result.h"

namespace trib::server::http {

// One request. Header fields that nothing here reads are not kept; of those that are, the connection has refused a
// request that has one of them twice.
struct Request {
  std::string method;  // "GET", …; HEAD arrives as GET with `is_head`
  bool is_head = false;
  std::string target;                 // as it was sent, with its query
  std::vector<std::string> segments;  // the path's, decoded: "/jobs/a%20b" is {"jobs", "a b"}, "/" is {}
  bool is_tls = false;                // here, or at a proxy that says so
  std::string remote_address;
  std::uint64_t content_length = 0;
  std::string body;

  std::string authorization, cookie, origin, host, content_type, csrf, fetch_site, if_none_match;
};

// A stream of text that goes on until it ends or the peer leaves.
class TextStream {
 public:
  virtual ~TextStream() = default;
  // The next piece; nothing at the end.
  virtual boost::asio::awaitable<std::optional<std::string>> next() = 0;
  // The peer is gone: nothing more is needed.
  virtual void close() = 0;
};

struct Response {
  int status = 200;
  std::string_view content_type = "application/json";
  std::string_view body;                                          // kept by `owner`, or static
  std::shared_ptr<const void> owner;                              // may be null
  std::vector<std::pair<std::string_view, std::string>> headers;  // beside those that every answer has
  std::string content_security_policy;                            // instead of the usual one
  bool may_be_cached = false;                                     // else Cache-Control is no-store
  std::shared_ptr<TextStream> stream;                             // instead of the body
};

// Answers requests. All calls on one executor.
class Handler {
 public:
  virtual ~Handler() = default;
  // What the head alone decides: an answer, and the body is not read; or nothing, and answer() follows.
  virtual std::optional<Response> check_head(const Request& request) = 0;
  virtual boost::asio::awaitable<Response> answer(const Request& request) = 0;
};

using Text = std::shared_ptr<const std::string>;

Response text_response(int status, Text text, std::string_view content_type = "application/json");
Response json_response(int status, std::string document);
// {"error": {"code", "message"}}, with the status of the error's kind.
Response error_response(const Error& error);
Response error_response(int status, const Error& error);
// 400 for what the caller can mend in the request, 401, 403, 404, 409, 429, 503 for what may work later, 500.
int status_for(Errc code);
std::string_view reason_phrase(int status);

// The path of a request target, decoded. Errc::invalid_argument for a target that is not a path, "." and "..", escapes
// that are none, and characters that no name here has: control characters, '/' or '\' in disguise, bytes that are not
// UTF-8.
Result<std::vector<std::string>> decode_path(std::string_view target);

// The header fields of every answer, whatever it says: what a browser may do with it, and that nobody keeps it.
std::vector<std::pair<std::string_view, std::string>> security_headers(const Response& response,
                                                                       const Request& request);

// What no header field of ours may hold: line ends and other control characters.
bool is_header_safe(std::string_view value);

}  // namespace trib::server::http
