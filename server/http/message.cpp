#include "server/http/message.h"

#include <algorithm>
#include <boost/json.hpp>

#include "common/utf8.h"

namespace trib::server::http {
namespace {

namespace json = boost::json;

// Nothing from elsewhere, nothing inline, in no frame: a text that gets into the page by mistake stays a text.
constexpr std::string_view content_security_policy =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

std::optional<unsigned> hex_digit(char character) {
  if (character >= '0' && character <= '9') return static_cast<unsigned>(character - '0');
  if (character >= 'a' && character <= 'f') return static_cast<unsigned>(character - 'a' + 10);
  if (character >= 'A' && character <= 'F') return static_cast<unsigned>(character - 'A' + 10);
  return std::nullopt;
}

bool is_control(char character) {
  return static_cast<unsigned char>(character) < 0x20 || character == 0x7f;
}

Error bad_target(std::string_view problem) {
  return {Errc::invalid_argument, "the request's target " + std::string(problem)};
}

Result<std::string> decode_segment(std::string_view text) {
  std::string decoded;
  for (std::size_t i = 0; i < text.size(); ++i) {
    char character = text[i];
    if (character == '%') {
      const auto high = i + 2 < text.size() ? hex_digit(text[i + 1]) : std::nullopt;
      const auto low = i + 2 < text.size() ? hex_digit(text[i + 2]) : std::nullopt;
      if (!high || !low) return bad_target("has a '%' without two hexadecimal digits after it");
      character = static_cast<char>(*high * 16 + *low);
      i += 2;
    }
    if (is_control(character) || character == '/' || character == '\\')
      return bad_target("has a control character, or a slash in disguise");
    decoded += character;
  }
  if (decoded == "." || decoded == "..") return bad_target("has '.' or '..' in its path");
  if (find_invalid_utf8(decoded)) return bad_target("is not UTF-8");
  return decoded;
}

}  // namespace

Response text_response(int status, Text text, std::string_view content_type) {
  Response response;
  response.status = status;
  response.content_type = content_type;
  response.body = *text;
  response.owner = std::move(text);
  return response;
}

Response json_response(int status, std::string document) {
  return text_response(status, std::make_shared<const std::string>(std::move(document)));
}

int status_for(Errc code) {
  switch (code) {
    case Errc::invalid_argument:
    case Errc::protocol_error:
    case Errc::unsupported:
      return 400;
    case Errc::unauthenticated:
      return 401;
    case Errc::permission_denied:
      return 403;
    case Errc::not_found:
      return 404;
    case Errc::already_exists:
    case Errc::over_budget:
    case Errc::cancelled:
      return 409;
    case Errc::limit_exceeded:
      return 429;
    case Errc::unavailable:
    case Errc::no_space:
    case Errc::deadline_exceeded:
      return 503;
    case Errc::io_error:
    case Errc::corrupt:
    case Errc::internal:
      break;
  }
  return 500;
}

Response error_response(int status, const Error& error) {
  Response response = json_response(
      status, json::serialize(
                  json::object{{"error", json::object{{"code", to_string(error.code)}, {"message", error.message}}}}));
  if (status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer realm=\"tributary\"");
  if (status == 429 || status == 503) response.headers.emplace_back("Retry-After", "2");
  return response;
}

Response error_response(const Error& error) {
  return error_response(status_for(error.code), error);
}

std::string_view reason_phrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 201:
      return "Created";
    case 204:
      return "No Content";
    case 304:
      return "Not Modified";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 409:
      return "Conflict";
    case 411:
      return "Length Required";
    case 413:
      return "Content Too Large";
    case 417:
      return "Expectation Failed";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 503:
      return "Service Unavailable";
    default:
      return "Internal Server Error";
  }
}

Result<std::vector<std::string>> decode_path(std::string_view target) {
  if (target.empty() || target.front() != '/') return bad_target("is not a path that begins with '/'");
  if (std::ranges::any_of(target, is_control) || target.find('#') != std::string_view::npos)
    return bad_target("has characters that no target has");
  std::string_view path =
      target.substr(1, target.find('?') == std::string_view::npos ? target.npos : target.find('?') - 1);
  std::vector<std::string> segments;
  while (!path.empty()) {
    const std::size_t end = path.find('/');
    TRIB_ASSIGN(std::string segment, decode_segment(path.substr(0, end)));
    segments.push_back(std::move(segment));
    if (end == std::string_view::npos) break;
    path.remove_prefix(end + 1);
    if (path.empty()) segments.emplace_back();  // "/jobs/" is not "/jobs"
  }
  return segments;
}

std::vector<std::pair<std::string_view, std::string>> security_headers(const Response& response,
                                                                       const Request& request) {
  std::vector<std::pair<std::string_view, std::string>> headers = {
      {"Content-Security-Policy", response.content_security_policy.empty() ? std::string(content_security_policy)
                                                                           : response.content_security_policy},
      {"X-Content-Type-Options", "nosniff"},
      {"X-Frame-Options", "DENY"},
      {"Referrer-Policy", "no-referrer"},
      {"Cross-Origin-Opener-Policy", "same-origin"},
      {"Cross-Origin-Resource-Policy", "same-origin"},
  };
  // Not for localhost: browsers would hold it against everything else that runs there.
  if (request.is_tls && !request.host.starts_with("localhost"))
    headers.emplace_back("Strict-Transport-Security", "max-age=31536000");
  if (!response.may_be_cached) headers.emplace_back("Cache-Control", "no-store");
  return headers;
}

bool is_header_safe(std::string_view value) {
  return std::ranges::none_of(value, is_control);
}

}  // namespace trib::server::http
