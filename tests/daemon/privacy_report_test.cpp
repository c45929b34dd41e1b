// What the aggregator can say of the sites' spending, from its store.
#include "server/privacy_report.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <limits>

#include "privacy/accountant.h"
#include "server/sqlite_store.h"
#include "tasks/job.h"
#include "tasks/task.h"
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
    return json::parse(privacy_report_json(*store_, "test", now_, plans_).value()).at("sites").at(0).as_object();
  }

  json::object history(const std::string& data_set) {
    return json::parse(privacy_history_json(*store_, "clinic-7", data_set, now_, plans_).value()).as_object();
  }
  json::object history_when_known(const std::string& data_set) {
    history(data_set);
    plans_.wait();
    return history(data_set);
  }
  // A running job of `rounds` rounds of which `done` are committed; in each the site reported `epsilons`, in order.
  void run_job(const std::string& id, std::vector<double> epsilons, double budget, std::int64_t minute = 0) {
    JobRecord job;
    job.id = id;
    job.task = "lora_text";
    job.file_text = job_text("letters", true);
    job.file_name = "job.toml";
    ASSERT_TRUE(store_->create_job(job));
    JobSiteRecord site;
    site.site = "clinic-7";
    site.accepted = true;
    site.declared_records = 5000;
    site.epsilon_spent = epsilons.empty() ? 0.0 : epsilons.back();
    site.epsilon_budget = budget;
    site.delta = 1e-5;
    site.reported = minutes(minute);
    RoundCommit initial;
    initial.job = id;
    initial.state_sha256 = id;
    ASSERT_TRUE(store_->commit_round(initial));
    ASSERT_TRUE(store_->put_job_site(id, site));
    for (std::size_t i = 0; i < epsilons.size(); ++i) {
      const auto round = static_cast<std::int64_t>(i) + 1;
      const WallTime time = minutes(minute + round);
      ASSERT_TRUE(store_->open_round(id, round, 1, {"clinic-7"}, time));
      RoundSiteRecord part{"clinic-7", RoundSiteStatus::contributed, true, ""};
      part.epsilon_spent = epsilons[i];
      part.epsilon_budget = budget;
      part.reported = time;
      RoundCommit commit;
      commit.job = id;
      commit.round = round;
      commit.state_sha256 = id;
      commit.time = time;
      commit.contributors = {"clinic-7"};
      commit.parts = {part};
      site.reported = time;
      commit.sites = {site};
      ASSERT_TRUE(store_->commit_round(commit));
    }
  }
  static WallTime minutes(std::int64_t count) { return WallTime(std::chrono::minutes(count)); }
  // What rounds of that job at 5000 records cost, by the accountant itself.
  static double epsilon_of_rounds(std::int64_t rounds) {
    const tasks::JobSpec spec = tasks::read_job_text(job_text("letters", true), "job.toml").value();
    auto mechanism = tasks::find_task("lora_text").value()->round_mechanism(spec, 5000).value();
    mechanism.steps *= rounds;
    return privacy::RdpCurve().add(mechanism).epsilon(1e-5);
  }

  PrivacyPlans plans_;
  WallTime now_ = minutes(1000);
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

TEST_F(PrivacyReportTest, SaysWhenItWasMadeAndWhenEachSiteReported) {
  run_job("first", {epsilon_of_rounds(1)}, 8.0, 10);
  EXPECT_EQ(json::parse(privacy_report_json(*store_, "test", now_, plans_).value()).at("time").as_string(),
            to_iso8601(now_));
  const json::object set = site().at("data_sets").at(0).as_object();
  EXPECT_EQ(set.at("reported").as_string(), to_iso8601(minutes(11)));
  EXPECT_EQ(set.at("delta").as_double(), 1e-5);
}

TEST_F(PrivacyReportTest, TheNewestReportCountsAndNotTheLargest) {
  run_job("first", {3.0}, 8.0, 10);  // by the delta that the site had then
  run_job("second", {2.5}, 8.0, 20);
  EXPECT_EQ(site().at("data_sets").at(0).at("epsilon_spent").as_double(), 2.5);
}

TEST_F(PrivacyReportTest, ReservesWhatTheRunningJobsWouldStillAdd) {
  run_job("first", {epsilon_of_rounds(1), epsilon_of_rounds(2)}, 20.0);
  EXPECT_TRUE(site().at("data_sets").at(0).at("epsilon_reserved").is_null()) << "its noise is not worked out yet";
  plans_.wait();
  const json::object set = site().at("data_sets").at(0).as_object();
  EXPECT_NEAR(set.at("epsilon_reserved").as_double(), epsilon_of_rounds(5) - epsilon_of_rounds(2), 1e-9);
}

