#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

#include "tests/server/coordinator_fixture.h"

namespace trib::server {
namespace {

using testing::CoordinatorTest;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// --- Deadlines and retries ---

TEST_F(CoordinatorTest, CommitsAtTheDeadlineWithTheMinimum) {
  submit_with(3);
  ASSERT_TRUE(contribute(1, 1));
  ASSERT_TRUE(accept(2, 1));
  pass(std::chrono::seconds(59));
  EXPECT_EQ(state(), "collecting");
  EXPECT_THAT(waiting_for(), HasSubstr("1 of 3 contributions"));
  EXPECT_THAT(waiting_for(), HasSubstr(R"("sites":["site-2","site-3"])"));
  pass(std::chrono::seconds(1));
  EXPECT_THAT(counted(1), ElementsAre(1, 0, 0, 0));
  EXPECT_EQ(report().at("round"), 2);
}

TEST_F(CoordinatorTest, ARetryKeepsWhatWasContributedAndStillTakesWhatWasAsked) {
  spec_.selection.minimum_clients = 2;
  submit_with(2);
  ASSERT_TRUE(contribute(1, 1));
  ASSERT_TRUE(accept(2, 1));
  transport_.take();
  pass(std::chrono::seconds(60));
  EXPECT_EQ(report().at("attempt"), 2);
  EXPECT_EQ(report().at("round"), 1);
  EXPECT_THAT(transport_.take(), IsEmpty());  // nobody is asked twice on one connection, nothing is closed
  ASSERT_TRUE(contribute(2, 1));
  EXPECT_THAT(counted(1), ElementsAre(1, 1, 0, 0));
}

TEST_F(CoordinatorTest, ARetryAsksFurtherSites) {
  spec_.selection.clients_per_round = 2;
  spec_.selection.minimum_clients = 2;
  spec_.selection.round_retries = 2;
  submit_with(2);
  ASSERT_TRUE(contribute(1, 1));
  join(3);
  leave(2);
  ASSERT_TRUE(decline(2, 1, "shutting down"));
  // One is missing, and the round is filled up at once.
  EXPECT_EQ(client(3).at("status"), "chosen");
  ASSERT_TRUE(contribute(3, 1));
  EXPECT_THAT(counted(1), ElementsAre(1, 0, 1, 0));
}

TEST_F(CoordinatorTest, FailsAfterTheLastRetryAndNamesWhoWasSilent) {
  spec_.selection.minimum_clients = 2;
  submit_with(2);
  ASSERT_TRUE(contribute(1, 1));
  pass(std::chrono::seconds(60));
  pass(std::chrono::seconds(60));
  EXPECT_EQ(state(), "failed");
  EXPECT_THAT(reason(), HasSubstr("round 1 had 1 of at least 2 contributions after 2 attempts"));
  EXPECT_THAT(reason(), HasSubstr("nothing came from site-2"));
}

TEST_F(CoordinatorTest, WaitsForASiteThatWasConnectedAMomentAgo) {
  submit_with(2);
  ASSERT_TRUE(contribute(2, 1));
  leave(2);
  ASSERT_TRUE(contribute(1, 1));
  EXPECT_EQ(state(), "selecting");
  EXPECT_THAT(waiting_for(), HasSubstr(R"("sites":["site-2"])"));
  pass(std::chrono::seconds(30));
  EXPECT_EQ(state(), "collecting");  // without it
  EXPECT_EQ(client(2).at("status"), "waiting");
}

TEST_F(CoordinatorTest, WaitsForTheMinimumToConnectAndGivesUpInTheEnd) {
  spec_.selection.minimum_clients = 2;
  submit_with(2);
  ASSERT_TRUE(contribute(1, 1));
  leave(1);
  ASSERT_TRUE(contribute(2, 1));
  pass(std::chrono::seconds(31));
  EXPECT_EQ(state(), "selecting");
  EXPECT_THAT(waiting_for(), HasSubstr("for sites to connect: 1 can be chosen now, 2 are needed"));
  pass(std::chrono::seconds(30));
  EXPECT_EQ(state(), "selecting");
  pass(std::chrono::seconds(60));
  EXPECT_EQ(state(), "failed");
  EXPECT_THAT(reason(), HasSubstr("round 2 did not begin in 2 attempts"));
  EXPECT_EQ(report().at("rounds_done"), 1);
}

TEST_F(CoordinatorTest, EveryWaitHasAReasonAndADeadline) {
  spec_.selection.start_deadline_ms = 1000;
  spec_.selection.expected_clients = 3;
  submit();
  const auto check = [&](const std::string& expected_state) {
    EXPECT_EQ(state(), expected_state);
    const auto wait = report().at("waiting");
    ASSERT_TRUE(wait.is_object()) << expected_state;
    EXPECT_FALSE(wait.at("reason").as_string().empty()) << expected_state;
    EXPECT_TRUE(wait.at("until").is_string()) << expected_state;
    EXPECT_TRUE(coordinator_->next_deadline().has_value()) << expected_state;
  };
  check("recruiting");
  join(1);
  join(2);
  join(3);
  check("collecting");
  for (int site = 1; site <= 3; ++site) {
    leave(site);
    ASSERT_TRUE(contribute(site, 1));
  }
  check("selecting");
}

// --- Connections ---

TEST_F(CoordinatorTest, ASiteThatComesBackMidRoundGetsTheSameRoundAgain) {
  submit_with(2);
  ASSERT_TRUE(accept(1, 1));
  leave(1);
  transport_.take();
  join(1);
  EXPECT_THAT(transport_.take(), ElementsAre("offer site-1", "start site-1 1"));
  ASSERT_TRUE(contribute(1, 1));
  EXPECT_EQ(client(1).at("participations"), 1);
}

TEST_F(CoordinatorTest, ASiteThatHasContributedIsNotAskedAgain) {
  submit_with(2);
  ASSERT_TRUE(contribute(1, 1));
  leave(1);
  transport_.take();
  join(1);
  EXPECT_THAT(transport_.take(), ElementsAre("offer site-1"));
}

TEST_F(CoordinatorTest, ASiteThatWasAwayAtTheEndHearsOfItWhenItComesBack) {
  submit_with(1);
  leave(1);
  ASSERT_TRUE(coordinator_->cancel_job(job_, ""));
  transport_.take();
  coordinator_->client_connected(name(1));
  EXPECT_THAT(transport_.take(), ElementsAre("end site-1 cancelled"));
}

// --- Crashes and storage ---

TEST_F(CoordinatorTest, AfterARestartTheOpenRoundIsCollectedAgainFromTheSameSites) {
  spec_.selection.clients_per_round = 2;
  submit_with(3);
  std::vector<int> chosen;
  for (int site = 1; site <= 3; ++site)
    if (client(site).at("status") == "chosen") chosen.push_back(site);
  ASSERT_EQ(chosen.size(), 2u);
  ASSERT_TRUE(contribute(chosen[0], 1));  // folded into a sum that dies
  start();
  EXPECT_EQ(state(), "collecting");
  transport_.take();
  for (int site = 1; site <= 3; ++site) join(site);
  auto expected = std::vector<std::string>{"offer site-1", "offer site-2", "offer site-3"};
  for (const int site : chosen) expected.push_back("start " + name(site) + " 1");
  EXPECT_THAT(transport_.take(), ::testing::UnorderedElementsAreArray(expected));
  ASSERT_TRUE(contribute(chosen[0], 1));
  ASSERT_TRUE(contribute(chosen[1], 1));
  std::vector<double> once(site_count);
  for (const int site : chosen) once[static_cast<std::size_t>(site - 1)] = 1.0;
  EXPECT_EQ(counted(1), once);
}

TEST_F(CoordinatorTest, AfterARestartEvaluationsThatWereDueAreDone) {
  submit_with(1);
  store_.before = [](std::string_view call) -> Status {
    if (call == "put_evaluation") throw std::logic_error("killed");
    return {};
  };
  EXPECT_THROW((void)contribute(1, 1), std::logic_error);
  store_.before = [](std::string_view) { return Status(); };
  start();
  ASSERT_EQ(report().at("evaluations").as_array().size(), 1u);
  EXPECT_EQ(report().at("evaluations").at(0).at("metrics").at("accuracy"), 0.1);
  EXPECT_EQ(report().at("rounds_done"), 1);
}

TEST_F(CoordinatorTest, AFullDiskDelaysTheCommitAndLosesNothing) {
  submit_with(2);
  bool is_full = true;
  store_.before = [&](std::string_view call) -> Status {
    if (is_full && call == "commit_round") return Error{Errc::no_space, "the disk is full"};
    return {};
  };
  ASSERT_TRUE(contribute(1, 1));
  ASSERT_TRUE(contribute(2, 1));
  EXPECT_EQ(state(), "aggregating");
  EXPECT_THAT(waiting_for(), HasSubstr("the disk is full"));
  is_full = false;
  pass(std::chrono::seconds(10));
  EXPECT_EQ(state(), "collecting");
  EXPECT_THAT(counted(1), ElementsAre(1, 1, 0, 0));
}

TEST_F(CoordinatorTest, ADiskThatStaysFullEndsTheJobWithItsReason) {
  submit_with(1);
  store_.before = [&](std::string_view call) -> Status {
    if (call == "commit_round") return Error{Errc::no_space, "the disk is full"};
    return {};
  };
  ASSERT_TRUE(contribute(1, 1));
  for (int i = 0; i < 7; ++i) pass(std::chrono::seconds(10));
  EXPECT_EQ(state(), "failed");
  EXPECT_EQ(reason(), "the disk is full");
  EXPECT_EQ(report().at("rounds_done"), 0);
}

TEST_F(CoordinatorTest, AnAcceptanceThatCannotBeRecordedIsNotTaken) {
  submit_with(1);
  store_.before = [&](std::string_view call) -> Status {
    if (call == "set_round_site") return Error{Errc::no_space, "the disk is full"};
    return {};
  };
  EXPECT_EQ(accept(1, 1).error().code, Errc::no_space);
  EXPECT_EQ(contribute(1, 1).error().code, Errc::no_space);
  EXPECT_EQ(client(1).at("participations"), 0);
  store_.before = [](std::string_view) { return Status(); };
  EXPECT_TRUE(contribute(1, 1));
}

TEST_F(CoordinatorTest, KeepsTheLastStateAndTheOneBefore) {
  spec_.rounds = 5;
  submit_with(1);
  for (std::int64_t round = 1; round <= 5; ++round) {
    ASSERT_TRUE(contribute(1, round));
    EXPECT_EQ(files_.count(), 2u);
  }
}

TEST_F(CoordinatorTest, StatesThatNoRowNamesAreSweptAtTheStart) {
  submit_with(1);
  ASSERT_TRUE(files_.write(testing::unit_contribution(0, 1), "gone", 1));
  EXPECT_EQ(files_.count(), 2u);
  start();
  EXPECT_EQ(files_.count(), 1u);
}

// --- Operators ---

TEST_F(CoordinatorTest, ABadJobFileStartsNothing) {
  start();
  auto options = testing::counting_options(spec_, site_count);
  options.read_job = [](std::string_view, std::string_view) -> Result<tasks::JobSpec> {
    return Error{Errc::invalid_argument, "job.toml:3: job.rounds = 0"};
  };
  coordinator_ = std::make_unique<Coordinator>(store_, files_, tasks::AggregatorContext{}, clock_, random_, transport_,
                                               queue_, options);
  EXPECT_EQ(coordinator_->submit_job("rounds = 0", "job.toml").error().message, "job.toml:3: job.rounds = 0");
  EXPECT_TRUE(sqlite_->jobs().value().empty());
}

TEST_F(CoordinatorTest, AJobIdIsSafeInAFileName) {
  spec_.name = "My Job: ../x";
  submit();
  EXPECT_THAT(job_, ::testing::MatchesRegex("my-job-----x-[0-9a-f]+"));
}

TEST_F(CoordinatorTest, CancellingTwiceOrSomethingElseIsAClearError) {
  submit_with(1);
  ASSERT_TRUE(coordinator_->cancel_job(job_, "enough"));
  EXPECT_EQ(state(), "cancelled");
  EXPECT_EQ(reason(), "enough");
  EXPECT_EQ(coordinator_->cancel_job(job_, "").error().code, Errc::already_exists);
  const auto other = coordinator_->cancel_job("no-such-job", "");
  EXPECT_EQ(other.error().code, Errc::not_found);
  EXPECT_THAT(other.error().message, HasSubstr(job_));
}

TEST_F(CoordinatorTest, TwoJobsRunSideBySide) {
  submit_with(1);
  const std::string first = job_;
  job_ = coordinator_->submit_job("[job]", "job.toml").value();
  work();
  ASSERT_TRUE(coordinator_->job_reply(name(1), job_, true, "", 10));
  ASSERT_TRUE(contribute(1, 1));
  EXPECT_EQ(report().at("rounds_done"), 1);
  EXPECT_EQ(boost::json::parse(coordinator_->job_json(first).value()).at("rounds_done"), 0);
  EXPECT_EQ(boost::json::parse(coordinator_->jobs_json()).at("jobs").as_array().size(), 2u);
}

TEST_F(CoordinatorTest, ASubscriberSeesEveryStateAndTheEnd) {
  submit();
  std::vector<std::string> states;
  int ends = 0;
  ASSERT_TRUE(coordinator_->subscribe(job_, [&](const std::string& json, bool last) {
    const std::string now(boost::json::parse(json).at("state").as_string());
    if (states.empty() || states.back() != now) states.push_back(now);
    ends += last ? 1 : 0;
  }));
  join(1);
  ASSERT_TRUE(contribute(1, 1));
  ASSERT_TRUE(contribute(1, 2));
  EXPECT_EQ(states.front(), "recruiting");
  EXPECT_EQ(states.back(), "finished");
  EXPECT_THAT(states, ::testing::IsSupersetOf({"collecting", "aggregating", "evaluating"}));
  EXPECT_EQ(ends, 1);
}

TEST_F(CoordinatorTest, ProgressReachesASubscriberAtMostAtTheReportInterval) {
  submit_with(1);
  int reports = 0;
  ASSERT_TRUE(coordinator_->subscribe(job_, [&](const std::string&, bool) { ++reports; }));
  reports = 0;
  for (int step = 1; step <= 100; ++step) {
    coordinator_->progress(name(1), job_, {1, step, 100, 0.5, 8.0});
    clock_.advance(std::chrono::milliseconds(20));
    coordinator_->tick();
  }
  EXPECT_GE(reports, 3);
  EXPECT_LE(reports, 5);
  EXPECT_EQ(client(1).at("step"), 100);
  EXPECT_EQ(client(1).at("epsilon_spent"), 0.5);
}

TEST_F(CoordinatorTest, NonsensicalProgressIsIgnored) {
  submit_with(1);
  coordinator_->progress(name(1), job_, {1, 5, 10, 0.5, 8.0});
  coordinator_->progress(name(1), job_, {1, 11, 10, 0.5, 8.0});
  coordinator_->progress(name(1), job_, {1, 6, 10, std::nan(""), 8.0});
  coordinator_->progress(name(1), job_, {1, 6, 10, -1.0, 8.0});
  EXPECT_EQ(client(1).at("step"), 5);
  EXPECT_EQ(client(1).at("epsilon_spent"), 0.5);
}

TEST_F(CoordinatorTest, BytesAndProgressSurviveARestartOnceTheirRoundIsCommitted) {
  submit_with(1);
  coordinator_->account_bytes(name(1), job_, 0, 7, 0);
  coordinator_->account_bytes(name(1), job_, 1, 1000, 300);
  coordinator_->progress(name(1), job_, {1, 1, 1, 0.25, 8.0});
  ASSERT_TRUE(contribute(1, 1));
  start();
  EXPECT_EQ(client(1).at("bytes_down"), 1007);
  EXPECT_EQ(client(1).at("bytes_up"), 300);
  EXPECT_EQ(client(1).at("epsilon_spent"), 0.25);
  EXPECT_EQ(report().at("rounds").at(0).at("bytes_down"), 1000);
}

TEST_F(CoordinatorTest, ASeededSimulationIsNeverCalledPrivate) {
  noise_seeded_ = true;
  submit_with(1);
  EXPECT_EQ(report().at("private"), false);
  EXPECT_EQ(report().at("noise_seeded"), true);
  EXPECT_THAT(std::string(report().at("privacy").as_string()), HasSubstr("not private"));
}

}  // namespace
}  // namespace trib::server
