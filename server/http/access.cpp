#include "server/http/access.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <span>

namespace trib::server::http {
namespace {

constexpr std::size_t most_sessions = 1000;
constexpr std::string_view bearer = "Bearer ";

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, [](char x, char y) {
    const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
    return lower(x) == lower(y);
  });
}

bool equal_secrets(std::string_view a, std::string_view b) {
  const auto bytes = [](std::string_view text) {
    return std::span(reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
  };
  return equal_constant_time(bytes(a), bytes(b));
}

// The value of one cookie in a Cookie header; empty if it is not there, or there twice.
std::string_view find_cookie(std::string_view header, std::string_view name) {
  std::string_view found;
  int count = 0;
  while (!header.empty()) {
    const std::size_t end = std::min(header.find(';'), header.size());
    std::string_view pair = header.substr(0, end);
    header.remove_prefix(std::min(end + 1, header.size()));
    while (!pair.empty() && pair.front() == ' ') pair.remove_prefix(1);
    while (!pair.empty() && pair.back() == ' ') pair.remove_suffix(1);
    if (pair.size() > name.size() && pair.starts_with(name) && pair[name.size()] == '=') {
      found = pair.substr(name.size() + 1);
      ++count;
    }
  }
  return count == 1 ? found : std::string_view();
}

std::string make_cookie(bool is_tls, std::string_view value, std::int64_t seconds) {
  return fmt::format("{}={}; Path=/; HttpOnly; SameSite=Strict; Max-Age={}{}", cookie_name(is_tls), value, seconds,
                     is_tls ? "; Secure" : "");
}

}  // namespace

std::string_view cookie_name(bool is_tls) {
  return is_tls ? "__Host-tributary" : "tributary";
}

bool is_own_origin(const Request& request) {
  // Browsers that send it say it plainly; "none" is the person's own doing.
  if (!request.fetch_site.empty() && request.fetch_site != "same-origin" && request.fetch_site != "none") return false;
  if (request.origin.empty()) return true;
  // Without TLS here there may be some at a proxy: then the scheme is the proxy's, and the host decides.
  for (const std::string_view scheme : {"https://", "http://"}) {
    if (!request.origin.starts_with(scheme) || (request.is_tls && scheme == "http://")) continue;
    return equal_ignoring_case(std::string_view(request.origin).substr(scheme.size()), request.host);
  }
  return false;
}

Result<Identity> Access::authenticate(const Request& request) {
  if (!request.authorization.empty()) {
    const std::string_view value = request.authorization;
    if (value.size() <= bearer.size() || !equal_ignoring_case(value.substr(0, bearer.size()), bearer))
      return Error{Errc::unauthenticated, "the Authorization header must be 'Bearer TOKEN'"};
    const auto token = tokens_.find(value.substr(bearer.size()));
    if (!token)
      return Error{Errc::unauthenticated,
                   "this token is not known here, or was revoked: `trib token create NAME` makes another"};
    return Identity{token->name, token->is_operator, token->token_sha256, std::nullopt, {}, std::nullopt};
  }
  const std::string_view cookie = find_cookie(request.cookie, cookie_name(request.is_tls));
  if (cookie.empty())
    return Error{Errc::unauthenticated,
                 "a token is needed: `trib token create NAME` on the aggregator's machine makes one; send it as "
                 "'Authorization: Bearer TOKEN', or sign in with it"};
  const Sha256 digest = sha256(cookie);
  const auto found = sessions_.find(digest);
  const bool is_good =
      found != sessions_.end() && found->second.expires > clock_.now() && tokens_.is_live(found->second.token_sha256);
  if (!is_good) {
    if (found != sessions_.end()) sessions_.erase(found);
    return Error{Errc::unauthenticated, "the session has ended: sign in again"};
  }
  const Session& session = found->second;
  return Identity{session.name, session.is_operator, session.token_sha256, digest, session.csrf, session.wall_expires};
}

Status Access::check_change(const Request& request, const Identity& identity) {
  if (!identity.session) return {};  // no browser adds a bearer token on its own
  if (!is_own_origin(request))
    return Error{Errc::permission_denied, "a page of another origin may change nothing here"};
  if (!equal_secrets(request.csrf, identity.csrf))
    return Error{Errc::permission_denied,
                 "a change from a browser's session needs the header X-Tributary-CSRF with the value that "
                 "GET /api/v1/session returns"};
  return {};
}

Result<Access::Login> Access::log_in(const Request& request, std::string_view token) {
  if (!is_own_origin(request)) return Error{Errc::permission_denied, "a page of another origin may not sign in here"};
  const auto known = tokens_.find(token);
  if (!known)
    return Error{Errc::unauthenticated,
                 "this token is not known here, or was revoked: `trib token create NAME` makes another"};
  sweep();
  const std::string cookie = random_secret();
  Session session;
  session.token_sha256 = known->token_sha256;
  session.name = known->name;
  session.is_operator = known->is_operator;
  session.csrf = random_secret();
  session.expires = clock_.now() + lifetime_;
  session.wall_expires = clock_.wall_now() + lifetime_;
  const Sha256 digest = sha256(cookie);
  Login login{{session.name, session.is_operator, session.token_sha256, digest, session.csrf, session.wall_expires},
              make_cookie(request.is_tls, cookie, std::chrono::floor<std::chrono::seconds>(lifetime_).count())};
  sessions_[digest] = std::move(session);
  return login;
}

std::string Access::log_out(const Request& request, const Identity& identity) {
  if (identity.session) sessions_.erase(*identity.session);
  return make_cookie(request.is_tls, "", 0);
}

bool Access::is_live(const Identity& identity) const {
  if (!tokens_.is_live(identity.token_sha256)) return false;
  if (!identity.session) return true;
  const auto found = sessions_.find(*identity.session);
  return found != sessions_.end() && found->second.expires > clock_.now();
}

// Keeps the table small: what has ended goes, and then whoever would end first.
void Access::sweep() {
  const MonotonicTime now = clock_.now();
  std::erase_if(sessions_, [&](const auto& entry) {
    return entry.second.expires <= now || !tokens_.is_live(entry.second.token_sha256);
  });
  while (sessions_.size() >= most_sessions)
    sessions_.erase(std::ranges::min_element(sessions_, {}, [](const auto& entry) { return entry.second.expires; }));
}

}  // namespace trib::server::http
