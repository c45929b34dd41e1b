// Who this site is: its key, made here and never sent, and the certificate the federation gave for it.
#pragma once

#include <string>

#include "client/site_config.h"
#include "common/clock.h"
#include "common/net/x509.h"
#include "common/result.h"

namespace trib::client {

struct Identity {
  net::PrivateKey key;
  net::Certificate certificate;
  net::Certificate ca;

  std::string site() const { return certificate.common_name(); }
};

// Reads key.pem, certificate.pem and ca.pem. Errc::not_found says how to join; permission_denied if others may read the
// key; corrupt if the certificate is not for the key or not from the CA.
Result<Identity> load_identity(const SiteDirectory& directory);

// Reads key.pem, or makes a key and writes it (mode 0600) before anybody hears of it: so a request that was cut short
// can be sent again with the same key.
Result<net::PrivateKey> load_or_make_key(const SiteDirectory& directory);

// A certificate is renewed once two thirds of its life are over.
bool is_renewal_due(const net::Certificate& certificate, WallTime now);
bool is_lapsed(const net::Certificate& certificate, WallTime now);

// Checks a certificate that the aggregator issued (for this key and this site, from the CA, not in the past) and puts
// it in the place of the old one, durably. Errc::protocol_error says what is wrong with it.
Status accept_certificate(Identity& identity, const SiteDirectory& directory, const std::string& pem,
                          const Clock& clock);

}  // namespace trib::client
