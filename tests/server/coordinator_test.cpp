#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/server/coordinator_fixture.h"

namespace trib::server {
namespace {

using ::testing::Contains;
using testing::CoordinatorTest;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// --- The way of a job ---

TEST_F(CoordinatorTest, GoesFromSubmissionToTheLastRound) {
  submit();
  EXPECT_EQ(state(), "recruiting");
  join(1);
  EXPECT_EQ(state(), "collecting");
  EXPECT_THAT(transport_.take(), ElementsAre("offer site-1", "start site-1 1"));
  ASSERT_TRUE(accept(1, 1));
  ASSERT_TRUE(contribute(1, 1));
  EXPECT_THAT(transport_.take(), ElementsAre("close site-1 1", "start site-1 2"));
  ASSERT_TRUE(contribute(1, 2));
  EXPECT_EQ(state(), "finished");
  EXPECT_THAT(transport_.take(), ElementsAre("close site-1 2", "end site-1 finished"));
  EXPECT_THAT(counted(1), ElementsAre(1, 0, 0, 0));
  EXPECT_THAT(counted(2), ElementsAre(1, 0, 0, 0));
  EXPECT_FALSE(coordinator_->has_running_jobs());
}

TEST_F(CoordinatorTest, WaitsForAllExpectedSitesAndSaysWhom) {
  spec_.selection.expected_clients = 2;
  submit();
  join(1);
  coordinator_->client_connected(name(2));
  EXPECT_EQ(state(), "recruiting");
  EXPECT_THAT(waiting_for(), HasSubstr("1 of 2 expected sites"));
  EXPECT_THAT(waiting_for(), HasSubstr(R"("sites":["site-2"])"));
  join(2);
  EXPECT_EQ(state(), "collecting");
}

TEST_F(CoordinatorTest, StartsAtTheStartDeadlineWithFewerSitesThanExpected) {
  spec_.selection.expected_clients = 3;
  spec_.selection.minimum_clients = 2;
  spec_.selection.start_deadline_ms = 10'000;
  submit();
  join(1);
  join(2);
  EXPECT_EQ(state(), "recruiting");
  pass(std::chrono::seconds(10));
  EXPECT_EQ(state(), "collecting");
}

TEST_F(CoordinatorTest, FailsAtTheStartDeadlineWithoutTheMinimumAndSaysWhoRefused) {
  spec_.selection.minimum_clients = 2;
  spec_.selection.expected_clients = 2;
  spec_.selection.start_deadline_ms = 10'000;
  submit();
  join(1);
  coordinator_->client_connected(name(2));
  ASSERT_TRUE(coordinator_->job_reply(name(2), job_, false, "the base model differs", 0));
  pass(std::chrono::seconds(10));
  EXPECT_EQ(state(), "failed");
  EXPECT_THAT(reason(), HasSubstr("site-2: the base model differs"));
  EXPECT_EQ(client(2).at("status"), "refused");
}

TEST_F(CoordinatorTest, ASiteThatRefusedAnOfferMayReconsiderWhenItComesBack) {
  spec_.selection.expected_clients = 1;
  submit();
  coordinator_->client_connected(name(1));
  ASSERT_TRUE(coordinator_->job_reply(name(1), job_, false, "no data set", 0));
  leave(1);
  join(1);
  EXPECT_EQ(state(), "collecting");
}

TEST_F(CoordinatorTest, ATaskThatCannotBeLoadedFailsItsJobAlone) {
  start();
  auto options = testing::counting_options(spec_, site_count);
  options.find_task = [](std::string_view) -> Result<const tasks::TaskDefinition*> {
    return Error{Errc::not_found, "no base model here"};
  };
  coordinator_ = std::make_unique<Coordinator>(store_, files_, tasks::AggregatorContext{}, clock_, random_, transport_,
                                               queue_, options);
  ASSERT_TRUE(coordinator_->resume());
  job_ = coordinator_->submit_job("[job]", "job.toml").value();
  work();
  EXPECT_EQ(state(), "failed");
  EXPECT_EQ(reason(), "no base model here");
}

// --- Selection ---

TEST_F(CoordinatorTest, NoSiteTakesPartMoreOftenThanItMay) {
  spec_.rounds = 2;
  spec_.selection.clients_per_round = 1;
  spec_.privacy.rounds_per_client = 1;
  submit_with(2);
  const bool first_is_one = client(1).at("status") == "chosen";
  ASSERT_TRUE(contribute(first_is_one ? 1 : 2, 1));
  EXPECT_EQ(client(first_is_one ? 2 : 1).at("status"), "chosen");
  ASSERT_TRUE(contribute(first_is_one ? 2 : 1, 2));
  EXPECT_EQ(state(), "finished");
}

TEST_F(CoordinatorTest, AParticipationCountsOnceItIsAcceptedWhateverComesOfIt) {
  spec_.selection.clients_per_round = 1;
  spec_.privacy.rounds_per_client = 1;
  submit_with(1);
  ASSERT_TRUE(accept(1, 1));
  EXPECT_EQ(client(1).at("participations"), 1);
  ASSERT_TRUE(decline(1, 1, "the contribution was lost"));
  EXPECT_EQ(client(1).at("participations"), 1);
  EXPECT_EQ(state(), "failed");
  EXPECT_THAT(reason(), HasSubstr("1 have taken part in as many rounds as they may (1)"));
}

TEST_F(CoordinatorTest, ADeclineBeforeAcceptingIsNoParticipation) {
  submit_with(2);
  ASSERT_TRUE(decline(1, 1, "busy"));
  EXPECT_EQ(client(1).at("participations"), 0);
}

TEST_F(CoordinatorTest, OverSelectionAsksMoreSitesAndCommitsWithEnough) {
  spec_.privacy.enabled = false;
  spec_.selection.clients_per_round = 2;
  spec_.selection.over_selection = 1.5;
  submit_with(3);
  EXPECT_THAT(transport_.take(), ::testing::IsSupersetOf({"start site-1 1", "start site-2 1", "start site-3 1"}));
  ASSERT_TRUE(contribute(3, 1));
  ASSERT_TRUE(contribute(1, 1));
  EXPECT_THAT(counted(1), ElementsAre(1, 0, 1, 0));
  EXPECT_EQ(contribute(2, 1).error().code, Errc::deadline_exceeded);
}

TEST_F(CoordinatorTest, ASiteThatJoinsLateIsNotOwedTheRoundsItMissed) {
  spec_.rounds = 9;
  spec_.selection.clients_per_round = 1;
  submit_with(1);
  for (std::int64_t round = 1; round <= 4; ++round) ASSERT_TRUE(contribute(1, round));
  join(2);
  ASSERT_TRUE(contribute(1, 5));
  // From here on both have had about as many turns: neither goes twice before the other.
  for (std::int64_t round = 6; round <= 9; ++round)
    ASSERT_TRUE(contribute(client(1).at("status") == "chosen" ? 1 : 2, round));
  EXPECT_EQ(client(1).at("participations").as_int64() + client(2).at("participations").as_int64(), 9);
  EXPECT_NEAR(static_cast<double>(client(2).at("participations").as_int64()), 2.0, 1.0);
}

TEST_F(CoordinatorTest, ASiteIsToldInWhichRoundItWasLastCounted) {
  spec_.rounds = 4;
  submit_with(2);
  ASSERT_TRUE(contribute(1, 1));
  ASSERT_TRUE(decline(2, 1, "busy"));
  EXPECT_EQ(transport_.last_counted("site-1"), 1);
  EXPECT_EQ(transport_.last_counted("site-2"), 0);
  ASSERT_TRUE(contribute(2, 2));
  ASSERT_TRUE(decline(1, 2, "busy"));
  EXPECT_EQ(transport_.last_counted("site-1"), 1);
  EXPECT_EQ(transport_.last_counted("site-2"), 2);
  // Folded into a sum that dies with the aggregator: not counted until it is committed.
  ASSERT_TRUE(contribute(1, 3));
  start();
  for (int site = 1; site <= 2; ++site) {
    join(site);
    work();
  }
  EXPECT_EQ(transport_.last_counted("site-1"), 1);
  EXPECT_EQ(transport_.last_counted("site-2"), 2);
  ASSERT_TRUE(contribute(1, 3));
  ASSERT_TRUE(contribute(2, 3));
  EXPECT_EQ(transport_.last_counted("site-1"), 3);
}

// --- Declines, budgets, revocation ---

TEST_F(CoordinatorTest, ASiteOverItsBudgetIsDroppedAndTheRoundGoesOn) {
  submit_with(2);
  ASSERT_TRUE(decline(1, 1, "spent 7.9 of 8.0", true));
  ASSERT_TRUE(contribute(2, 1));
  EXPECT_THAT(transport_.take(), Contains("start site-2 2"));
  EXPECT_EQ(client(1).at("status"), "dropped");
  EXPECT_EQ(client(1).at("reason"), "spent 7.9 of 8.0");
  leave(1);
  coordinator_->client_connected(name(1));
  EXPECT_THAT(transport_.take(), Not(Contains("offer site-1")));
}

TEST_F(CoordinatorTest, ASiteThatDeclinesOneRoundIsReplacedAndMayTakePartInTheNext) {
  spec_.selection.clients_per_round = 1;
  submit_with(2);
  const int chosen = client(1).at("status") == "chosen" ? 1 : 2;
  const int other = 3 - chosen;
  ASSERT_TRUE(decline(chosen, 1, "busy"));
  EXPECT_EQ(client(other).at("status"), "chosen");
  EXPECT_EQ(report().at("attempt"), 1);  // a decline is not a failed attempt
  ASSERT_TRUE(contribute(other, 1));
  EXPECT_EQ(client(chosen).at("reason"), "");
}

TEST_F(CoordinatorTest, EndsClearlyWhenTooFewSitesRemainAndTheModelStays) {
  spec_.selection.minimum_clients = 2;
  submit_with(2);
  ASSERT_TRUE(contribute(1, 1));
  ASSERT_TRUE(contribute(2, 1));
  ASSERT_TRUE(decline(1, 2, "over budget", true));
  // The other may still deliver, but it would not be enough.
  ASSERT_TRUE(contribute(2, 2));
  EXPECT_EQ(state(), "failed");
  EXPECT_THAT(reason(), HasSubstr("too few sites remain for round 2"));
  EXPECT_THAT(reason(), HasSubstr("site-1: over budget"));
  EXPECT_EQ(report().at("rounds_done"), 1);
  EXPECT_THAT(counted(1), ElementsAre(1, 1, 0, 0));
}

TEST_F(CoordinatorTest, ARevokedSiteIsDroppedFromItsJobs) {
  submit_with(2);
  coordinator_->client_revoked(name(1), "key lost");
  EXPECT_EQ(client(1).at("reason"), "revoked: key lost");
  EXPECT_EQ(contribute(1, 1).error().code, Errc::permission_denied);
  ASSERT_TRUE(contribute(2, 1));
  EXPECT_THAT(counted(1), ElementsAre(0, 1, 0, 0));
}

// --- Contributions that are refused ---

TEST_F(CoordinatorTest, AContributionIsCountedOnce) {
  submit_with(2);
  ASSERT_TRUE(contribute(1, 1));
  EXPECT_EQ(contribute(1, 1).error().code, Errc::already_exists);
  ASSERT_TRUE(contribute(2, 1));
  EXPECT_THAT(counted(1), ElementsAre(1, 1, 0, 0));
}

TEST_F(CoordinatorTest, AContributionToAPastRoundIsRefusedAndTheSiteToldThatItIsClosed) {
  submit_with(1);
  ASSERT_TRUE(contribute(1, 1));
  transport_.take();
  EXPECT_EQ(contribute(1, 1).error().code, Errc::deadline_exceeded);
  EXPECT_THAT(transport_.take(), ElementsAre("close site-1 1"));
}

TEST_F(CoordinatorTest, AContributionToAFutureRoundIsRefused) {
  submit_with(1);
  EXPECT_EQ(contribute(1, 2).error().code, Errc::invalid_argument);
}

TEST_F(CoordinatorTest, AContributionOfASiteThatWasNotChosenIsRefused) {
  submit_with(1);
  join(2);
  const Status status = contribute(2, 1);
  EXPECT_EQ(status.error().code, Errc::permission_denied);
  EXPECT_THAT(status.error().message, HasSubstr("site-2"));
}

TEST_F(CoordinatorTest, AWrongLayoutIsRefusedAndTheRightOneStillTaken) {
  submit_with(1);
  TensorMap wrong;
  wrong["counts"] = HostTensor::from_f32({2}, std::vector<float>{1, 1});
  const Status status = contribute(1, 1, std::move(wrong));
  EXPECT_EQ(status.error().code, Errc::invalid_argument);
  EXPECT_THAT(status.error().message, HasSubstr("counts"));
  ASSERT_TRUE(contribute(1, 1));
  EXPECT_THAT(counted(1), ElementsAre(1, 0, 0, 0));
}

TEST_F(CoordinatorTest, ValuesThatAreNotFiniteAreRefused) {
  submit_with(1);
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    TensorMap tensors = testing::unit_contribution(0, site_count);
    tensors["counts"].as<float>()[2] = bad;
    EXPECT_EQ(contribute(1, 1, std::move(tensors)).error().code, Errc::invalid_argument);
  }
  ASSERT_TRUE(contribute(1, 1));
  EXPECT_THAT(counted(1), ElementsAre(1, 0, 0, 0));
}

TEST_F(CoordinatorTest, AWeightMustBePositiveAndFinite) {
  submit_with(1);
  for (const double weight : {0.0, -1.0, std::nan(""), std::numeric_limits<double>::infinity()})
    EXPECT_EQ(contribute(1, 1, weight).error().code, Errc::invalid_argument) << weight;
  EXPECT_TRUE(contribute(1, 1, 2.5));
}

TEST_F(CoordinatorTest, AContributionThatIsNotPrivateNeverEntersAPrivateJob) {
  submit_with(1);
  EXPECT_EQ(contribute(1, 1, 1.0, false).error().code, Errc::permission_denied);
  EXPECT_EQ(state(), "collecting");
}

TEST_F(CoordinatorTest, AJobThatIsNotPrivateTakesContributionsThatAreNot) {
  spec_.privacy.enabled = false;
  submit_with(1);
  EXPECT_TRUE(contribute(1, 1, 1.0, false));
  EXPECT_EQ(report().at("private"), false);
}

TEST_F(CoordinatorTest, AContributionToAJobThatHasEndedTellsTheSiteSo) {
  submit_with(1);
  ASSERT_TRUE(coordinator_->cancel_job(job_, "enough"));
  transport_.take();
  EXPECT_EQ(contribute(1, 1).error().code, Errc::not_found);
  EXPECT_THAT(transport_.take(), ElementsAre("end site-1 cancelled"));
  EXPECT_EQ(coordinator_->contribution("site-1", "no-such-job", 1, 1.0, true, {}).error().code, Errc::not_found);
}

TEST_F(CoordinatorTest, AContributionWithoutAnAcceptanceIsAParticipation) {
  submit_with(1);
  ASSERT_TRUE(contribute(1, 1));
  EXPECT_EQ(sqlite_->participations(job_).value().at("site-1"), 1);
}

TEST_F(CoordinatorTest, ARoundKeepsWhatItsSitesReportedInItOverACrash) {
  submit_with(2);
  ASSERT_TRUE(accept(1, 1));
  coordinator_->progress(
      name(1), job_, {.round = 1, .step = 1, .steps = 4, .epsilon_spent = 0.5, .epsilon_budget = 8.0, .delta = 1e-6});
  const WallTime reported = clock_.wall_now();
  start();
  const auto parts = sqlite_->round_sites(job_, 1).value();
  ASSERT_EQ(parts.size(), 2u);
  EXPECT_EQ(parts[0].epsilon_spent, 0.5);
  EXPECT_EQ(parts[0].epsilon_budget, 8.0);
  EXPECT_EQ(parts[0].reported, reported);
  EXPECT_EQ(parts[0].status, RoundSiteStatus::accepted);
  EXPECT_EQ(parts[1].reported, std::nullopt);
}

TEST_F(CoordinatorTest, WhatASiteReportsAfterItsContributionDoesNotCommitIt) {
  submit_with(2);
  ASSERT_TRUE(accept(1, 1));
  ASSERT_TRUE(contribute(1, 1));
  coordinator_->progress(name(1), job_, {.round = 1, .step = 4, .steps = 4, .epsilon_spent = 0.75});
  EXPECT_EQ(sqlite_->round_sites(job_, 1).value()[0].status, RoundSiteStatus::accepted);
  ASSERT_TRUE(contribute(2, 1));
  const auto parts = sqlite_->round_sites(job_, 1).value();
  EXPECT_EQ(parts[0].status, RoundSiteStatus::contributed);
  EXPECT_EQ(parts[0].epsilon_spent, 0.75);
}

TEST_F(CoordinatorTest, ADeclinedRoundAndADroppedSiteHaveTheirTimes) {
  submit_with(3);
  pass(std::chrono::seconds(5));
  const WallTime when = clock_.wall_now();
  ASSERT_TRUE(decline(1, 1, "over its cap", true));
  const auto declined = sqlite_->declined_rounds(job_).value();
  ASSERT_EQ(declined.size(), 1u);
  EXPECT_EQ(declined[0].part.declined, when);
  EXPECT_EQ(sqlite_->job_sites(job_).value()[0].declined, when);
}

TEST_F(CoordinatorTest, ASiteSaysWithItsAcceptanceWhatItHasSpentAndItsCap) {
  spec_.selection.expected_clients = 2;
  submit();
  coordinator_->client_connected(name(1));
  ASSERT_TRUE(coordinator_->job_reply(name(1), job_, true, "", 100, SiteBudget{1.5, 8.0, 1e-6}));
  const auto site = sqlite_->job_sites(job_).value().at(0);
  EXPECT_EQ(site.epsilon_spent, 1.5);
  EXPECT_EQ(site.epsilon_budget, 8.0);
  EXPECT_EQ(site.delta, 1e-6);
  EXPECT_EQ(site.reported, clock_.wall_now());
}

TEST_F(CoordinatorTest, TheListOfSitesSaysWhoIsWaitedForAndSinceWhen) {
  submit_with(2);
  const std::string asked = to_iso8601(clock_.wall_now());
  ASSERT_TRUE(contribute(1, 1));
  pass(std::chrono::seconds(3));
  leave(2);
  const auto document = boost::json::parse(coordinator_->sites_json()).as_object();
  const auto& sites = document.at("sites").as_array();
  ASSERT_EQ(sites.size(), 1u) << "who is not enrolled is in the list while it is connected";
  EXPECT_TRUE(sites[0].at("waiting_for").as_array().empty());
  EXPECT_EQ(sites[0].at("last_seen").as_string(), to_iso8601(clock_.wall_now()));
  const auto second = client(2);
  EXPECT_EQ(second.at("waiting_since").as_string(), asked);
  EXPECT_TRUE(client(1).at("waiting_since").is_null());
  EXPECT_EQ(second.at("last_seen").as_string(), to_iso8601(clock_.wall_now()));
  join(2);
  const auto again = boost::json::parse(coordinator_->sites_json()).as_object();
  const auto& wait = again.at("sites").at(1).at("waiting_for").at(0);
  EXPECT_EQ(wait.at("job").as_string(), job_);
  EXPECT_EQ(wait.at("round").to_number<int>(), 1);
  EXPECT_EQ(wait.at("since").as_string(), asked);
}

TEST_F(CoordinatorTest, CountsItsJobsAndTheBytesOfEachSiteForMetrics) {
  submit_with(2);
  coordinator_->account_bytes(name(1), job_, 1, 100, 20);
  const CoordinatorFigures figures = coordinator_->figures();
  EXPECT_EQ(figures.jobs_by_state.at("running"), 1);
  EXPECT_EQ(figures.jobs_by_state.at("failed"), 0);
  ASSERT_EQ(figures.running.size(), 1u);
  EXPECT_EQ(figures.running[0].state, "collecting");
  EXPECT_EQ(figures.running[0].waited_for, 2);
  EXPECT_EQ(figures.bytes_by_site.at(name(1)).down, 100u);
  EXPECT_EQ(figures.bytes_by_site.at(name(1)).up, 20u);
}

}  // namespace
}  // namespace trib::server
