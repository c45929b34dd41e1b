// Jobs whose clients are one person each: a secret sample a round, and noise that is the aggregator's.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "server/job_report.h"
#include "tests/server/coordinator_fixture.h"

namespace trib::server {
namespace {

using testing::CoordinatorTest;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::unit_contribution;

class SampledJob : public CoordinatorTest {
 protected:
  SampledJob() {
    spec_ = testing::counting_job(12);
    spec_.selection.order = tasks::SelectionOrder::poisson;
    spec_.selection.clients_per_round = 2;
    spec_.selection.expected_clients = site_count;
    spec_.privacy.noise_by = tasks::NoiseBy::aggregator;
    spec_.privacy.epsilon = 8.0;
    open_ledger(1e6);
  }
  void open_ledger(double cap) { ledger_ = privacy::Ledger::in_memory({{"default", cap, 1e-5}}, clock_).value(); }
  // Sites that were asked since the last call.
  std::vector<int> asked() {
    std::vector<int> sites;
    for (const std::string& said : transport_.take())
      if (said.starts_with("start site-")) sites.push_back(said[11] - '0');
    return sites;
  }
};

TEST_F(SampledJob, AsksAnIndependentSampleEveryRoundAndCommitsEmptyOnes) {
  // Of 100 rounds of four sites at one half, none empty has probability (15/16)^100 = 0.002.
  spec_.rounds = 100;
  submit_with(site_count);
  std::map<std::size_t, int> sizes;
  std::set<std::vector<int>> samples;
  std::size_t rounds_seen = 0;
  while (state() == "collecting") {
    const auto round = report().at("round").as_int64();
    const std::vector<int> sites = asked();
    ++sizes[sites.size()];
    samples.insert(sites);
    ++rounds_seen;
    ASSERT_FALSE(sites.empty());
    for (const int site : sites)
      ASSERT_TRUE(contribute(site, round, unit_contribution(site - 1, site_count), 1.0, false).ok());
  }
  EXPECT_EQ(state(), "finished");
  EXPECT_EQ(ledger_->entries().size(), 100u);
  EXPECT_GT(sizes[1], 0);
  EXPECT_GT(sizes[3], 0);
  EXPECT_GT(samples.size(), 6u);
  EXPECT_LT(rounds_seen, 100u) << "an empty round is committed without asking anyone";
}

TEST_F(SampledJob, ChargesEveryRoundAtTheAggregatorAndEndsWithinItsEpsilon) {
  submit_with(site_count);
  while (state() == "collecting") {
    const auto round = report().at("round").as_int64();
    for (const int site : asked()) contribute(site, round, unit_contribution(site - 1, site_count), 1.0, false).value();
  }
  ASSERT_EQ(ledger_->entries().size(), 12u);
  for (const auto& entry : ledger_->entries()) {
    EXPECT_EQ(entry.charge.mechanism.sample_rate, 0.5);
    EXPECT_EQ(entry.charge.mechanism.steps, 1);
    EXPECT_EQ(entry.charge.declared_records, site_count);
  }
  const double spent = ledger_->epsilon_spent("default", 1e-5);
  EXPECT_LE(spent, 8.0);
  EXPECT_GT(spent, 7.9);
  EXPECT_NEAR(report().at("aggregator_epsilon_spent").as_double(), spent, 1e-12);
}

TEST_F(SampledJob, SaysInEveryReportThatItTrustsTheAggregatorAndNotWhoWasSampled) {
  submit_with(site_count);
  const auto document = report();
  EXPECT_EQ(document.at("privacy").as_string(), "trusts the aggregator");
  EXPECT_FALSE(document.at("private").as_bool());
  EXPECT_TRUE(document.at("trusts_aggregator").as_bool());
  EXPECT_EQ(document.at("epsilon").to_number<double>(), 8.0);
  EXPECT_THAT(render_job_report(boost::json::serialize(document)).value(), HasSubstr("trusts the aggregator"));
  for (const auto& client : document.at("clients").as_array()) {
    EXPECT_EQ(client.at("status").as_string(), "waiting");
    EXPECT_EQ(client.at("participations").as_int64(), 0);
    EXPECT_EQ(client.at("bytes_down").to_number<double>(), 0.0);
  }
  EXPECT_THAT(waiting_for(), Not(HasSubstr("site-")));
}

TEST_F(SampledJob, TakesContributionsWithoutNoiseAndWithWeightOneAlone) {
  submit_with(site_count);
  const auto round = report().at("round").as_int64();
  const int site = asked().front();
  const Status heavy = contribute(site, round, unit_contribution(site - 1, site_count), 5.0, false);
  ASSERT_FALSE(heavy);
  EXPECT_THAT(heavy.error().message, HasSubstr("weight is 5"));
  EXPECT_TRUE(contribute(site, round, unit_contribution(site - 1, site_count), 1.0, false).ok());
}

TEST_F(SampledJob, KeepsItsSampleAndItsChargeOverARestart) {
  submit_with(site_count);
  const std::vector<int> first = asked();
  ASSERT_FALSE(first.empty());
  const std::size_t charged = ledger_->entries().size();
  start();
  for (int site = 1; site <= site_count; ++site) join(site);
  std::vector<int> again = asked();
  EXPECT_EQ(again, first);
  EXPECT_EQ(ledger_->entries().size(), charged);
}

TEST_F(SampledJob, ClosesARoundAtItsDeadlineWithWhoCameAndFillsNothingUp) {
  submit_with(site_count);
  const auto round = report().at("round").as_int64();
  asked();
  pass(std::chrono::seconds(61));
  EXPECT_GT(report().at("rounds_done").as_int64(), round - 1);
}

TEST_F(SampledJob, FailsWhereTheAggregatorsLedgerDoesNotCoverIt) {
  open_ledger(0.01);
  submit_with(site_count);
  EXPECT_EQ(state(), "failed");
  EXPECT_THAT(reason(), HasSubstr("budget"));
}

TEST_F(SampledJob, FailsWithoutALedger) {
  ledger_.reset();
  submit_with(site_count);
  EXPECT_EQ(state(), "failed");
  EXPECT_THAT(reason(), HasSubstr("ledger"));
}

}  // namespace
}  // namespace trib::server
