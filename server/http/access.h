// Who is asking, and whether a change really comes from them: bearer tokens, and browsers' sessions opened with one.
//
// A session is a random cookie that scripts cannot read, bound to the token it was opened with: revoking the token ends
// it. A browser sends cookies with requests that other sites' pages make, so a change by cookie needs a second secret
// that only our own page has (X-Tributary-CSRF), and an Origin that is ours. Sessions are in memory alone: after a
// restart people sign in again.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "common/clock.h"
#include "common/hash.h"
#include "server/access_tokens.h"
#include "server/http/message.h"

namespace trib::server::http {

struct Identity {
  std::string name;  // of the token
  bool is_operator = false;
  Sha256 token_sha256{};
  std::optional<Sha256> session;  // digest of the cookie; none for a bearer token
  std::string csrf;               // of the session
  std::optional<WallTime> expires;

  std::string in_log() const { return (is_operator ? "operator's token '" : "viewer's token '") + name + "'"; }
};

// The name of the cookie: with TLS one that no other host or path can set.
std::string_view cookie_name(bool is_tls);

// Whether an Origin header, where there is one, names the host that the request was sent to.
bool is_own_origin(const Request& request);

class Access {
 public:
  // Everything outlives it.
  Access(AccessTokens& tokens, const Clock& clock, Milliseconds session_lifetime)
      : tokens_(tokens), clock_(clock), lifetime_(session_lifetime) {}

  // Errc::unauthenticated says what is missing or no longer good. A bearer token is looked at first, and alone.
  Result<Identity> authenticate(const Request& request);
  // Errc::permission_denied: a change by cookie without the session's CSRF token, or from another origin.
  static Status check_change(const Request& request, const Identity& identity);

  struct Login {
    Identity identity;
    std::string set_cookie;
  };
  // A new session for the token. Errc::unauthenticated; permission_denied from another origin.
  Result<Login> log_in(const Request& request, std::string_view token);
  // Ends the session; returns the cookie that makes the browser forget its own.
  std::string log_out(const Request& request, const Identity& identity);
  // Whether what authenticate() found is still so: the token, and the session if there is one.
  bool is_live(const Identity& identity) const;

 private:
  struct Session {
    Sha256 token_sha256{};
    std::string name, csrf;
    bool is_operator = false;
    WallTime wall_expires{};
    MonotonicTime expires{};
  };
  void sweep();

  AccessTokens& tokens_;
  const Clock& clock_;
  Milliseconds lifetime_;
  std::map<Sha256, Session> sessions_;  // by digest of the cookie: looking one up tells nothing about the others
};

}  // namespace trib::server::http
