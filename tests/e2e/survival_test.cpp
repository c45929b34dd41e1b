// kill -9 of any process at any moment: started again, the job goes on by itself from the last committed round, nothing
// is counted twice and no charge is lost.
#include <gmock/gmock.h>
#include <signal.h>

#include "tests/e2e/federation.h"

namespace trib::e2e {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Pair;

constexpr int site_count = 3;

// One federation for all tests of this file: joining is not what they are about.
class SurvivalTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    federation_ = std::make_unique<Federation>(std::map<std::string, std::string>{{"heartbeat_interval", "1s"}});
    federation_->start_server();
    for (int site = 1; site <= site_count; ++site) {
      federation_->join(site);
      federation_->start_site(site);
    }
  }
  static void TearDownTestSuite() { federation_.reset(); }

  Federation& federation() { return *federation_; }
  void expect_one_charge_a_round(const std::string& job, std::int64_t rounds) {
    for (int site = 1; site <= site_count; ++site) {
      const auto charges = federation().charges(site, job);
      EXPECT_EQ(charges.size(), static_cast<std::size_t>(rounds)) << Federation::name_of(site);
      EXPECT_THAT(charges, Each(Pair(::testing::_, 1))) << Federation::name_of(site);
    }
  }
  static std::unique_ptr<Federation> federation_;
};

std::unique_ptr<Federation> SurvivalTest::federation_;

TEST_F(SurvivalTest, AJobThatNothingHappensToChargesEachRoundOnceAtEachSite) {
  const std::string job = federation().submit({.rounds = 2});
  const auto report = federation().await_end(job);
  EXPECT_THAT(Federation::contributions(report), ElementsAre(3, 3));
  expect_one_charge_a_round(job, 2);
  federation().wait_until("the outboxes to be emptied", [&] {
    return federation().outbox_size(1) + federation().outbox_size(2) + federation().outbox_size(3) == 0;
  });
}

class KilledServerTest : public SurvivalTest, public ::testing::WithParamInterface<const char*> {};

TEST_P(KilledServerTest, GoesOnFromTheLastCommittedRound) {
  federation().kill_server();
  federation().start_server(GetParam());
  const std::string job = federation().submit({.rounds = 2});
  federation().await_death_of_server();
  federation().start_server();
  const auto report = federation().await_end(job);
  EXPECT_THAT(Federation::contributions(report), ElementsAre(3, 3)) << "counted once each, by their outboxes";
  expect_one_charge_a_round(job, 2);
}

std::string name_of_failpoint(const std::string& failpoint) {
  std::string name = failpoint;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; }, '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(AtEachPlace, KilledServerTest,
                         ::testing::Values("round.opened", "server.mid_upload", "server.before_fold",
                                           "server.after_fold:2", "state.after_write:2", "store.before_commit",
                                           "round.before_commit", "round.after_commit"),
                         [](const auto& info) { return name_of_failpoint(info.param); });

struct ClientCrash {
  const char* failpoint;
  bool is_spent;  // the first round is charged and cannot be sent
};

class KilledClientTest : public SurvivalTest, public ::testing::WithParamInterface<ClientCrash> {};

TEST_P(KilledClientTest, ReturnsWithItsChargeAndNeverTrainsTheRoundAgain) {
  const ClientCrash& crash = GetParam();
  federation().kill_site(1);
  federation().start_site(1, crash.failpoint);
  const std::string job = federation().submit({.rounds = 2});
  federation().await_death_of_site(1);
  federation().start_site(1);
  const auto report = federation().await_end(job);
  EXPECT_THAT(Federation::contributions(report), ElementsAre(crash.is_spent ? 2 : 3, 3));
  expect_one_charge_a_round(job, 2);
}

INSTANTIATE_TEST_SUITE_P(
    AtEachPlace, KilledClientTest,
    ::testing::Values(ClientCrash{"ledger.before_write", false}, ClientCrash{"ledger.after_fsync", true},
                      ClientCrash{"session.after_charge", true}, ClientCrash{"client.mid_training:2", true},
                      ClientCrash{"outbox.before_write", true}, ClientCrash{"outbox.after_write", false},
                      ClientCrash{"client.mid_upload", false}),
    [](const auto& info) { return name_of_failpoint(info.param.failpoint); });

TEST_F(SurvivalTest, EverythingKilledAtOnceMidRoundComesBack) {
  // One contribution is durable at its site; what the others were charged for is spent.
  federation().kill_site(1);
  federation().start_site(1, "outbox.after_write");
  const std::string job = federation().submit({.rounds = 3, .local_steps = 8, .minimum_clients = 1});
  federation().await_death_of_site(1);
  federation().kill_server();
  for (int site = 2; site <= site_count; ++site) federation().kill_site(site);
  for (int site = 1; site <= site_count; ++site) federation().start_site(site);
  federation().start_server();
  const auto report = federation().await_end(job);
  EXPECT_EQ(Federation::contributions(report).size(), 3U);
  for (int site = 1; site <= site_count; ++site) {
    for (const auto& [round, count] : federation().charges(site, job)) EXPECT_EQ(count, 1) << "round " << round;
  }
}

TEST_F(SurvivalTest, SigtermLetsTheClientFinishTheRoundThatItHasCharged) {
  const std::string job = federation().submit({.rounds = 1, .local_steps = 60, .minimum_clients = 3});
  federation().wait_until("site-2 to train", [&] { return !federation().charges(2, job).empty(); });
  EXPECT_EQ(federation().stop_site(2), 0) << federation().logs();
  const auto report = federation().await_end(job);
  EXPECT_THAT(Federation::contributions(report), ElementsAre(3));
  federation().start_site(2);
}

TEST_F(SurvivalTest, SigtermOfTheServerLosesNothing) {
  const std::string job = federation().submit({.rounds = 2, .local_steps = 20});
  federation().wait_until("the first charges", [&] { return !federation().charges(1, job).empty(); });
  EXPECT_EQ(federation().stop_server(), 0) << federation().logs();
  federation().start_server();
  const auto report = federation().await_end(job);
  EXPECT_THAT(Federation::contributions(report), ElementsAre(3, 3));
  expect_one_charge_a_round(job, 2);
}

}  // namespace
}  // namespace trib::e2e
