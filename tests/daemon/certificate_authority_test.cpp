#include "server/certificate_authority.h"

#include <gtest/gtest.h>

#include "common/files.h"
#include "server/init.h"
#include "server/sqlite_store.h"
#include "tests/common/temporary_directory.h"

namespace trib::server {
namespace {

using namespace std::chrono_literals;

class CertificateAuthorityTest : public ::testing::Test {
 protected:
  CertificateAuthorityTest() {
    clock.set_wall(WallTime(std::chrono::sys_days{std::chrono::November / 24 / 2026}));
    InitOptions options;
    options.directory = directory.path() / "federation";
    options.federation = "test";
    options.listen = "127.0.0.1:7443";
    options.host_names = {"aggregator.example"};
    init_federation(options, clock).value();
    layout.root = options.directory;
    config = read_server_config(layout.config()).value();
    config.site_certificate_lifetime = 10h;
    config.renewal_grace = 20h;
    store = SqliteStore::open(":memory:").value();
    authority.emplace(CertificateAuthority::open(layout, config, *store, clock).value());
  }

  std::string invite(const std::string& name, bool is_operator = false) {
    return authority->invite(name, is_operator, 1h, config.advertise).value().secret();
  }
  static std::string request(const net::PrivateKey& key) { return net::make_certificate_request(key, "any"); }
  static net::PeerIdentity identity(const net::Certificate& certificate) {
    net::PeerIdentity peer;
    peer.name = certificate.common_name();
    peer.role = certificate.organizational_unit();
    peer.serial = certificate.serial();
    peer.not_before = certificate.not_before();
    peer.not_after = certificate.not_after();
    return peer;
  }

