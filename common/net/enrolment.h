// Joining a federation: the token that an operator hands out, and the exchange that turns it into a certificate.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "common/net/tls.h"
#include "common/net/x509.h"
#include "proto/tributary.pb.h"

namespace trib::net {

// "trib1." and the invite as base64url: one word, safe in a shell and in a mail. It carries a secret: never logged.
std::string make_token(const tributary::proto::Invite& invite);
// Errc::invalid_argument: not a token, cut short, or of another version.
Result<tributary::proto::Invite> parse_token(std::string_view token);

struct Enrolment {
  Certificate certificate;  // for the key that asked
  Certificate ca;
  std::string site;  // the certificate's name, as the operator chose it
  std::string federation;
};

// Redeems an invite for `key`: the aggregator is believed because its CA has the token's fingerprint. Tries the token's
// addresses in turn. Safe to repeat with the same key (after a lost answer, say): the certificate is the same. Errors:
// Errc::unavailable or deadline_exceeded (nobody answers), unauthenticated (another CA), and what the aggregator
// refuses with: deadline_exceeded (expired), already_exists (used with another key), not_found, permission_denied.
asio::awaitable<Result<Enrolment>> enrol(asio::any_io_executor executor, tributary::proto::Invite invite,
                                         PrivateKey key, Milliseconds timeout);

// Renews a certificate that has lapsed, for the same key, within the aggregator's grace period. Errc::permission_denied
// if it is revoked or lapsed too long ago: a new invite is needed.
asio::awaitable<Result<Enrolment>> renew_lapsed(asio::any_io_executor executor, std::vector<std::string> addresses,
                                                Certificate ca, ClientCredentials lapsed, Milliseconds timeout);

// Errors on the wire are an error code as text and a message.
Errc errc_from_text(std::string_view text);  // Errc::internal for an unknown text

}  // namespace trib::net
