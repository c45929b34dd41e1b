#include "server/job_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cmath>
#include <limits>

namespace trib::server {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

JobReport example() {
  JobReport report;
  report.job.id = "clinc-01020304";
  report.job.name = "clinc";
  report.job.task = "lora_text";
  report.job.submitted = WallTime(Milliseconds(1'000));
  report.job.ended = WallTime(Milliseconds(63'500));
  report.spec.rounds = 12;
  report.state = "finished";
  report.rounds_done = 12;
  for (std::int64_t round = 1; round <= 12; ++round)
    report.evaluations.push_back({round, {{"accuracy", 0.01 * static_cast<double>(round)}, {"accuracy_average", 0.5}}});
  ClientReport client;
  client.name = "site-a";
  client.epsilon_spent = 1.25;
  client.epsilon_budget = 8.0;
  client.bytes_down = 2048;
  client.bytes_up = 1024;
  client.status = "waiting";
  report.clients.push_back(client);
  return report;
}

// Of 0.03, 0.04, …, 0.12: the mean is 0.075, the sample variance 82.5e-4/9 (by hand).
TEST(JobReport, GivesMeanAndSpreadOfTheLastTenAccuracies) {
  const auto result = boost::json::parse(to_json(example())).at("result").as_object();
  EXPECT_NEAR(result.at("accuracy_mean_last_10").as_double(), 0.075, 1e-12);
  EXPECT_NEAR(result.at("accuracy_std_last_10").as_double(), std::sqrt(82.5e-4 / 9.0), 1e-12);
  EXPECT_NEAR(result.at("accuracy").as_double(), 0.12, 1e-12);
  EXPECT_NEAR(result.at("accuracy_average").as_double(), 0.5, 1e-12);
}

TEST(JobReport, TheSpreadOfOneValueIsZeroAndOfNoneIsNothing) {
  EXPECT_EQ(spread_of_last({0.5}, 10)->standard_deviation, 0.0);
  EXPECT_EQ(spread_of_last({0.5}, 10)->mean, 0.5);
  EXPECT_FALSE(spread_of_last({}, 10).has_value());
}

TEST(JobReport, IsOneDocumentWithWhatAScriptNeeds) {
  const auto document = boost::json::parse(to_json(example())).as_object();
  EXPECT_EQ(document.at("seconds"), 62.5);
  EXPECT_EQ(document.at("bytes_down"), 2048);
  EXPECT_EQ(document.at("private"), true);
  EXPECT_EQ(document.at("epsilon"), 8.0);
  EXPECT_TRUE(document.at("waiting").is_null());
  EXPECT_EQ(document.at("clients").at(0).at("epsilon_spent"), 1.25);
}

// A site whose ledger holds a charge that is not private has spent infinity, which JSON cannot say.
TEST(JobReport, AnInfiniteEpsilonIsNull) {
  JobReport report = example();
  report.clients[0].epsilon_spent = std::numeric_limits<double>::infinity();
  EXPECT_TRUE(boost::json::parse(to_json(report)).at("clients").at(0).at("epsilon_spent").is_null());
}

TEST(JobReport, AJobWithoutPrivacySaysSoAndHasNoEpsilon) {
  JobReport report = example();
  report.spec.privacy.enabled = false;
  const auto document = boost::json::parse(to_json(report)).as_object();
  EXPECT_EQ(document.at("private"), false);
  EXPECT_TRUE(document.at("epsilon").is_null());
}

TEST(JobReport, TheTableShowsWhoIsWaitedForAndSinceWhen) {
  JobReport report = example();
  report.state = "collecting";
  report.job.ended.reset();
  report.waiting =
      WaitReport{"1 of 2 contributions are in", {"site-a"}, WallTime(Milliseconds(0)), WallTime(Milliseconds(60'000))};
  report.open_round = 12;
  report.attempt = 2;
  const std::string table = render_job_report(to_json(report)).value();
  EXPECT_THAT(table, HasSubstr("1 of 2 contributions are in (since 1970-01-01T00:00:00.000Z, until "
                               "1970-01-01T00:01:00.000Z)"));
  EXPECT_THAT(table, HasSubstr("round 12 open (attempt 2)"));
  EXPECT_THAT(table, HasSubstr("site-a"));
  EXPECT_THAT(table, HasSubstr("2.0 KiB"));
  EXPECT_THAT(table, HasSubstr("mean 7.50 %"));
}

TEST(JobReport, TheTableHasAColumnForEachMetricOfATasksOwn) {
  JobReport report = example();
  report.evaluations.back().metrics["A_last"] = 0.8625;
  report.evaluations.back().metrics["forgetting/translate"] = 0.125;
  const std::string table = render_job_report(to_json(report)).value();
  EXPECT_THAT(table, HasSubstr("loss  A_last"));
  EXPECT_THAT(table, HasSubstr("0.8625"));
  EXPECT_THAT(table, Not(HasSubstr("translate"))) << "detail for programs";
  EXPECT_THAT(to_json(report), HasSubstr("forgetting/translate"));
}

TEST(JobReport, SomethingElseIsNotRendered) {
  EXPECT_EQ(render_job_report("[]").error().code, Errc::invalid_argument);
  EXPECT_EQ(render_job_report("{}").error().code, Errc::invalid_argument);
  EXPECT_EQ(render_job_report("not json").error().code, Errc::invalid_argument);
}

}  // namespace
}  // namespace trib::server
