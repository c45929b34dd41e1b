// Joining, over the wire: the whole way from an invite to a session.
#include "tests/daemon/daemon_support.h"

namespace trib::server {
namespace {

using net::run;
using testing::DaemonTest;
using testing::patience;
using EnrolmentTest = DaemonTest;

TEST_F(EnrolmentTest, AnInviteBecomesACertificateThatOpensASession) {
  start();
  const auto site = enrol("clinic-7");
  EXPECT_EQ(site.certificate.common_name(), "clinic-7");
  const auto channel = connect_site(site);
  EXPECT_EQ(channel->peer().role, "aggregator");
}

TEST_F(EnrolmentTest, ALostAnswerMayBeAskedForAgainWithTheSameKey) {
  start();
  const auto token = invite("clinic-7");
  const auto key = net::PrivateKey::generate();
  const auto first = run(context, net::enrol(context.get_executor(), token, key, patience)).value();
  const auto again = run(context, net::enrol(context.get_executor(), token, key, patience)).value();
  EXPECT_EQ(first.certificate.serial(), again.certificate.serial());
  EXPECT_EQ(first.federation, "test");
}

TEST_F(EnrolmentTest, ATokenThatWasUsedOrIsUnknownIsRefusedWithTheReason) {
  start();
  const auto token = invite("clinic-7");
  run(context, net::enrol(context.get_executor(), token, net::PrivateKey::generate(), patience)).value();
  const auto second = run(context, net::enrol(context.get_executor(), token, net::PrivateKey::generate(), patience));
  EXPECT_EQ(second.error().code, Errc::already_exists);
  auto forged = token;
  forged.set_secret(std::string(32, 'x'));
  const auto unknown = run(context, net::enrol(context.get_executor(), forged, net::PrivateKey::generate(), patience));
  EXPECT_EQ(unknown.error().code, Errc::not_found);
}

TEST_F(EnrolmentTest, TheSiteDoesNotTalkToAnAggregatorOfAnotherFederation) {
  start();
  auto token = invite("clinic-7");
  token.set_ca_sha256(std::string(32, 'x'));
  const auto refused = run(context, net::enrol(context.get_executor(), token, net::PrivateKey::generate(), patience));
  EXPECT_EQ(refused.error().code, Errc::unauthenticated);
  EXPECT_NE(refused.error().message.find("fingerprint"), std::string::npos) << refused.error().message;
}

TEST_F(EnrolmentTest, ALapsedCertificateIsRefusedAtTheDoorAndRenewsByEnrolment) {
  config.site_certificate_lifetime = Milliseconds(3'000);  // the renewed one is to be used within it
  start();
  const auto site = enrol("clinic-7");
  std::this_thread::sleep_for(Milliseconds(4'100));  // X.509 counts whole seconds
  auto channel = dial(site);
  if (channel) {
    const auto frame = run(context, (*channel)->receive());
    EXPECT_EQ(frame.error().code, Errc::unauthenticated);
  }
  const auto renewed =
      run(context, net::renew_lapsed(context.get_executor(), {address()}, ca(), site, patience)).value();
  connect_site({renewed.certificate, site.key});
}

TEST_F(EnrolmentTest, TooManyEnrolmentsFromOneAddressAreCutOff) {
  config.enrolments_per_minute = 3;
  start();
  auto token = invite("clinic-7");
  token.set_secret(std::string(32, 'x'));
  const auto attempt = [&] {
    return run(context, net::enrol(context.get_executor(), token, net::PrivateKey::generate(), patience)).error().code;
  };
  for (int i = 0; i < 3; ++i) EXPECT_EQ(attempt(), Errc::not_found);
  EXPECT_EQ(attempt(), Errc::unavailable);
}

TEST_F(EnrolmentTest, ANewInviteForASiteEndsTheSessionOfItsOldMachine) {
  start();
  const auto old = enrol("clinic-7");
  const auto channel = connect_site(old);
  std::this_thread::sleep_for(Milliseconds(1'100));  // certificates are told apart by the second they were issued in
  const auto fresh = enrol("clinic-7");
  const auto goodbye = await(*channel, testing::ServerMessage::kGoodbye).goodbye();
  EXPECT_EQ(goodbye.code(), to_string(Errc::permission_denied));
  EXPECT_NE(goodbye.reason().find("enrolled anew"), std::string::npos) << goodbye.reason();
  connect_site(fresh);
}

}  // namespace
}  // namespace trib::server
