#include "cli/doctor.h"

#include <gmock/gmock.h>

#include <fstream>

#include "client/data_versions.h"
#include "client/site_config.h"
#include "common/files.h"
#include "common/net/x509.h"
#include "privacy/ledger.h"
#include "server/config.h"
#include "server/init.h"
#include "tests/common/temporary_directory.h"
#include "tests/net/net_support.h"

namespace trib::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

Check check_of(const std::vector<Check>& checks, const std::string& name) {
  for (const Check& check : checks)
    if (check.name.starts_with(name)) return check;
  ADD_FAILURE() << "no check '" << name << "'";
  return {"there is no such check", Health::ok, "", ""};
}

class SiteDoctor : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::permissions(directory_.path(), std::filesystem::perms::owner_all);
    std::ofstream(directory_ / "data.tsv") << "text\tlabel\nhello\tgreeting\n";
    const auto issuer = net::CertificateIssuer::create("test", system_clock());
    credentials_ = net::make_credentials(issuer, "hospital", "site");
    write_file_durably(site_.key(), credentials_.key.to_pem(), 0600).value();
    write_file_durably(site_.certificate(), credentials_.certificate.to_pem()).value();
    write_file_durably(site_.ca_certificate(), issuer.ca_certificate().to_pem()).value();
    client::SiteConfig config;
    config.site = "hospital";
    config.servers = {"127.0.0.1:1"};
    config.device = "cpu";
    config.models = {directory_.path()};
    client::DataSetPolicy policy;
    policy.file = directory_ / "data.tsv";
    policy.declared_records = 5000;
    policy.budget = privacy::Budget{.data_set = "default", .epsilon = 8.0, .delta = 1e-5};
    config.data_sets["default"] = policy;
    std::ofstream(site_.config()) << client::render_site_config(config);
  }
  std::vector<Check> examine() {
    DoctorOptions options;
    options.connect_timeout = Milliseconds(2'000);
    return examine_site(directory_.path(), options);
  }
  // The file as the ledger's first version, and a charge.
  void charge() {
    const auto ledger =
        privacy::Ledger::open(site_.ledger(), {"hospital", signer_from_pem(credentials_.key.to_pem()).value()},
                              {{"default", 8.0, 1e-5}}, system_clock())
            .value();
    const auto versions = client::DataVersions::open(site_.data_secret()).value();
    client::DataSetPolicy policy;
    policy.file = directory_ / "data.tsv";
    policy.declared_records = 5000;
    versions->check(*ledger, "default", policy).value();
    ledger
        ->charge({"job-1",
                  1,
                  "default",
                  5000,
                  1e-5,
                  {privacy::MechanismKind::poisson_subsampled_gaussian, 0.02, 2.0, 1.0, 5}})
        .value();
  }

  test::TemporaryDirectory directory_;
  client::SiteDirectory site_{directory_.path()};
  net::ClientCredentials credentials_;
};

TEST_F(SiteDoctor, FindsASoundSiteSoundButForTheAggregatorThatIsNotThere) {
  charge();
  const auto checks = examine();
  for (const char* name : {"directory", "configuration", "certificate", "ledger", "budget of 'default'",
                           "data set 'default'", "models", "device"})
    EXPECT_NE(check_of(checks, name).health, Health::fail) << name << ": " << check_of(checks, name).found;
  EXPECT_EQ(check_of(checks, "ledger").health, Health::ok);
  EXPECT_THAT(check_of(checks, "data set 'default'").found, HasSubstr("version 1 that the ledger knows"));
  const Check aggregator = check_of(checks, "aggregator 127.0.0.1:1");
  EXPECT_EQ(aggregator.health, Health::fail);
  EXPECT_THAT(aggregator.remedy, HasSubstr("firewall"));
}

TEST_F(SiteDoctor, SaysWhichLineOfTheLedgerIsNotSound) {
  charge();
  std::string text = read_file(site_.ledger()).value();
  const auto place = text.find("\"steps\":5");
  ASSERT_NE(place, std::string::npos);
  text[place + 8] = '1';
  std::ofstream(site_.ledger()) << text;
  const Check ledger = check_of(examine(), "ledger");
  EXPECT_EQ(ledger.health, Health::fail);
  EXPECT_THAT(ledger.found, HasSubstr("entry 2"));
  EXPECT_THAT(ledger.remedy, HasSubstr("restore"));
}

TEST_F(SiteDoctor, NoticesADataFileThatIsNotTheOneThatItWas) {
  charge();
  std::ofstream(directory_ / "data.tsv", std::ios::app) << "more\tgreeting\n";
  const Check data = check_of(examine(), "data set 'default'");
  EXPECT_EQ(data.health, Health::fail);
  EXPECT_THAT(data.remedy, HasSubstr("trib-client data update default"));
}

