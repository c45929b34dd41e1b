// What the aggregator can say of the sites' spending, from its store.
#include "server/privacy_report.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <limits>

#include "server/sqlite_store.h"
#include "tasks/job.h"
#include "tests/common/temporary_directory.h"
#include "tests/net/net_support.h"

namespace trib::server {
namespace {

namespace json = boost::json;

std::string job_text(const std::string& data_set, bool is_private) {
  return "[job]\nname = \"j\"\ntask = \"lora_text\"\nrounds = 5\n\n[data]\nset = \"" + data_set +
         "\"\n\n[privacy]\nenabled = " + (is_private ? "true" : "false") +
         "\nepsilon = 8.0\ndelta = 1e-5\n\n[model]\nbase = \"b\"\nlabels = [\"a\", \"b\"]\n\n[training]\nbatch_size = "
         "16\nlearning_rate = 0.5\n";
}

class PrivacyReportTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto issuer = net::CertificateIssuer::create("test federation", system_clock());
    credentials_ = net::make_credentials(issuer, "clinic-7", "site");
    Sha256 secret{};
    ASSERT_TRUE(store_->put_invite({secret, "clinic-7", false, WallTime(Milliseconds(9)), std::nullopt, ""}));
    ASSERT_TRUE(store_->redeem_invite(
        secret, credentials_.key.public_key_sha256(),
        {"01", "clinic-7", false, WallTime(Milliseconds(9)), credentials_.certificate.to_pem()}, WallTime()));
  }
  void add_job(const std::string& id, const std::string& data_set, bool is_private, double spent, double budget) {
    JobRecord job;
    job.id = id;
    job.task = "lora_text";
    job.file_text = job_text(data_set, is_private);
    job.file_name = "job.toml";
    ASSERT_TRUE(tasks::read_job_text(job.file_text, job.file_name)) << "the test's own job";
    ASSERT_TRUE(store_->create_job(job));
    JobSiteRecord site;
    site.site = "clinic-7";
    site.accepted = true;
    site.declared_records = 5000;
    site.epsilon_spent = spent;
    site.epsilon_budget = budget;
    ASSERT_TRUE(store_->put_job_site(id, site));
    ASSERT_TRUE(store_->open_round(id, 1, 1, {"clinic-7"}, WallTime()));
    ASSERT_TRUE(store_->set_round_site(id, 1, {"clinic-7", RoundSiteStatus::contributed, true, ""}));
  }
  json::object site() {
    return json::parse(privacy_report_json(*store_, "test").value()).at("sites").at(0).as_object();
  }

  test::TemporaryDirectory directory_;
  std::unique_ptr<Store> store_ = SqliteStore::open(directory_ / "store.db").value();
  net::ClientCredentials credentials_;
};

TEST_F(PrivacyReportTest, StatesEachDataSetOnceOverAllJobs) {
  add_job("first", "letters", true, 1.5, 8.0);
  add_job("second", "letters", true, 2.5, 6.0);
  add_job("third", "open", false, std::numeric_limits<double>::infinity(), 0.0);
  const json::object document = site();
  EXPECT_EQ(document.at("site").as_string(), "clinic-7");
  EXPECT_EQ(document.at("key_sha256").as_string(), to_hex(credentials_.key.public_key_sha256()));
  const json::array& sets = document.at("data_sets").as_array();
  ASSERT_EQ(sets.size(), 2u);
  EXPECT_EQ(sets[0].at("data_set").as_string(), "letters");
  EXPECT_TRUE(sets[0].at("private").as_bool());
  EXPECT_EQ(sets[0].at("epsilon_spent").as_double(), 2.5);
  EXPECT_EQ(sets[0].at("epsilon_budget").as_double(), 6.0);
  EXPECT_EQ(sets[0].at("jobs").as_array().size(), 2u);
  EXPECT_EQ(sets[0].at("rounds").to_number<int>(), 2);
  EXPECT_EQ(sets[1].at("data_set").as_string(), "open");
  EXPECT_FALSE(sets[1].at("private").as_bool());
  EXPECT_TRUE(sets[1].at("epsilon_spent").is_null());
}

TEST_F(PrivacyReportTest, ListsTheRoundsThatASiteDeclinedWithItsReasons) {
  add_job("first", "letters", true, 7.9, 8.0);
  ASSERT_TRUE(store_->open_round("first", 2, 1, {"clinic-7"}, WallTime()));
  ASSERT_TRUE(store_->set_round_site("first", 2, {"clinic-7", RoundSiteStatus::declined, false, "over its cap"}));
  const json::object document = site();
  const json::array& declined = document.at("data_sets").at(0).at("declined").as_array();
  ASSERT_EQ(declined.size(), 1u);
  EXPECT_EQ(declined[0].at("round").to_number<int>(), 2);
  EXPECT_EQ(declined[0].at("reason").as_string(), "over its cap");
}

TEST_F(PrivacyReportTest, KnowsTheLedgersHeadAndWhenItWasHeardOf) {
  EXPECT_TRUE(site().at("ledger_head").is_null());
  const Sha256 hash = sha256("entry 12");
  const WallTime heard(Milliseconds(1'790'000'000'000));
  ASSERT_TRUE(store_->advance_ledger_head("clinic-7", "", {12, hash, heard}));
  const json::object head = site().at("ledger_head").as_object();
  EXPECT_EQ(head.at("count").to_number<int>(), 12);
  EXPECT_EQ(head.at("hash").as_string(), to_hex(hash));
  EXPECT_EQ(head.at("time").as_string(), to_iso8601(heard));
}

}  // namespace
}  // namespace trib::server