TEST_F(PrivacyReportTest, ReservesNoMoreThanIsLeftOfTheBudgetAndNothingForJobsThatHaveEnded) {
  run_job("first", {epsilon_of_rounds(1)}, epsilon_of_rounds(1) + 0.25);
  site();
  plans_.wait();
  EXPECT_NEAR(site().at("data_sets").at(0).at("epsilon_reserved").as_double(), 0.25, 1e-9);
  ASSERT_TRUE(store_->end_job("first", JobState::finished, "", now_, {}));
  EXPECT_EQ(site().at("data_sets").at(0).at("epsilon_reserved").to_number<double>(), 0.0);
}

TEST_F(PrivacyReportTest, CountsARoundThatIsTrainedAndNotReportedAsReserved) {
  run_job("first", {epsilon_of_rounds(1)}, 20.0);
  ASSERT_TRUE(store_->open_round("first", 2, 1, {"clinic-7"}, minutes(50)));
  ASSERT_TRUE(store_->set_round_site("first", 2, {"clinic-7", RoundSiteStatus::accepted, true, ""}));
  site();
  plans_.wait();
  EXPECT_NEAR(site().at("data_sets").at(0).at("epsilon_reserved").as_double(),
              epsilon_of_rounds(5) - epsilon_of_rounds(1), 1e-9);
  RoundSiteRecord part{"clinic-7", RoundSiteStatus::accepted, true, ""};
  part.epsilon_spent = epsilon_of_rounds(2);
  part.reported = minutes(51);
  ASSERT_TRUE(store_->set_round_site("first", 2, part));
  const json::object set = site().at("data_sets").at(0).as_object();
  EXPECT_NEAR(set.at("epsilon_spent").as_double(), epsilon_of_rounds(2), 1e-12) << "before the round is committed";
  EXPECT_NEAR(set.at("epsilon_reserved").as_double(), epsilon_of_rounds(5) - epsilon_of_rounds(2), 1e-9);
}

TEST_F(PrivacyReportTest, ListsTheNewestHundredDeclinedRoundsAndCountsAll) {
  run_job("first", {}, 8.0);
  for (std::int64_t round = 1; round <= 120; ++round) {
    ASSERT_TRUE(store_->open_round("first", round, 1, {"clinic-7"}, minutes(round)));
    RoundSiteRecord part{"clinic-7", RoundSiteStatus::declined, false, "over its cap"};
    part.declined = minutes(round);
    ASSERT_TRUE(store_->set_round_site("first", round, part));
  }
  const json::object set = site().at("data_sets").at(0).as_object();
  const json::array& declined = set.at("declined").as_array();
  ASSERT_EQ(declined.size(), 100u);
  EXPECT_EQ(declined.back().at("round").to_number<int>(), 120);
  EXPECT_EQ(declined.back().at("time").as_string(), to_iso8601(minutes(120)));
  EXPECT_EQ(set.at("declined_total").to_number<int>(), 120);
}

TEST_F(PrivacyReportTest, AHistoryHasAPointForEveryRoundWithItsCostAndWhy) {
  run_job("first", {epsilon_of_rounds(1), epsilon_of_rounds(2)}, 20.0);
  const json::object document = history_when_known("letters");
  EXPECT_EQ(document.at("site").as_string(), "clinic-7");
  EXPECT_EQ(document.at("epsilon_budget").to_number<double>(), 20.0);
  const json::array& points = document.at("points").as_array();
  ASSERT_EQ(points.size(), 2u);
  EXPECT_NEAR(points[0].at("cost").as_double(), epsilon_of_rounds(1), 1e-12);
  EXPECT_NEAR(points[1].at("epsilon").as_double(), epsilon_of_rounds(2), 1e-12);
  EXPECT_NEAR(points[1].at("cost").as_double(), epsilon_of_rounds(2) - epsilon_of_rounds(1), 1e-12);
  EXPECT_EQ(points[1].at("time").as_string(), to_iso8601(minutes(2)));
  const json::object& mechanism = points[1].at("mechanism").as_object();
  EXPECT_EQ(mechanism.at("sample_rate").as_double(), 16.0 / 5000.0);
  EXPECT_EQ(mechanism.at("noise").as_string(), "discrete_gaussian");
  EXPECT_GT(mechanism.at("noise_multiplier").as_double(), 0.3);
}

TEST_F(PrivacyReportTest, AHistoryGoesOnToTheEndOfTheRunningJob) {
  run_job("first", {epsilon_of_rounds(1), epsilon_of_rounds(2)}, 20.0);
  const json::object document = history_when_known("letters");
  const json::array& projection = document.at("projection").as_array();
  ASSERT_EQ(projection.size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(projection[i].at("round").to_number<std::size_t>(), i + 3);
    EXPECT_NEAR(projection[i].at("epsilon").as_double(), epsilon_of_rounds(static_cast<std::int64_t>(i) + 3), 1e-9);
  }
  EXPECT_NE(document.at("ends").as_string().find("3 more rounds of first"), json::string::npos);
  ASSERT_TRUE(store_->end_job("first", JobState::finished, "", now_, {}));
  EXPECT_TRUE(history("letters").at("projection").as_array().empty());
}