TEST_F(SiteDoctor, NoticesAnotherKeyThanTheLedgers) {
  charge();
  const auto issuer = net::CertificateIssuer::create("test", system_clock());
  const auto other = net::make_credentials(issuer, "hospital", "site");
  write_file_durably(site_.key(), other.key.to_pem(), 0600).value();
  write_file_durably(site_.certificate(), other.certificate.to_pem()).value();
  write_file_durably(site_.ca_certificate(), issuer.ca_certificate().to_pem()).value();
  EXPECT_THAT(check_of(examine(), "ledger").remedy, HasSubstr("rekey"));
}

TEST_F(SiteDoctor, SaysWhatAClockThatIsWrongLooksLike) {
  ManualClock clock;
  clock.set_wall(WallTime(std::chrono::sys_days{std::chrono::January / 1 / 2001}));
  const Check early =
      check_of(examine_site(directory_.path(), {.connect_timeout = Milliseconds(500), .clock = clock}), "certificate");
  EXPECT_EQ(early.health, Health::fail);
  EXPECT_THAT(early.remedy, HasSubstr("clock"));
  clock.set_wall(credentials_.certificate.not_after() + std::chrono::hours(1));
  const Check late =
      check_of(examine_site(directory_.path(), {.connect_timeout = Milliseconds(500), .clock = clock}), "certificate");
  EXPECT_EQ(late.health, Health::fail);
  EXPECT_THAT(late.found, HasSubstr("ended"));
}

TEST_F(SiteDoctor, NamesWhatIsMissingAndChangesNothing) {
  std::filesystem::remove(site_.certificate());
  EXPECT_EQ(check_of(examine(), "certificate").health, Health::fail);
  EXPECT_FALSE(std::filesystem::exists(site_.ledger()));
  EXPECT_FALSE(std::filesystem::exists(site_.data_secret()));
  EXPECT_FALSE(std::filesystem::exists(site_.lock()));
  std::filesystem::remove(site_.config());
  EXPECT_THAT(check_of(examine(), "configuration").remedy, HasSubstr("trib-client join"));
}

class ServerDoctor : public ::testing::Test {
 protected:
  void SetUp() override {
    server::InitOptions options;
    options.directory = directory_.path() / "f";
    options.federation = "test";
    options.listen = "127.0.0.1:0";
    options.host_names = {"127.0.0.1"};
    options.device = "cpu";
    server::init_federation(options).value();
    layout_.root = options.directory;
  }
  test::TemporaryDirectory directory_;
  server::ServerDirectory layout_;
};

TEST_F(ServerDoctor, FindsAFreshFederationSound) {
  const auto checks = examine_server(layout_.root);
  for (const Check& check : checks) EXPECT_NE(check.health, Health::fail) << check.name << ": " << check.found;
  EXPECT_THAT(check_of(checks, "port 127.0.0.1:0").found, HasSubstr("free"));
  EXPECT_THAT(check_of(checks, "advertised 127.0.0.1").found, HasSubstr("in the certificate"));
}

TEST_F(ServerDoctor, NoticesAKeyThatOthersMayReadAndAStoreThatIsNone) {
  std::filesystem::permissions(layout_.ca_key(),
                               std::filesystem::perms::owner_read | std::filesystem::perms::others_read);
  std::filesystem::create_directories(layout_.store().parent_path());
  std::ofstream(layout_.store()) << std::string(4096, 'x');
  const auto checks = examine_server(layout_.root);
  EXPECT_THAT(check_of(checks, "CA").remedy, HasSubstr("chmod 600"));
  EXPECT_EQ(check_of(checks, "store").health, Health::fail);
  EXPECT_THAT(check_of(checks, "store").remedy, HasSubstr("backup"));
}

TEST_F(ServerDoctor, NoticesAPortThatAnotherProgramHas) {
  boost::asio::io_context context;
  boost::asio::ip::tcp::acceptor other(context, {boost::asio::ip::make_address("127.0.0.1"), 0});
  const std::string port = std::to_string(other.local_endpoint().port());
  std::string text = read_file(layout_.config()).value();
  text.replace(text.find("127.0.0.1:0"), 11, "127.0.0.1:" + port);
  std::ofstream(layout_.config()) << text;
  const Check check = check_of(examine_server(layout_.root), "port ");
  EXPECT_EQ(check.health, Health::fail);
  EXPECT_THAT(check.remedy, HasSubstr("listen.address"));
}

}  // namespace
}  // namespace trib::cli
