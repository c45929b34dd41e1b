#include "client/site_commands.h"

#include <gmock/gmock.h>

#include "client/identity.h"
#include "common/files.h"
#include "tests/client/site_fixture.h"
#include "tests/net/net_support.h"

namespace trib::client {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// A site that has joined and charged one round.
class SiteCommandsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::ofstream(directory_ / "data.tsv") << "first\n";
    SiteConfig config;
    config.site = "hospital";
    config.servers = {"one:7000"};
    DataSetPolicy policy;
    policy.file = directory_ / "data.tsv";
    policy.declared_records = 5000;
    policy.budget = privacy::Budget{.data_set = "default", .epsilon = 8.0, .delta = 1e-5};
    config.data_sets["default"] = policy;
    std::ofstream(site().config()) << render_site_config(config);
    enrol();
    const auto ledger = open().value();
    const auto versions = DataVersions::open(site().data_secret()).value();
    ASSERT_TRUE(versions->check(*ledger, "default", policy).ok());
    privacy::Charge charge{"job", 1, "default", 5000, 1e-5, {}};
    charge.mechanism = {privacy::MechanismKind::poisson_subsampled_gaussian, 0.01, 1.0, 1.0, 10};
    ASSERT_TRUE(ledger->charge(charge));
  }
  void enrol() {
    auto credentials = net::make_credentials(issuer_, "hospital", "site");
    write_file_durably(site().key(), credentials.key.to_pem(), 0600).value();
    write_file_durably(site().certificate(), credentials.certificate.to_pem()).value();
    write_file_durably(site().ca_certificate(), issuer_.ca_certificate().to_pem()).value();
  }
  SiteDirectory site() const { return {directory_.path()}; }
  Result<std::unique_ptr<privacy::Ledger>> open() {
    return open_site_ledger(site(), read_site_config(site().config()).value(), load_identity(site()).value().key,
                            system_clock());
  }
  Result<std::string> update(std::optional<std::int64_t> records) {
    return update_data_set(site(), "default", records, system_clock());
  }

  test::TemporaryDirectory directory_;
  net::CertificateIssuer issuer_ = net::CertificateIssuer::create("test federation", system_clock());
};

TEST_F(SiteCommandsTest, UpdateDeclaresTheNextVersionAndItsSizeInBothPlaces) {
  const double spent = open().value()->epsilon_spent("default", 1e-5);
  std::ofstream(directory_ / "data.tsv") << "first\nsecond\n";
  const auto said = update(8000);
  ASSERT_TRUE(said) << said.error().message;
  EXPECT_THAT(*said,
              AllOf(HasSubstr("version 2"), HasSubstr("8000 records"), HasSubstr("goes on with what was spent")));
  EXPECT_EQ(read_site_config(site().config())->data_sets.at("default").declared_records, 8000);
  const auto ledger = open().value();
  EXPECT_EQ(ledger->epsilon_spent("default", 1e-5), spent);
  EXPECT_EQ(ledger->accounts().find("default")->versions.back().declared_records, 8000);
}

TEST_F(SiteCommandsTest, UpdateOfAnUnchangedFileSaysSo) {
  EXPECT_EQ(update(std::nullopt).error().code, Errc::already_exists);
  EXPECT_EQ(update_data_set(site(), "letters", {}, system_clock()).error().code, Errc::not_found);
}

TEST_F(SiteCommandsTest, UpdateRefusesASizeThatTheDeltaDoesNotAllow) {
  std::ofstream(directory_ / "data.tsv") << "first\nsecond\n";
  const std::string before = read_file(site().config()).value();
  const auto refused = update(200'000);
  EXPECT_EQ(refused.error().code, Errc::invalid_argument);
  EXPECT_THAT(refused.error().message, HasSubstr("budget.delta"));
  EXPECT_EQ(read_file(site().config()).value(), before);
  EXPECT_EQ(open().value()->accounts().find("default")->versions.size(), 1u);
}

TEST_F(SiteCommandsTest, NothingIsDeclaredWhileTheClientRuns) {
  const FileLock running = FileLock::acquire(site().lock()).value();
  EXPECT_EQ(update(6000).error().code, Errc::unavailable);
  EXPECT_EQ(rekey_ledger(site(), "why", "", system_clock()).error().code, Errc::unavailable);
}

TEST_F(SiteCommandsTest, ASiteThatLostItsKeyGoesOnOnceItsOwnerSaysSo) {
  const std::string old_key = read_file(site().key()).value();
  EXPECT_EQ(rekey_ledger(site(), "why", "", system_clock()).error().code, Errc::already_exists);
  enrol();  // anew, with another key
  const auto refused = open();
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("trib-client ledger rekey"));

  std::ofstream(directory_ / "other.pem") << net::PrivateKey::generate().to_pem();
  EXPECT_EQ(rekey_ledger(site(), "why", directory_ / "other.pem", system_clock()).error().code, Errc::invalid_argument);
  std::ofstream(directory_ / "old.pem") << old_key;
  const auto said = rekey_ledger(site(), "the disk broke", directory_ / "old.pem", system_clock());
  ASSERT_TRUE(said) << said.error().message;
  const auto entries = open().value()->entries();
  EXPECT_EQ(entries.back().kind, privacy::EntryKind::key);
  EXPECT_EQ(entries.back().note, "the disk broke");
  EXPECT_FALSE(entries.back().countersignature.empty());
}

TEST_F(SiteCommandsTest, WithoutTheOldKeyTheChangeIsMarkedAsSuch) {
  enrol();
  EXPECT_THAT(rekey_ledger(site(), "lost", "", system_clock()).value(), HasSubstr("has not countersigned"));
  EXPECT_EQ(open().value()->entries().back().countersignature, "");
}

TEST(WithDeclaredRecords, ChangesOneLineAndNothingElse) {
  const std::string text =
      "site = \"x\"\n[dataset.other]\nrecords = 1\n\n[dataset.mine]  # mine\nfile = \"records = 3\"\n"
      "  records=2 # public\n[dataset.mine.budget]\nepsilon = 8\n";
  EXPECT_EQ(with_declared_records(text, "mine", 70).value(),
            "site = \"x\"\n[dataset.other]\nrecords = 1\n\n[dataset.mine]  # mine\nfile = \"records = 3\"\n"
            "records = 70  # public\n[dataset.mine.budget]\nepsilon = 8\n");
  EXPECT_EQ(with_declared_records(text, "nobody", 70).error().code, Errc::not_found);
}

}  // namespace
}  // namespace trib::client