TEST_F(PrivacyReportTest, AProjectionEndsWhereTheSiteWillDecline) {
  run_job("first", {epsilon_of_rounds(1)}, (epsilon_of_rounds(3) + epsilon_of_rounds(4)) / 2.0);
  const json::object document = history_when_known("letters");
  ASSERT_EQ(document.at("projection").as_array().size(), 2u);
  EXPECT_EQ(document.at("projection").as_array().back().at("round").to_number<int>(), 3);
  EXPECT_NE(document.at("ends").as_string().find("declines first from about round 4 on"), json::string::npos)
      << document.at("ends");
}

// Two jobs on one data set: the second's rounds compose with the first's, and both running jobs are projected.
TEST_F(PrivacyReportTest, AHistoryComposesOverJobsOnOneDataSet) {
  run_job("first", {epsilon_of_rounds(1), epsilon_of_rounds(2)}, 40.0);
  run_job("second", {epsilon_of_rounds(3)}, 40.0, 100);
  const json::object document = history_when_known("letters");
  const json::array& points = document.at("points").as_array();
  ASSERT_EQ(points.size(), 3u);
  EXPECT_EQ(points[2].at("job").as_string(), "second");
  EXPECT_NEAR(points[2].at("cost").as_double(), epsilon_of_rounds(3) - epsilon_of_rounds(2), 1e-12);
  const json::array& projection = document.at("projection").as_array();
  ASSERT_EQ(projection.size(), 7u);  // three rounds of the first are left, four of the second
  EXPECT_NEAR(projection.back().at("epsilon").as_double(), epsilon_of_rounds(10), 1e-9);
}

TEST_F(PrivacyReportTest, RoundsThatAnOlderStoreKeptNoReportOfAreComposedFromTheirMechanisms) {
  add_job("first", "letters", true, epsilon_of_rounds(1), 8.0);
  const json::object document = history_when_known("letters");
  const json::array& points = document.at("points").as_array();
  ASSERT_EQ(points.size(), 1u);
  EXPECT_NEAR(points[0].at("epsilon").as_double(), epsilon_of_rounds(1), 1e-9);
}

TEST_F(PrivacyReportTest, ARoundThatIsTrainedNowIsInTheHistoryOnce) {
  run_job("first", {epsilon_of_rounds(1)}, 20.0);
  ASSERT_TRUE(store_->open_round("first", 2, 1, {"clinic-7"}, minutes(50)));
  ASSERT_TRUE(store_->set_round_site("first", 2, {"clinic-7", RoundSiteStatus::accepted, true, ""}));
  const json::object document = history_when_known("letters");
  EXPECT_NEAR(document.at("points").as_array().back().at("epsilon").as_double(), epsilon_of_rounds(2), 1e-9);
  ASSERT_EQ(document.at("projection").as_array().size(), 3u);
  EXPECT_EQ(document.at("projection").as_array().front().at("round").to_number<int>(), 3);
  EXPECT_NEAR(document.at("projection").as_array().back().at("epsilon").as_double(), epsilon_of_rounds(5), 1e-9);
}

TEST_F(PrivacyReportTest, AHistoryShowsDeclinedRoundsWithTheirReason) {
  run_job("first", {epsilon_of_rounds(1)}, 20.0);
  ASSERT_TRUE(store_->open_round("first", 2, 1, {"clinic-7"}, minutes(2)));
  RoundSiteRecord part{"clinic-7", RoundSiteStatus::declined, false, "over its cap"};
  part.declined = minutes(3);
  ASSERT_TRUE(store_->set_round_site("first", 2, part));
  const json::object document = history_when_known("letters");
  const json::value& last = document.at("points").as_array().back();
  EXPECT_TRUE(last.at("declined").as_bool());
  EXPECT_EQ(last.at("reason").as_string(), "over its cap");
  EXPECT_EQ(last.at("time").as_string(), to_iso8601(minutes(3)));
  EXPECT_EQ(last.at("cost").to_number<double>(), 0.0);
  EXPECT_TRUE(last.at("mechanism").is_null());
}

TEST_F(PrivacyReportTest, ADataSetThatWasReadOpenlyHasNoProjection) {
  add_job("open", "letters", false, std::numeric_limits<double>::infinity(), 0.0);
  const json::object document = history("letters");
  EXPECT_TRUE(document.at("projection").as_array().empty());
  EXPECT_TRUE(document.at("points").at(0).at("epsilon").is_null());
  EXPECT_NE(document.at("ends").as_string().find("without privacy"), json::string::npos);
}

TEST_F(PrivacyReportTest, ADataSetThatNoJobHasUsedIsNotFound) {
  const auto answer = privacy_history_json(*store_, "clinic-7", "nothing", now_, plans_);
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.error().code, Errc::not_found);
}

}  // namespace
}  // namespace trib::server
