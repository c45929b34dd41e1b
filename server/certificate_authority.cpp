#include "server/certificate_authority.h"

#include <algorithm>

#include "common/files.h"
#include "common/random.h"

namespace trib::server {
namespace {

constexpr std::size_t secret_bytes = 32;
constexpr auto clock_slack = std::chrono::hours(1);  // for sites whose clocks are behind the aggregator's

std::string_view role_name(bool is_operator) {
  return is_operator ? "operator" : "site";
}

WallTime to_seconds(WallTime time) {
  return std::chrono::floor<std::chrono::seconds>(time);
}

std::vector<std::string> all_host_names(const ServerConfig& config) {
  std::vector<std::string> names = config.host_names;
  for (const char* own : {"localhost", "127.0.0.1", "::1"})
    if (std::ranges::find(names, own) == names.end()) names.emplace_back(own);
  return names;
}

Result<net::CertificateIssuer> load_issuer(const ServerDirectory& directory) {
  TRIB_ASSIGN(const std::string certificate, read_file(directory.ca_certificate()));
  TRIB_ASSIGN(const std::string key, read_file(directory.ca_key()));
  auto issuer = net::CertificateIssuer::from_pem(certificate, key);
  if (!issuer) return issuer.error().with_context(directory.ca_key().parent_path().string());
  return issuer;
}

// Whether the certificate may go on being used: right names, right CA, more than a third of its life left.
bool is_fresh(const net::Certificate& certificate, const net::Certificate& ca, std::vector<std::string> names,
              WallTime now) {
  std::vector<std::string> actual = certificate.host_names();
  std::ranges::sort(actual);
  std::ranges::sort(names);
  const auto lifetime = certificate.not_after() - certificate.not_before();
  return actual == names && certificate.issued_by(ca) && certificate.not_after() - now > lifetime / 3;
}

}  // namespace

CertificateAuthority::CertificateAuthority(net::CertificateIssuer issuer, const ServerConfig& config, Store& store,
                                           const Clock& clock)
    : issuer_(std::move(issuer)),
      federation_(config.federation),
      lifetime_(config.site_certificate_lifetime),
      grace_(config.renewal_grace),
      store_(&store),
      clock_(&clock) {}

Result<CertificateAuthority> CertificateAuthority::open(const ServerDirectory& directory, const ServerConfig& config,
                                                        Store& store, const Clock& clock) {
  TRIB_ASSIGN(net::CertificateIssuer issuer, load_issuer(directory));
  return CertificateAuthority(std::move(issuer), config, store, clock);
}

Result<tributary::proto::Invite> CertificateAuthority::invite(std::string_view name, bool is_operator,
                                                              Milliseconds valid_for,
                                                              const std::vector<net::HostPort>& addresses) {
  TRIB_TRY(check_member_name(name));
  if (valid_for <= Milliseconds(0)) return Error{Errc::invalid_argument, "an invite must be valid for some time"};
  TRIB_ASSIGN(const auto member, store_->find_site(name));
  if (member && member->is_operator != is_operator && !member->revoked)
    return Error{Errc::already_exists, "'" + std::string(name) + "' is the name of a" +
                                           (member->is_operator ? "n operator" : " site") +
                                           " already: choose another name"};
  ChaCha20Random random(RandomKey::from_system());
  std::string secret(secret_bytes, '\0');
  random.fill(std::span(reinterpret_cast<std::uint8_t*>(secret.data()), secret.size()));
  InviteRecord record;
  record.secret_sha256 = sha256(secret);
  record.site = name;
  record.is_operator = is_operator;
  record.expires = clock_->wall_now() + valid_for;
  TRIB_TRY(store_->put_invite(record));

  tributary::proto::Invite invite;
  invite.set_federation(federation_);
  invite.set_site(std::string(name));
  for (const net::HostPort& address : addresses) invite.add_addresses(address.to_string());
  const Sha256 fingerprint = ca_certificate().sha256();
  invite.set_ca_sha256(std::string(fingerprint.begin(), fingerprint.end()));
  invite.set_secret(secret);
  invite.set_expires_unix(std::chrono::floor<std::chrono::seconds>(record.expires).time_since_epoch().count());
  return invite;
}

Result<net::Certificate> CertificateAuthority::issue(std::string_view name, bool is_operator,
                                                     std::string_view request_pem) const {
  const WallTime now = clock_->wall_now();
  // Only the aggregator checks these, by its own clock: no slack. check() compares not_before with the enrolment.
  return issuer_.issue(
      request_pem, {.common_name = std::string(name), .role = std::string(role_name(is_operator)), .host_names = {}},
      to_seconds(now), now + lifetime_);
}

Result<net::Certificate> CertificateAuthority::redeem(std::string_view secret, std::string_view request_pem) {
  TRIB_ASSIGN(const Sha256 key, net::check_certificate_request(request_pem));
  const Sha256 secret_sha256 = sha256(secret);
  TRIB_ASSIGN(const auto invite, store_->find_invite(secret_sha256));
  if (!invite)
    return Error{Errc::not_found,
                 "this token is not known here: ask the operator of '" + federation_ + "' for a new one"};
  if (invite->used_by_key) {
    if (*invite->used_by_key != key)
      return Error{Errc::already_exists, "the token for '" + invite->site +
                                             "' was used before, with another key: ask for a new one, and tell the "
                                             "operator if that was not you"};
    TRIB_ASSIGN(const auto record, store_->find_certificate(invite->certificate_serial));
    if (!record)
      return Error{Errc::corrupt, "the certificate that the token for '" + invite->site + "' got is not in the store"};
    TRIB_ASSIGN(net::Certificate certificate, net::Certificate::from_pem(record->pem));
    net::PeerIdentity holder;
    holder.name = record->site;
    holder.role = role_name(record->is_operator);
    holder.serial = record->serial;
    holder.not_before = certificate.not_before();
    TRIB_TRY(check(holder));
    return certificate;
  }
  const WallTime now = clock_->wall_now();
  if (now > invite->expires)
    return Error{Errc::deadline_exceeded, "the token for '" + invite->site + "' expired at " +
                                              to_iso8601(invite->expires) + ": ask the operator for a new one"};
  TRIB_ASSIGN(net::Certificate certificate, issue(invite->site, invite->is_operator, request_pem));
  const CertificateRecord record{certificate.serial(), invite->site, invite->is_operator, certificate.not_after(),
                                 certificate.to_pem()};
  TRIB_TRY(store_->redeem_invite(secret_sha256, key, record, now));
  return certificate;
}

Result<net::Certificate> CertificateAuthority::renew(const net::PeerIdentity& peer, std::string_view request_pem) {
  TRIB_TRY(check(peer));
  TRIB_ASSIGN(const Sha256 key, net::check_certificate_request(request_pem));
  TRIB_ASSIGN(const auto records, store_->certificates(peer.name));
  if (!records.empty()) {
    TRIB_ASSIGN(net::Certificate last, net::Certificate::from_pem(records.back().pem));
    const auto age = clock_->wall_now() - last.not_before();
    if (last.public_key_sha256() == key && age < lifetime_ / 10) return last;
  }
  const bool is_operator = peer.role == role_name(true);
  TRIB_ASSIGN(net::Certificate certificate, issue(peer.name, is_operator, request_pem));
  TRIB_TRY(store_->add_certificate(
      {certificate.serial(), peer.name, is_operator, certificate.not_after(), certificate.to_pem()}));
  return certificate;
}

Result<net::Certificate> CertificateAuthority::renew_lapsed(std::string_view lapsed_pem, std::string_view request_pem) {
  TRIB_ASSIGN(const net::Certificate lapsed, net::Certificate::from_pem(lapsed_pem));
  const std::string name = lapsed.common_name();
  if (!lapsed.issued_by(ca_certificate()))
    return Error{Errc::permission_denied, "the certificate of '" + name + "' comes from another federation's CA"};
  TRIB_ASSIGN(const Sha256 key, net::check_certificate_request(request_pem));
  if (key != lapsed.public_key_sha256())
    return Error{Errc::permission_denied, "a lapsed certificate renews for its own key only: ask for a new invite"};
  if (clock_->wall_now() > lapsed.not_after() + grace_)
    return Error{Errc::permission_denied, "the certificate of '" + name + "' lapsed at " +
                                              to_iso8601(lapsed.not_after()) +
                                              ", longer ago than tls.renewal_grace allows: ask for a new invite"};
  net::PeerIdentity holder;
  holder.name = name;
  holder.role = lapsed.organizational_unit();
  holder.serial = lapsed.serial();
  holder.not_before = lapsed.not_before();
  holder.not_after = lapsed.not_after();
  if (holder.role != role_name(false) && holder.role != role_name(true))
    return Error{Errc::permission_denied, "a certificate of the role '" + holder.role + "' is not renewed here"};
  return renew(holder, request_pem);
}

Status CertificateAuthority::check(const net::PeerIdentity& peer) const {
  TRIB_ASSIGN(const auto member, store_->find_site(peer.name));
  if (!member)
    return Error{Errc::permission_denied, "'" + peer.name +
                                              "' is not enrolled here; if the store was restored from an older backup, "
                                              "invite it again"};
  if (member->revoked)
    return Error{Errc::permission_denied,
                 "'" + peer.name + "' was revoked at " + to_iso8601(*member->revoked) +
                     (member->revocation_reason.empty() ? "" : ": " + member->revocation_reason)};
  if (peer.role != role_name(member->is_operator))
    return Error{Errc::permission_denied, "'" + peer.name + "' is enrolled as a" +
                                              (member->is_operator ? "n operator" : " site") +
                                              ", its certificate says " + peer.role};
  if (peer.not_before < to_seconds(member->enrolled))
    return Error{Errc::permission_denied, "'" + peer.name + "' was enrolled anew at " + to_iso8601(member->enrolled) +
                                              "; certificate " + peer.serial + " is from before and no longer counts"};
  return {};
}

Status CertificateAuthority::revoke(std::string_view name, std::string_view reason) {
  TRIB_ASSIGN(const auto member, store_->find_site(name));
  if (member && member->revoked)
    return Error{Errc::already_exists, "'" + std::string(name) + "' was revoked at " + to_iso8601(*member->revoked)};
  return store_->revoke_site(name, reason, clock_->wall_now());
}

Result<bool> renew_server_certificate(const ServerDirectory& directory, const ServerConfig& config,
                                      const Clock& clock) {
  TRIB_ASSIGN(const net::CertificateIssuer issuer, load_issuer(directory));
  const std::vector<std::string> names = all_host_names(config);
  const WallTime now = clock.wall_now();
  if (!std::filesystem::exists(directory.key()))
    TRIB_TRY(write_file_durably(directory.key(), net::PrivateKey::generate().to_pem(), 0600));
  TRIB_ASSIGN(const std::string key_pem, read_file(directory.key()));
  TRIB_ASSIGN(const net::PrivateKey key, net::PrivateKey::from_pem(key_pem));
  if (std::filesystem::exists(directory.certificate())) {
    TRIB_ASSIGN(const std::string pem, read_file(directory.certificate()));
    const auto certificate = net::Certificate::from_pem(pem);
    if (certificate && certificate->public_key_sha256() == key.public_key_sha256() &&
        is_fresh(*certificate, issuer.ca_certificate(), names, now))
      return false;
  }
  TRIB_ASSIGN(const net::Certificate certificate,
              issuer.issue(net::make_certificate_request(key, "aggregator"),
                           {.common_name = "aggregator", .role = "aggregator", .host_names = names},
                           now - std::min<Milliseconds>(clock_slack, config.server_certificate_lifetime),
                           now + config.server_certificate_lifetime));
  TRIB_TRY(write_file_durably(directory.certificate(), certificate.to_pem()));
  return true;
}

Result<net::ClientCredentials> load_server_credentials(const ServerDirectory& directory) {
  net::ClientCredentials credentials;
  TRIB_ASSIGN(const std::string certificate_pem, read_file(directory.certificate()));
  TRIB_ASSIGN(const std::string key_pem, read_file(directory.key()));
  TRIB_ASSIGN(credentials.certificate, net::Certificate::from_pem(certificate_pem));
  TRIB_ASSIGN(credentials.key, net::PrivateKey::from_pem(key_pem));
  return credentials;
}

}  // namespace trib::server
