#include "common/net/x509.h"

#include <gtest/gtest.h>

#include "tests/net/net_support.h"

namespace trib::net {
namespace {

TEST(PrivateKey, SurvivesItsPemForm) {
  const PrivateKey key = PrivateKey::generate();
  const PrivateKey copy = PrivateKey::from_pem(key.to_pem()).value();
  EXPECT_EQ(key.public_key_sha256(), copy.public_key_sha256());
  EXPECT_NE(key.public_key_sha256(), PrivateKey::generate().public_key_sha256());
}

TEST(PrivateKey, RefusesTextThatIsNoKey) {
  EXPECT_EQ(PrivateKey::from_pem("no key").error().code, Errc::invalid_argument);
  EXPECT_EQ(PrivateKey::from_pem("").error().code, Errc::invalid_argument);
}

TEST(CertificateRequest, ProvesPossessionOfItsKey) {
  const PrivateKey key = PrivateKey::generate();
  const std::string request = make_certificate_request(key, "clinic-7");
  EXPECT_EQ(check_certificate_request(request).value(), key.public_key_sha256());
  // One changed character of the body: either it does not parse, or its signature does not hold.
  std::string forged = request;
  char& character = forged[forged.find('\n') + 30];
  character = character == 'A' ? 'B' : 'A';
  EXPECT_EQ(check_certificate_request(forged).error().code, Errc::invalid_argument);
}

TEST(CertificateIssuer, WritesNameRoleAndDatesIntoTheCertificate) {
  const auto issuer = CertificateIssuer::create("Test Federation", system_clock());
  const PrivateKey key = PrivateKey::generate();
  const WallTime from{std::chrono::sys_days{std::chrono::January / 2 / 2026}};
  const WallTime until{std::chrono::sys_days{std::chrono::January / 31 / 2026}};
  const Certificate certificate = issuer
                                      .issue(make_certificate_request(key, "asks-for-another-name"),
                                             {.common_name = "clinic-7", .role = "site", .host_names = {}}, from, until)
                                      .value();
  EXPECT_EQ(certificate.common_name(), "clinic-7");
  EXPECT_EQ(certificate.organizational_unit(), "site");
  EXPECT_EQ(certificate.not_before(), from);
  EXPECT_EQ(certificate.not_after(), until);
  EXPECT_EQ(certificate.public_key_sha256(), key.public_key_sha256());
  EXPECT_TRUE(certificate.issued_by(issuer.ca_certificate()));
  EXPECT_EQ(Certificate::from_pem(certificate.to_pem())->sha256(), certificate.sha256());
}

TEST(CertificateIssuer, NeverRepeatsASerial) {
  const auto issuer = CertificateIssuer::create("Test Federation", system_clock());
  EXPECT_NE(make_credentials(issuer, "a", "site").certificate.serial(),
            make_credentials(issuer, "a", "site").certificate.serial());
}

TEST(CertificateIssuer, OutlivesNeitherItsCaNorAnInvalidName) {
  const auto issuer = CertificateIssuer::create("Test Federation", system_clock());
  const auto late =
      make_credentials(issuer, "clinic-7", "site", std::chrono::hours(0), std::chrono::hours(24 * 365 * 50));
  EXPECT_EQ(late.certificate.not_after(), issuer.ca_certificate().not_after());
  const PrivateKey key = PrivateKey::generate();
  const WallTime now = system_clock().wall_now();
  const std::string request = make_certificate_request(key, "x");
  EXPECT_FALSE(issuer.issue(request, {std::string(65, 'x'), "site", {}}, now, now).ok());
  EXPECT_FALSE(issuer.issue(request, {"", "site", {}}, now, now).ok());
  EXPECT_FALSE(issuer.issue(request, {"server", "aggregator", {""}}, now, now).ok());
}

TEST(CertificateIssuer, KeepsHostNamesAndIpAddresses) {
  const auto issuer = CertificateIssuer::create("Test Federation", system_clock());
  const std::vector<std::string> hosts = {"aggregator.example", "localhost", "127.0.0.1", "::1"};
  EXPECT_EQ(make_credentials(issuer, "aggregator", "aggregator", hosts).certificate.host_names(), hosts);
}

TEST(CertificateIssuer, ComesBackFromItsPemFormAndRefusesAnotherKey) {
  const auto issuer = CertificateIssuer::create("Test Federation", system_clock());
  const auto copy = CertificateIssuer::from_pem(issuer.ca_certificate().to_pem(), issuer.key_pem()).value();
  EXPECT_TRUE(make_credentials(copy, "clinic-7", "site").certificate.issued_by(issuer.ca_certificate()));
  const auto mixed = CertificateIssuer::from_pem(issuer.ca_certificate().to_pem(), PrivateKey::generate().to_pem());
  ASSERT_FALSE(mixed.ok());
  EXPECT_NE(mixed.error().message.find("backup"), std::string::npos);
}

TEST(Certificate, KnowsAForeignCa) {
  const auto issuer = CertificateIssuer::create("Test Federation", system_clock());
  const auto stranger = CertificateIssuer::create("Test Federation", system_clock());  // same name, other key
  EXPECT_FALSE(make_credentials(stranger, "clinic-7", "site").certificate.issued_by(issuer.ca_certificate()));
}

}  // namespace
}  // namespace trib::net
