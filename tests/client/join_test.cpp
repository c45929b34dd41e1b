#include "client/join.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <atomic>
#include <boost/asio/detached.hpp>
#include <fstream>
#include <thread>

#include "client/identity.h"
#include "common/files.h"
#include "common/net/coroutine.h"
#include "common/net/enrolment.h"
#include "common/net/tls.h"
#include "tests/common/temporary_directory.h"
#include "tests/net/net_support.h"

namespace trib::client {
namespace {

namespace asio = boost::asio;
namespace proto = tributary::proto;
using ::testing::HasSubstr;

constexpr Milliseconds timeout{5'000};

// An aggregator that only enrols: answers each connection as it is told.
class FakeEnrolServer {
 public:
  FakeEnrolServer()
      : issuer_(net::CertificateIssuer::create("test federation", system_clock())),
        credentials_(net::make_credentials(issuer_, "aggregator", "aggregator", {"127.0.0.1"})),
        context_(std::move(net::TlsServerContext::create(credentials_.certificate, credentials_.key,
                                                         issuer_.ca_certificate()))
                     .value()),
        acceptor_(io_, asio::ip::tcp::endpoint(asio::ip::make_address("127.0.0.1"), 0)) {
    asio::co_spawn(io_, serve(), asio::detached);
    thread_ = std::thread([this] { io_.run(); });
  }
  ~FakeEnrolServer() {
    io_.stop();
    thread_.join();
  }

  proto::Invite invite(const std::string& site = "hospital") const {
    proto::Invite invite;
    invite.set_federation("test federation");
    invite.set_site(site);
    invite.add_addresses("127.0.0.1:" + std::to_string(acceptor_.local_endpoint().port()));
    const auto fingerprint = issuer_.ca_certificate().sha256();
    invite.set_ca_sha256(fingerprint.data(), fingerprint.size());
    invite.set_secret(std::string(32, 's'));
    invite.set_expires_unix(std::chrono::duration_cast<std::chrono::seconds>(
                                system_clock().wall_now().time_since_epoch() + std::chrono::hours(1))
                                .count());
    return invite;
  }

  std::atomic<int> requests{0};
  std::atomic<bool> hang_up{false};  // after the request was read, before the answer: a lost reply
  std::string name_on_certificate = "hospital";

 private:
  asio::awaitable<void> serve() {
    while (true) {
      auto socket = co_await acceptor_.async_accept(asio::use_awaitable);
      auto channel = co_await context_->accept(std::move(socket), {});
      if (!channel) continue;
      const auto answered = co_await answer(**channel);
      static_cast<void>(answered);
    }
  }
  asio::awaitable<Status> answer(net::Channel& channel) {
    TRIB_CO_ASSIGN(const net::Frame frame, co_await channel.receive());
    TRIB_CO_ASSIGN(const proto::EnrolRequest request, net::parse_message<proto::EnrolRequest>(frame));
    TRIB_CO_ASSIGN(const Sha256 key, net::check_certificate_request(request.certificate_request_pem()));
    ++requests;
    proto::EnrolReply reply;
    if (used_by_ && *used_by_ != key) {
      reply.set_error_code(std::string(to_string(Errc::already_exists)));
      reply.set_error("the token was used before, with another key");
    } else {
      used_by_ = key;
      const WallTime now = system_clock().wall_now();
      net::CertificateSubject subject;
      subject.common_name = name_on_certificate;
      subject.role = "site";
      TRIB_CO_ASSIGN(const net::Certificate certificate,
                     issuer_.issue(request.certificate_request_pem(), subject, now - std::chrono::hours(1),
                                   now + std::chrono::hours(2)));
      reply.set_certificate_pem(certificate.to_pem());
      reply.set_ca_certificate_pem(issuer_.ca_certificate().to_pem());
      reply.set_site(name_on_certificate);
      reply.set_federation("test federation");
    }
    if (hang_up.exchange(false)) co_return Status{};
    TRIB_CO_TRY(co_await channel.send(reply));
    co_await channel.finish(Milliseconds(1000));
    co_return Status{};
  }

  net::CertificateIssuer issuer_;
  net::ClientCredentials credentials_;
  std::shared_ptr<net::TlsServerContext> context_;
  asio::io_context io_;
  asio::ip::tcp::acceptor acceptor_;
  std::optional<Sha256> used_by_;
  std::thread thread_;
};

class JoinTest : public ::testing::Test {
 protected:
  void SetUp() override { std::ofstream(directory_ / "data.tsv") << "text\tlabel\nhello\tgreeting\n"; }
  JoinRequest request(const proto::Invite& invite, const std::string& directory = "site") {
    JoinRequest request;
    request.token = net::make_token(invite);
    request.directory = {directory_ / directory};
    request.data = directory_ / "data.tsv";
    request.records = 1000;
    return request;
  }
  static mode_t mode_of(const std::filesystem::path& path) {
    struct stat status {};
    EXPECT_EQ(::stat(path.c_str(), &status), 0);
    return status.st_mode & 0777;
  }
  test::TemporaryDirectory directory_;
  FakeEnrolServer server_;
};

TEST_F(JoinTest, MakesADirectoryThatTheDaemonCanRun) {
  const auto joined = join(request(server_.invite()), system_clock(), timeout);
  ASSERT_TRUE(joined) << joined.error().message;
  EXPECT_EQ(joined->site, "hospital");
  EXPECT_EQ(joined->federation, "test federation");
  const SiteDirectory site{directory_ / "site"};
  EXPECT_EQ(mode_of(site.key()), 0600U);
  const auto identity = load_identity(site);
  ASSERT_TRUE(identity) << identity.error().message;
  EXPECT_EQ(identity->site(), "hospital");
  const SiteConfig config = read_site_config(site.config()).value();
  EXPECT_EQ(config.site, "hospital");
  EXPECT_EQ(config.servers.size(), 1U);
  EXPECT_EQ(config.data_sets.at("default").declared_records, 1000);
  EXPECT_EQ(config.data_sets.at("default").budget->epsilon, 8.0);
}

TEST_F(JoinTest, GetsTheSameIdentityAfterALostAnswer) {
  server_.hang_up = true;
  EXPECT_FALSE(join(request(server_.invite()), system_clock(), timeout));
  const SiteDirectory site{directory_ / "site"};
  const std::string key = read_file(site.key()).value();
  const auto joined = join(request(server_.invite()), system_clock(), timeout);
  ASSERT_TRUE(joined) << joined.error().message;
  EXPECT_EQ(read_file(site.key()).value(), key);
  EXPECT_EQ(server_.requests, 2);
}

TEST_F(JoinTest, IsToldThatATokenWasUsedWithAnotherKey) {
  ASSERT_TRUE(join(request(server_.invite()), system_clock(), timeout));
  const auto second = join(request(server_.invite(), "elsewhere"), system_clock(), timeout);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, Errc::already_exists);
  EXPECT_FALSE(std::filesystem::exists(directory_ / "elsewhere" / "certificate.pem"));
}

TEST_F(JoinTest, RefusesAnExpiredTokenBeforeItDials) {
  auto invite = server_.invite();
  invite.set_expires_unix(1'700'000'000);
  const auto joined = join(request(invite), system_clock(), timeout);
  ASSERT_FALSE(joined);
  EXPECT_EQ(joined.error().code, Errc::deadline_exceeded);
  EXPECT_THAT(joined.error().message, HasSubstr("trib invite hospital"));
  EXPECT_EQ(server_.requests, 0);
}

TEST_F(JoinTest, RefusesATokenThatWasCutShort) {
  JoinRequest cut = request(server_.invite());
  cut.token.resize(cut.token.size() - 12);
  const auto joined = join(cut, system_clock(), timeout);
  ASSERT_FALSE(joined);
  EXPECT_EQ(joined.error().code, Errc::invalid_argument);
  EXPECT_THAT(joined.error().message, HasSubstr("the token"));
}

TEST_F(JoinTest, RefusesAnAggregatorWhoseCaIsNotTheTokens) {
  auto invite = server_.invite();
  (*invite.mutable_ca_sha256())[5] ^= 1;
  const auto joined = join(request(invite), system_clock(), timeout);
  ASSERT_FALSE(joined);
  EXPECT_EQ(joined.error().code, Errc::unauthenticated);
  EXPECT_EQ(server_.requests, 0) << "the secret is not shown to a stranger";
}

TEST_F(JoinTest, RefusesACertificateWithAnotherName) {
  server_.name_on_certificate = "bank";
  const auto joined = join(request(server_.invite()), system_clock(), timeout);
  ASSERT_FALSE(joined);
  EXPECT_THAT(joined.error().message, HasSubstr("'bank'"));
  EXPECT_FALSE(std::filesystem::exists(directory_ / "site" / "client.toml"));
}

TEST_F(JoinTest, AsksForTheDeclaredSizeBeforeTheTokenIsUsed) {
  JoinRequest without = request(server_.invite());
  without.records = 0;
  const auto joined = join(without, system_clock(), timeout);
  ASSERT_FALSE(joined);
  EXPECT_THAT(joined.error().message, HasSubstr("--records"));
  EXPECT_EQ(server_.requests, 0);
}

TEST_F(JoinTest, ChecksTheDataFileBeforeTheTokenIsUsed) {
  JoinRequest without = request(server_.invite());
  without.data = directory_ / "gone.tsv";
  EXPECT_THAT(join(without, system_clock(), timeout).error().message, HasSubstr("gone.tsv"));
  EXPECT_EQ(server_.requests, 0);
}

TEST_F(JoinTest, ChoosesADeltaBelowOneOverTheRecords) {
  JoinRequest large = request(server_.invite());
  large.records = 1'000'000;
  ASSERT_TRUE(join(large, system_clock(), timeout));
  const SiteConfig config = read_site_config(SiteDirectory{directory_ / "site"}.config()).value();
  EXPECT_LT(config.data_sets.at("default").budget->delta, 1e-6);
}

TEST_F(JoinTest, RefusesADeltaThatIsTooLarge) {
  JoinRequest loose = request(server_.invite());
  loose.delta = 0.01;
  EXPECT_THAT(join(loose, system_clock(), timeout).error().message, HasSubstr("--delta 0.01"));
}

TEST_F(JoinTest, LeavesTheDirectoryOfAnotherSiteAlone) {
  ASSERT_TRUE(join(request(server_.invite()), system_clock(), timeout));
  const auto other = join(request(server_.invite("bank")), system_clock(), timeout);
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code, Errc::already_exists);
}

TEST_F(JoinTest, SaysWhichAddressDoesNotAnswer) {
  auto invite = server_.invite();
  invite.set_addresses(0, "127.0.0.1:1");
  const auto joined = join(request(invite), system_clock(), timeout);
  ASSERT_FALSE(joined);
  EXPECT_THAT(joined.error().message, HasSubstr("127.0.0.1:1"));
}

TEST_F(JoinTest, RefusesAKeyThatOthersMayRead) {
  ASSERT_TRUE(join(request(server_.invite()), system_clock(), timeout));
  const SiteDirectory site{directory_ / "site"};
  ASSERT_EQ(::chmod(site.key().c_str(), 0644), 0);
  const auto identity = load_identity(site);
  ASSERT_FALSE(identity);
  EXPECT_EQ(identity.error().code, Errc::permission_denied);
  EXPECT_THAT(identity.error().message, HasSubstr("chmod 600"));
}

class RenewalTest : public ::testing::Test {
 protected:
  static constexpr auto life = std::chrono::hours(30 * 24);
  Identity identity(std::chrono::seconds valid_from, std::chrono::seconds valid_until) {
    auto credentials = net::make_credentials(issuer_, "hospital", "site", valid_from, valid_until);
    return {credentials.key, credentials.certificate, issuer_.ca_certificate()};
  }
  std::string issue(const net::PrivateKey& key, const std::string& name, std::chrono::hours until) {
    const WallTime now = system_clock().wall_now();
    return issuer_
        .issue(net::make_certificate_request(key, name), {.common_name = name, .role = "site", .host_names = {}},
               now - std::chrono::hours(100), now + until)
        .value()
        .to_pem();
  }
  net::CertificateIssuer issuer_ = net::CertificateIssuer::create("test federation", system_clock());
  test::TemporaryDirectory directory_;
  SiteDirectory site_{directory_.path()};
};

TEST_F(RenewalTest, IsDueAfterTwoThirdsOfTheCertificatesLife) {
  const Identity site = identity(std::chrono::hours(0), life);
  const WallTime start = site.certificate.not_before();
  EXPECT_FALSE(is_renewal_due(site.certificate, start + std::chrono::hours(19 * 24)));
  EXPECT_TRUE(is_renewal_due(site.certificate, start + std::chrono::hours(20 * 24 + 1)));
  EXPECT_FALSE(is_lapsed(site.certificate, start + std::chrono::hours(29 * 24)));
  EXPECT_TRUE(is_lapsed(site.certificate, start + life));
}

TEST_F(RenewalTest, PutsTheNewCertificateInThePlaceOfTheOld) {
  Identity site = identity(std::chrono::hours(-20), std::chrono::hours(1));
  const std::string renewed = issue(site.key, "hospital", std::chrono::hours(40));
  ASSERT_TRUE(accept_certificate(site, site_, renewed, system_clock()));
  EXPECT_EQ(read_file(site_.certificate()).value(), renewed);
  EXPECT_FALSE(
      is_renewal_due(net::Certificate::from_pem(renewed).value(), system_clock().wall_now() - std::chrono::hours(90)));
}

TEST_F(RenewalTest, RefusesACertificateThatIsNotForThisSite) {
  Identity site = identity(std::chrono::hours(-20), std::chrono::hours(1));
  const auto refused = [&](const std::string& pem) {
    const Status status = accept_certificate(site, site_, pem, system_clock());
    EXPECT_FALSE(status.ok());
    return status ? "" : status.error().message;
  };
  EXPECT_THAT(refused(issue(net::PrivateKey::generate(), "hospital", std::chrono::hours(4))), HasSubstr("another key"));
  EXPECT_THAT(refused(issue(site.key, "bank", std::chrono::hours(4))), HasSubstr("'bank'"));
  EXPECT_THAT(refused(issue(site.key, "hospital", std::chrono::hours(-4))), HasSubstr("clocks"));
  EXPECT_THAT(refused("no pem"), HasSubstr("cannot be read"));
  const auto other = net::CertificateIssuer::create("other federation", system_clock());
  const WallTime now = system_clock().wall_now();
  EXPECT_THAT(refused(other
                          .issue(net::make_certificate_request(site.key, "hospital"),
                                 {.common_name = "hospital", .role = "site", .host_names = {}}, now,
                                 now + std::chrono::hours(4))
                          .value()
                          .to_pem()),
              HasSubstr("federation's CA"));
  EXPECT_FALSE(std::filesystem::exists(site_.certificate()));
}

}  // namespace
}  // namespace trib::client