  test::TemporaryDirectory directory;
  ManualClock clock;
  ServerDirectory layout;
  ServerConfig config;
  std::unique_ptr<SqliteStore> store;
  std::optional<CertificateAuthority> authority;
  net::PrivateKey key = net::PrivateKey::generate();
};

TEST_F(CertificateAuthorityTest, AnInviteNamesTheFederationItsCaAndTheAddresses) {
  const auto invite = authority->invite("clinic-7", false, 1h, config.advertise).value();
  EXPECT_EQ(invite.federation(), "test");
  EXPECT_EQ(invite.site(), "clinic-7");
  ASSERT_EQ(invite.addresses_size(), 1);
  EXPECT_EQ(invite.addresses(0), "aggregator.example:7443");
  const Sha256 fingerprint = authority->ca_certificate().sha256();
  EXPECT_EQ(invite.ca_sha256(), std::string(fingerprint.begin(), fingerprint.end()));
  EXPECT_EQ(WallTime(std::chrono::seconds(invite.expires_unix())), clock.wall_now() + 1h);
}

TEST_F(CertificateAuthorityTest, TheStoreKeepsOnlyTheHashOfASecret) {
  const std::string secret = invite("clinic-7");
  EXPECT_FALSE(store->find_invite(Sha256{}).value().has_value());
  EXPECT_TRUE(store->find_invite(sha256(secret)).value().has_value());
  EXPECT_NE(invite("clinic-7"), secret);
}

TEST_F(CertificateAuthorityTest, RedeemingGivesACertificateWithTheInvitedNameAndALimitedLife) {
  const auto certificate = authority->redeem(invite("clinic-7"), request(key)).value();
  EXPECT_EQ(certificate.common_name(), "clinic-7");
  EXPECT_EQ(certificate.organizational_unit(), "site");
  EXPECT_EQ(certificate.public_key_sha256(), key.public_key_sha256());
  EXPECT_TRUE(certificate.issued_by(authority->ca_certificate()));
  EXPECT_EQ(certificate.not_after(), clock.wall_now() + 10h);
  EXPECT_TRUE(authority->check(identity(certificate)).ok());
  EXPECT_EQ(authority->redeem(invite("alice", true), request(key)).value().organizational_unit(), "operator");
}

TEST_F(CertificateAuthorityTest, TheSameKeyGetsTheSameCertificateAgainEvenAfterTheInvitesEnd) {
  const std::string secret = invite("clinic-7");
  const auto first = authority->redeem(secret, request(key)).value();
  clock.advance(2h);
  EXPECT_EQ(authority->redeem(secret, request(key)).value().sha256(), first.sha256());
}

TEST_F(CertificateAuthorityTest, ASecondUseWithAnotherKeyIsRefusedAndSaysSo) {
  const std::string secret = invite("clinic-7");
  authority->redeem(secret, request(key)).value();
  const auto second = authority->redeem(secret, request(net::PrivateKey::generate()));
  EXPECT_EQ(second.error().code, Errc::already_exists);
  EXPECT_NE(second.error().message.find("'clinic-7' was used before, with another key"), std::string::npos)
      << second.error().message;
}

TEST_F(CertificateAuthorityTest, AnExpiredInviteIsRefusedAndSaysWhenItExpired) {
  const std::string secret = invite("clinic-7");
  clock.advance(1h);
  clock.advance(1ms);
  const auto late = authority->redeem(secret, request(key));
  EXPECT_EQ(late.error().code, Errc::deadline_exceeded);
  EXPECT_NE(late.error().message.find("expired at 2026-11-24T01:00:00"), std::string::npos) << late.error().message;
  EXPECT_FALSE(store->find_site("clinic-7").value().has_value());
}

TEST_F(CertificateAuthorityTest, AnUnknownSecretAndABadRequestAreRefused) {
  EXPECT_EQ(authority->redeem(std::string(32, 'x'), request(key)).error().code, Errc::not_found);
  EXPECT_EQ(authority->redeem("", request(key)).error().code, Errc::not_found);
  EXPECT_EQ(authority->redeem(invite("clinic-7"), "no request").error().code, Errc::invalid_argument);
}

TEST_F(CertificateAuthorityTest, ABadNameOrOneOfTheOtherRoleIsNotInvited) {
  for (const char* name : {"", "clinic 7", "../clinic", "-clinic", "clinic\n", "Klinik-Süd"})
    EXPECT_EQ(authority->invite(name, false, 1h, config.advertise).error().code, Errc::invalid_argument) << name;
  EXPECT_EQ(authority->invite(std::string(65, 'a'), false, 1h, config.advertise).error().code, Errc::invalid_argument);
  authority->redeem(invite("clinic-7"), request(key)).value();
  EXPECT_EQ(authority->invite("clinic-7", true, 1h, config.advertise).error().code, Errc::already_exists);
}

TEST_F(CertificateAuthorityTest, ARevokedSiteIsShutOutWithTheReason) {
  const std::string secret = invite("clinic-7");
  const auto certificate = authority->redeem(secret, request(key)).value();
  ASSERT_TRUE(authority->revoke("clinic-7", "left the federation").ok());
  const Status checked = authority->check(identity(certificate));
  EXPECT_EQ(checked.error().code, Errc::permission_denied);
  EXPECT_NE(checked.error().message.find("left the federation"), std::string::npos) << checked.error().message;
  EXPECT_EQ(authority->redeem(secret, request(key)).error().code, Errc::permission_denied);
  EXPECT_EQ(authority->renew(identity(certificate), request(key)).error().code, Errc::permission_denied);
  EXPECT_EQ(authority->renew_lapsed(certificate.to_pem(), request(key)).error().code, Errc::permission_denied);
  EXPECT_EQ(authority->revoke("clinic-7", "again").error().code, Errc::already_exists);
  EXPECT_EQ(authority->revoke("nobody", "").error().code, Errc::not_found);
}

TEST_F(CertificateAuthorityTest, ANewInviteEnrolsARevokedSiteAnewButNotItsOldCertificates) {
  const auto old = authority->redeem(invite("clinic-7"), request(key)).value();
  ASSERT_TRUE(authority->revoke("clinic-7", "lost its machine").ok());
  clock.advance(1min);
  const net::PrivateKey new_key = net::PrivateKey::generate();
  const auto fresh = authority->redeem(invite("clinic-7"), request(new_key)).value();
  EXPECT_TRUE(authority->check(identity(fresh)).ok());
  const Status checked = authority->check(identity(old));
  EXPECT_EQ(checked.error().code, Errc::permission_denied);
  EXPECT_NE(checked.error().message.find("enrolled anew"), std::string::npos) << checked.error().message;
  EXPECT_EQ(authority->renew_lapsed(old.to_pem(), request(key)).error().code, Errc::permission_denied);
}

TEST_F(CertificateAuthorityTest, ACertificateOfASiteThatIsNotInTheStoreOrHasAnotherRoleDoesNotCount) {
  const auto certificate = authority->redeem(invite("clinic-7"), request(key)).value();
  net::PeerIdentity unknown = identity(certificate);
  unknown.name = "clinic-8";
  EXPECT_EQ(authority->check(unknown).error().code, Errc::permission_denied);
  net::PeerIdentity promoted = identity(certificate);
  promoted.role = "operator";
  EXPECT_EQ(authority->check(promoted).error().code, Errc::permission_denied);
}

TEST_F(CertificateAuthorityTest, RenewsOverALiveSessionForAnyKeyThatIsProven) {
  const auto first = authority->redeem(invite("clinic-7"), request(key)).value();
  clock.advance(7h);
  const net::PrivateKey next_key = net::PrivateKey::generate();
  const auto renewed = authority->renew(identity(first), request(next_key)).value();
  EXPECT_EQ(renewed.common_name(), "clinic-7");
  EXPECT_EQ(renewed.public_key_sha256(), next_key.public_key_sha256());
  EXPECT_EQ(renewed.not_after(), clock.wall_now() + 10h);
  EXPECT_EQ(authority->renew(identity(first), request(next_key)).value().serial(), renewed.serial())
      << "asked again at once";
  EXPECT_EQ(authority->renew(identity(first), "no request").error().code, Errc::invalid_argument);
}

TEST_F(CertificateAuthorityTest, ALapsedCertificateRenewsForItsOwnKeyWithinTheGracePeriod) {
  const auto lapsed = authority->redeem(invite("clinic-7"), request(key)).value();
  clock.advance(29h);
  EXPECT_EQ(authority->renew_lapsed(lapsed.to_pem(), request(net::PrivateKey::generate())).error().code,
            Errc::permission_denied);
  const auto renewed = authority->renew_lapsed(lapsed.to_pem(), request(key)).value();
  EXPECT_EQ(renewed.not_after(), clock.wall_now() + 10h);
  clock.advance(2h);
  const auto late = authority->renew_lapsed(lapsed.to_pem(), request(key));
  EXPECT_EQ(late.error().code, Errc::permission_denied);
  EXPECT_NE(late.error().message.find("tls.renewal_grace"), std::string::npos) << late.error().message;
}

TEST_F(CertificateAuthorityTest, ALapsedCertificateOfAnotherCaOrTheAggregatorsOwnDoesNotRenew) {
  const auto stranger = net::CertificateIssuer::create("test", clock);
  const auto forged = stranger
                          .issue(request(key), {.common_name = "clinic-7", .role = "site", .host_names = {}},
                                 clock.wall_now(), clock.wall_now() + 1h)
                          .value();
  EXPECT_EQ(authority->renew_lapsed(forged.to_pem(), request(key)).error().code, Errc::permission_denied);
  const auto own = load_server_credentials(layout).value();
  EXPECT_EQ(authority->renew_lapsed(own.certificate.to_pem(), request(own.key)).error().code, Errc::permission_denied);
}

TEST_F(CertificateAuthorityTest, TheAggregatorsCertificateRenewsInItsLastThirdForTheSameKey) {
  const auto before = load_server_credentials(layout).value();
  EXPECT_FALSE(renew_server_certificate(layout, config, clock).value());
  clock.advance(config.server_certificate_lifetime * 3 / 4);
  EXPECT_TRUE(renew_server_certificate(layout, config, clock).value());
  const auto after = load_server_credentials(layout).value();
  EXPECT_NE(after.certificate.serial(), before.certificate.serial());
  EXPECT_EQ(after.key.public_key_sha256(), before.key.public_key_sha256());
  EXPECT_TRUE(after.certificate.issued_by(authority->ca_certificate()));
}

TEST_F(CertificateAuthorityTest, TheAggregatorsCertificateFollowsTheConfiguredHostNames) {
  config.host_names = {"new-name.example"};
  EXPECT_TRUE(renew_server_certificate(layout, config, clock).value());
  const auto names = load_server_credentials(layout).value().certificate.host_names();
  EXPECT_EQ(names, (std::vector<std::string>{"new-name.example", "localhost", "127.0.0.1", "::1"}));
}

}  // namespace
}  // namespace trib::server
