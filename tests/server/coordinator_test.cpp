#include "server/coordinator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cmath>
#include <limits>

#include "server/sqlite_store.h"
#include "tests/server/hooked_store.h"
#include "tests/server/test_federation.h"

namespace trib::server {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

// Writes down what the sites are told: "start site-1 2".
class RecordingTransport final : public CoordinatorTransport {
 public:
  void offer_job(const std::string& client, std::shared_ptr<const JobOffer>) override { add("offer " + client); }
  void start_round(const std::string& client, const std::string&, std::int64_t round,
                   std::shared_ptr<const TensorMap> broadcast) override {
    // The broadcast of round r comes from the state after r − 1 rounds.
    EXPECT_EQ(broadcast->at("round").as<std::int64_t>()[0], round - 1);
    add("start " + client + " " + std::to_string(round));
  }
  void close_round(const std::string& client, const std::string&, std::int64_t round) override {
    add("close " + client + " " + std::to_string(round));
  }
  void end_job(const std::string& client, const std::string&, const std::string& outcome) override {
    add("end " + client + " " + outcome);
  }
  std::vector<std::string> take() { return std::exchange(said_, {}); }

 private:
  void add(std::string text) { said_.push_back(std::move(text)); }
  std::vector<std::string> said_;
};

class CoordinatorTest : public ::testing::Test {
 protected:
  static constexpr std::int64_t site_count = 4;

  // Starts the aggregator, or starts it again: whatever was in memory is gone.
  void start() {
    coordinator_.reset();
    queue_ = InlineWorkQueue();
    auto options = testing::counting_options(spec_, site_count);
    options.noise_seeded = noise_seeded_;
    coordinator_ = std::make_unique<Coordinator>(store_, files_, tasks::AggregatorContext{}, clock_, random_,
                                                 transport_, queue_, options);
    ASSERT_TRUE(coordinator_->resume());
    work();
  }
  void submit() {
    start();
    job_ = coordinator_->submit_job("[job]", "job.toml").value();
    work();
  }
  // A job whose sites 1 … `sites` take part.
  void submit_with(int sites) {
    spec_.selection.expected_clients = sites;
    submit();
    for (int i = 1; i <= sites; ++i) join(i);
    work();
  }
  void work() {
    while (queue_.run_next()) {
    }
  }
  static std::string name(int site) { return "site-" + std::to_string(site); }
  void join(int site) {
    coordinator_->client_connected(name(site));
    ASSERT_TRUE(coordinator_->job_reply(name(site), job_, true, "", 100 * site));
    work();
  }
  void leave(int site) { coordinator_->client_disconnected(name(site)); }
  Status accept(int site, std::int64_t round) {
    return coordinator_->round_reply(name(site), job_, round, {true, "", false, false});
  }
  Status decline(int site, std::int64_t round, std::string reason, bool over_budget = false) {
    const Status status =
        coordinator_->round_reply(name(site), job_, round, {false, std::move(reason), over_budget, false});
    work();
    return status;
  }
  Status contribute(int site, std::int64_t round, double weight = 1.0, bool is_private = true) {
    return contribute(site, round, testing::unit_contribution(site - 1, site_count), weight, is_private);
  }
  Status contribute(int site, std::int64_t round, TensorMap tensors, double weight = 1.0, bool is_private = true) {
    const Status status = coordinator_->contribution(name(site), job_, round, weight, is_private, std::move(tensors));
    work();
    return status;
  }
  void pass(std::chrono::seconds time) {
    clock_.advance(time);
    coordinator_->tick();
    work();
  }
  boost::json::object report() const { return boost::json::parse(coordinator_->job_json(job_).value()).as_object(); }
  std::string state() const { return std::string(report().at("state").as_string()); }
  std::string reason() const { return std::string(report().at("reason").as_string()); }
  std::string waiting_for() const { return boost::json::serialize(report().at("waiting")); }
  boost::json::object client(int site) const {
    const boost::json::object document = report();
    for (const auto& entry : document.at("clients").as_array())
      if (entry.at("name").as_string() == name(site)) return entry.as_object();
    return {};
  }
  // How often each site was counted in a committed round.
  std::vector<double> counted(std::int64_t round) {
    const auto rounds = sqlite_->rounds(job_).value();
    std::string last;
    for (const RoundRecord& record : rounds)
      if (record.committed) last = record.state_sha256;
    const TensorMap model = files_.read(last).value();
    const auto counts = model.at("counts").as<double>();
    const auto row = counts.subspan(static_cast<std::size_t>((round - 1) * site_count), site_count);
    return {row.begin(), row.end()};
  }

  tasks::JobSpec spec_ = testing::counting_job(2);
  bool noise_seeded_ = false;
  ManualClock clock_;
  ChaCha20Random random_{RandomKey::from_seed(7)};
  std::unique_ptr<SqliteStore> sqlite_ = SqliteStore::open(":memory:").value();
  testing::HookedStore store_{*sqlite_};
  testing::MemoryStateFiles files_;
  RecordingTransport transport_;
  InlineWorkQueue queue_;
  std::unique_ptr<Coordinator> coordinator_;
  std::string job_;
};

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
