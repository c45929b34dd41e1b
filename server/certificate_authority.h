// Who belongs to the federation: invites, certificates, their renewal and their end.
//
// The CA's key signs; the store remembers. A certificate counts as long as it is signed by the CA, within its dates,
// its site is in the store, not revoked, and has not been enrolled anew since the certificate was issued: so a new
// invite for a site that lost its machine locks the old machine out.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "common/net/channel.h"
#include "common/net/tls.h"
#include "common/net/x509.h"
#include "common/result.h"
#include "proto/tributary.pb.h"
#include "server/config.h"
#include "server/store.h"

namespace trib::server {

class CertificateAuthority {
 public:
  // `store` and `clock` must outlive it. Errc::not_found, invalid_argument: the CA's files are missing or do not belong
  // together.
  static Result<CertificateAuthority> open(const ServerDirectory& directory, const ServerConfig& config, Store& store,
                                           const Clock& clock);

  const net::Certificate& ca_certificate() const { return issuer_.ca_certificate(); }

  // A one-time token's content for this name, to be used within `valid_for`. Of the secret only its SHA-256 is stored.
  // Errc::invalid_argument for a bad name; already_exists if the name belongs to a member of the other role.
  Result<tributary::proto::Invite> invite(std::string_view name, bool is_operator, Milliseconds valid_for,
                                          const std::vector<net::HostPort>& addresses);

  // The certificate for the key in the request. Used again with the same key it is the same certificate, even after the
  // invite's end. Errc::not_found (no such invite), deadline_exceeded (expired), already_exists (used with another
  // key), permission_denied (the site was revoked since), invalid_argument (a bad request).
  Result<net::Certificate> redeem(std::string_view secret, std::string_view certificate_request_pem);

  // A new certificate for a member that is connected with a good one, for any key whose possession the request proves.
  // Asked again for the same key within a tenth of the lifetime it is the same certificate.
  Result<net::Certificate> renew(const net::PeerIdentity& peer, std::string_view certificate_request_pem);

  // A new certificate for a lapsed one, for the same key, within the grace period. Errc::permission_denied otherwise.
  Result<net::Certificate> renew_lapsed(std::string_view lapsed_pem, std::string_view certificate_request_pem);

  // Whether the holder of this certificate (signed by the CA, within its dates) is let in. Errc::permission_denied with
  // the reason.
  Status check(const net::PeerIdentity& peer) const;

  // Errc::not_found, already_exists (revoked before).
  Status revoke(std::string_view name, std::string_view reason);

 private:
  CertificateAuthority(net::CertificateIssuer issuer, const ServerConfig& config, Store& store, const Clock& clock);
  Result<net::Certificate> issue(std::string_view name, bool is_operator, std::string_view request_pem) const;

  net::CertificateIssuer issuer_;
  std::string federation_;
  Milliseconds lifetime_, grace_;
  Store* store_;
  const Clock* clock_;
};

// Makes sure that the aggregator's own certificate exists, names the hosts of the configuration and has more than a
// third of its life before it; issues it anew otherwise, for the same key. True if it was.
Result<bool> renew_server_certificate(const ServerDirectory& directory, const ServerConfig& config, const Clock& clock);

Result<net::ClientCredentials> load_server_credentials(const ServerDirectory& directory);

}  // namespace trib::server
