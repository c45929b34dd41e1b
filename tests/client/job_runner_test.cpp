#include "client/job_runner.h"

#include <gmock/gmock.h>

#include <atomic>
#include <limits>
#include <new>

#include "kernels/device.h"
#include "privacy/accountant.h"
#include "tests/client/site_fixture.h"
#include "tests/kernels/forwarding_device.h"

namespace trib::client {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class JobRunnerTest : public SiteFixture {};

TEST_F(JobRunnerTest, AcceptsAJobThatTheSiteAllows) {
  const auto job = runner();
  ASSERT_TRUE(job);
  EXPECT_EQ(job->declared_records(), declared_records);
  EXPECT_EQ(job->epsilon_spent(), 0.0);
  EXPECT_EQ(job->epsilon_budget(), 8.0);
  EXPECT_EQ(charges(), 0);
}

TEST_F(JobRunnerTest, GivesTheTaskTheSitesOwnFileAndDeclaredSize) {
  runner();
  EXPECT_EQ(behaviour_->context.data_file, directory_ / "data.tsv");
  EXPECT_EQ(behaviour_->context.declared_records, declared_records);
}

TEST_F(JobRunnerTest, RefusesAnUnknownTask) {
  OfferedJob job = offer();
  job.spec.task = "unknown";
  EXPECT_THAT(refusal_of(std::move(job)).reason, HasSubstr("there is no task 'unknown'"));
}

TEST_F(JobRunnerTest, RefusesAnIdThatCannotBeAFileName) {
  EXPECT_THAT(refusal_of(offer("../../etc/passwd")).reason, HasSubstr("cannot be the id of a job"));
}

TEST_F(JobRunnerTest, RefusesAnUnknownDataSetAndKeepsTheNamesOfTheOthers) {
  OfferedJob job = offer();
  job.spec.data_set = "letters";
  const Refusal refusal = refusal_of(std::move(job));
  EXPECT_THAT(refusal.reason, HasSubstr("no data set 'letters'"));
  EXPECT_THAT(refusal.reason, Not(HasSubstr("'default'")));
  EXPECT_THAT(refusal.detail, HasSubstr("it has 'default'"));
}

TEST_F(JobRunnerTest, TellsTheAggregatorThatTheBaseModelIsMissing) {
  behaviour_->make_error = Error{Errc::not_found, "base model ab12 was not found"};
  EXPECT_THAT(refusal_of().reason, HasSubstr("base model ab12 was not found"));
}

TEST_F(JobRunnerTest, KeepsTheLineAndValueOfABadRecordAtTheSite) {
  behaviour_->make_error =
      Error{Errc::invalid_argument, "data.tsv:17: label 'secret diagnosis' is not one of the job's"};
  const Refusal refusal = refusal_of();
  EXPECT_THAT(refusal.reason, Not(HasSubstr("diagnosis")));
  EXPECT_THAT(refusal.reason, HasSubstr("data set 'default'"));
  EXPECT_THAT(refusal.detail, HasSubstr("data.tsv:17: label 'secret diagnosis'"));
}

TEST_F(JobRunnerTest, RefusesAJobThatIsNotPrivateUnlessTheSiteAllowsIt) {
  behaviour_->is_private = false;
  EXPECT_THAT(refusal_of().reason, HasSubstr("dataset.default.allow_non_private"));
  site_.data_sets["default"].allow_non_private = true;
  const auto job = runner();
  const RoundOutcome outcome = job->run_round(1, tensors_of(1), progress_);
  ASSERT_TRUE(outcome.contribution);
  EXPECT_FALSE(outcome.contribution->is_private);
  EXPECT_EQ(job->epsilon_spent(), std::numeric_limits<double>::infinity());
}

TEST_F(JobRunnerTest, RefusesADeltaThatIsNotBelowOneOverTheRecords) {
  behaviour_->target_delta = 1.0 / declared_records;
  EXPECT_THAT(refusal_of().reason, HasSubstr("not below 1/records = 0.0002"));
}

TEST_F(JobRunnerTest, RefusesAPrivateJobWithoutABudget) {
  site_.data_sets["default"].budget.reset();
  open_stores();
  const Refusal refusal = refusal_of();
  EXPECT_TRUE(refusal.over_budget);
  EXPECT_THAT(refusal.reason, HasSubstr("dataset.default.budget"));
}

TEST_F(JobRunnerTest, RefusesAJobOfWhichNotOneRoundFitsTheBudget) {
  behaviour_->noise_multiplier = 0.05;
  const Refusal refusal = refusal_of();
  EXPECT_TRUE(refusal.over_budget);
  EXPECT_THAT(refusal.reason, HasSubstr("the site's cap is 8"));
  EXPECT_EQ(charges(), 0);
}

TEST_F(JobRunnerTest, TakesConstantsOnlyWithTheOffersDigest) {
  OfferedJob job = offer();
  job.constants_schema = tensors_of(0).schema();
  job.constants_digest = tensors_of(7).digest();
  const auto accepted = runner(std::move(job));
  EXPECT_TRUE(accepted->needs_constants());
  EXPECT_EQ(accepted->run_round(1, tensors_of(1), progress_).refusal.reason,
            "the constants of the job have not arrived");
  EXPECT_EQ(charges(), 0);

  EXPECT_EQ(accepted->set_constants(tensors_of(8)).error().code, Errc::protocol_error);
  EXPECT_TRUE(accepted->needs_constants());
  EXPECT_TRUE(accepted->set_constants(tensors_of(7)));
  EXPECT_FALSE(accepted->needs_constants());
  EXPECT_TRUE(accepted->run_round(1, tensors_of(1), progress_).contribution);
}

TEST_F(JobRunnerTest, ChargesBeforeItTrains) {
  const auto job = runner();
  bool was_charged = false;
  behaviour_->at_step = [&](std::int64_t) { was_charged = ledger_->charged("job-1", 3, "default"); };
  ASSERT_TRUE(job->run_round(3, tensors_of(1), progress_).contribution);
  EXPECT_TRUE(was_charged);
  EXPECT_EQ(charges(), 1);
  EXPECT_EQ(ledger_->entries()[0].charge.mechanism.steps, behaviour_->steps);
}

// A GPU that has fallen off its bus: every later use of it fails.
class LostDevice final : public kernels::ForwardingDevice {
 public:
  LostDevice() : ForwardingDevice("cuda:0") {}
  Status check() override {
    if (!is_lost) return {};
    return Error{Errc::unavailable, "cuda:0 cannot be used any more: the device was lost"};
  }
  std::atomic<bool> is_lost{true};
};

// What a step throws when its GPU goes away.
void lose_device_at_step_two(std::int64_t step) {
  if (step == 2) throw FatalError(Error{Errc::unavailable, "CUDA: a product: unspecified launch failure"});
}

TEST_F(JobRunnerTest, ADeviceThatIsLostCostsTheRoundItIsLostInAndNoFurtherOne) {
  const auto job = runner();
  behaviour_->at_step = lose_device_at_step_two;
  const RoundOutcome lost = job->run_round(1, tensors_of(1), progress_);
  EXPECT_FALSE(lost.contribution);
  EXPECT_FALSE(lost.refusal.final);
  // A device's own words hold nothing of records: the aggregator learns them too.
  EXPECT_THAT(lost.refusal.reason, HasSubstr("unspecified launch failure"));
  EXPECT_THAT(lost.refusal.reason, HasSubstr("its charge stays"));
  EXPECT_EQ(charges(), 1);

  LostDevice device;
  site_.devices = {&device};
  const auto next = runner();
  const RoundOutcome refused = next->run_round(2, tensors_of(1), progress_);
  EXPECT_FALSE(refused.contribution);
  EXPECT_THAT(refused.refusal.reason, HasSubstr("the device was lost"));
  EXPECT_THAT(refused.refusal.detail, HasSubstr("compute.retry_on_cpu"));
  EXPECT_EQ(behaviour_->trained, 1);
  EXPECT_EQ(charges(), 1);
}

TEST_F(JobRunnerTest, ARoundWhoseDeviceFailsIsTrainedAgainOnTheCpuUnderASecondChargeWhereTheSiteSaysSo) {
  LostDevice device;
  device.is_lost = false;
  site_.devices = {&device};
  site_.retry_on_cpu = true;
  OfferedJob offered = offer();
  offered.constants_schema = tensors_of(0).schema();
  offered.constants_digest = tensors_of(7).digest();
  const auto job = runner(std::move(offered));
  ASSERT_TRUE(job->set_constants(tensors_of(7)));
  EXPECT_EQ(behaviour_->context.devices, std::vector<kernels::Device*>{&device});
  behaviour_->at_step = [&](std::int64_t step) {
    device.is_lost = true;
    if (behaviour_->made == 1) lose_device_at_step_two(step);
  };
  const RoundOutcome outcome = job->run_round(3, tensors_of(1), progress_);
  ASSERT_TRUE(outcome.contribution) << outcome.refusal.detail;
  EXPECT_EQ(behaviour_->context.devices, std::vector<kernels::Device*>{&kernels::cpu_device()});
  EXPECT_EQ(behaviour_->constants, tensors_of(7));
  EXPECT_EQ(behaviour_->trained, 2);
  ASSERT_EQ(charges(), 2);
  EXPECT_EQ(ledger_->entries()[0].charge.job, "job-1");
  EXPECT_EQ(ledger_->entries()[1].charge.job, "job-1:cpu-retry");
  EXPECT_EQ(ledger_->entries()[1].charge.round, 3);
  EXPECT_EQ(ledger_->entries()[1].charge.mechanism.steps, behaviour_->steps);

  // Later rounds begin on the CPU and are charged once.
  ASSERT_TRUE(job->run_round(4, tensors_of(1), progress_).contribution);
  EXPECT_EQ(behaviour_->made, 2);
  EXPECT_EQ(charges(), 3);
}

TEST_F(JobRunnerTest, ADeviceThatIsLostBetweenRoundsCostsNothingWhereTheSiteGoesOnOnItsCpu) {
  LostDevice device;
  device.is_lost = false;
  site_.devices = {&device};
  site_.retry_on_cpu = true;
  const auto job = runner();
  device.is_lost = true;
  ASSERT_TRUE(job->run_round(1, tensors_of(1), progress_).contribution);
  EXPECT_EQ(behaviour_->context.devices, std::vector<kernels::Device*>{&kernels::cpu_device()});
  EXPECT_EQ(charges(), 1);
}

TEST_F(JobRunnerTest, ARoundIsNotTrainedAgainOnTheCpuWithoutTheBudgetForASecondCharge) {
  LostDevice device;
  site_.devices = {&device};
  site_.retry_on_cpu = true;
  device.is_lost = false;
  behaviour_->noise_multiplier = 0.6;
  behaviour_->at_step = lose_device_at_step_two;
  // A cap that one round fits and two do not.
  const double once =
      privacy::RdpCurve()
          .add(privacy::Mechanism{.sample_rate = 0.01, .noise_multiplier = 0.6, .clip_norm = 1.0, .steps = 4})
          .epsilon(1e-5);
  site_.data_sets["default"].budget->epsilon = 1.02 * once;
  open_stores();
  const RoundOutcome outcome = runner()->run_round(1, tensors_of(1), progress_);
  EXPECT_FALSE(outcome.contribution);
  EXPECT_THAT(outcome.refusal.reason, HasSubstr("unspecified launch failure"));
  EXPECT_THAT(outcome.refusal.detail, HasSubstr("a second charge is needed"));
  EXPECT_EQ(behaviour_->trained, 1);
  EXPECT_EQ(charges(), 1);
}

TEST_F(JobRunnerTest, OnlyAFailureOfTheDeviceIsTrainedAgain) {
  LostDevice device;
  device.is_lost = false;
  site_.devices = {&device};
  site_.retry_on_cpu = true;
  behaviour_->train_error = Error{Errc::invalid_argument, "step 2 of 4: the loss is nan"};
  const RoundOutcome outcome = runner()->run_round(1, tensors_of(1), progress_);
  EXPECT_FALSE(outcome.contribution);
  EXPECT_THAT(outcome.refusal.reason, Not(HasSubstr("nan")));  // it is computed from records
  EXPECT_THAT(outcome.refusal.detail, HasSubstr("the loss is nan"));
  EXPECT_EQ(behaviour_->trained, 1);
  EXPECT_EQ(charges(), 1);
}

TEST_F(JobRunnerTest, ADeviceWithoutMemoryForOneRecordIsOneThatFails) {
  LostDevice device;
  device.is_lost = false;
  site_.devices = {&device};
  site_.retry_on_cpu = true;
  behaviour_->at_step = [&](std::int64_t) {
    if (behaviour_->made == 1) throw std::bad_alloc();
  };
  EXPECT_TRUE(runner()->run_round(1, tensors_of(1), progress_).contribution);
  EXPECT_EQ(charges(), 2);
}

TEST_F(JobRunnerTest, ReturnsWhatItMadeWithTheWeightApplied) {
  const auto outcome = runner()->run_round(2, tensors_of(0.5F), progress_);
  ASSERT_TRUE(outcome.contribution);
  EXPECT_FALSE(outcome.resent);
  EXPECT_EQ(outcome.contribution->weight, 1000.0);
  EXPECT_TRUE(outcome.contribution->is_private);
  EXPECT_EQ(outcome.contribution->tensors, tensors_of(2500.0F));
}

TEST_F(JobRunnerTest, ResendsByteForByteInsteadOfTrainingAgain) {
  const auto first = runner()->run_round(1, tensors_of(1), progress_);
  open_stores();
  const auto again = runner()->run_round(1, tensors_of(99), progress_);
  ASSERT_TRUE(again.contribution);
  EXPECT_TRUE(again.resent);
  EXPECT_EQ(again.contribution->tensors.digest(), first.contribution->tensors.digest());
  EXPECT_EQ(again.contribution->weight, first.contribution->weight);
  EXPECT_EQ(again.contribution->is_private, first.contribution->is_private);
  EXPECT_EQ(behaviour_->trained, 1);
  EXPECT_EQ(charges(), 1);
}

TEST_F(JobRunnerTest, TellsTheTaskInWhichRoundTheSiteWasLastCounted) {
  const auto job = runner();
  ASSERT_TRUE(job->run_round(5, tensors_of(1), progress_, 3).contribution);
  EXPECT_EQ(behaviour_->last_counted, 3);
  // No round counts what it has not yet asked for.
  const RoundOutcome outcome = job->run_round(6, tensors_of(1), progress_, 6);
  EXPECT_THAT(outcome.refusal.reason, HasSubstr("round 6 cannot begin after round 6 was counted"));
  EXPECT_EQ(charges(), 1);
}

TEST_F(JobRunnerTest, DeclinesARoundThatIsChargedAndNotInTheOutbox) {
  const auto job = runner();
  ASSERT_TRUE(job->run_round(1, tensors_of(1), progress_).contribution);
  ASSERT_TRUE(job->round_closed(1));
  ASSERT_TRUE(job->check_round(1).has_value());
  const RoundOutcome outcome = job->run_round(1, tensors_of(1), progress_);
  EXPECT_FALSE(outcome.contribution);
  EXPECT_THAT(outcome.refusal.reason, HasSubstr("round 1 is spent"));
  EXPECT_FALSE(outcome.refusal.final);
  EXPECT_EQ(behaviour_->trained, 1);
  EXPECT_EQ(charges(), 1);
}

TEST_F(JobRunnerTest, DeclinesForGoodOnceTheCapIsReached) {
  behaviour_->noise_multiplier = 0.6;
  const auto job = runner();
  std::int64_t round = 1;
  while (round < 1000 && job->run_round(round, tensors_of(1), progress_).contribution) ++round;
  ASSERT_GT(round, 1);
  ASSERT_LT(round, 1000);
  const RoundOutcome outcome = job->run_round(round, tensors_of(1), progress_);
  EXPECT_TRUE(outcome.refusal.over_budget);
  EXPECT_TRUE(outcome.refusal.final);
  EXPECT_EQ(charges(), round - 1);
  EXPECT_EQ(behaviour_->trained, round - 1);
  EXPECT_LE(job->epsilon_spent(), 8.0);
}

// Evaluation on the site's own data.
class SiteEvaluationTest : public JobRunnerTest {
 protected:
  static OfferedJob evaluating_offer() {
    OfferedJob job = offer();
    job.spec.rounds = 10;
    job.spec.evaluate_every = 5;
    job.spec.site_evaluation.enabled = true;
    TensorMap contribution = tensors_of(0);
    contribution[tasks::evaluation_tensor] = HostTensor(DType::f64, {3});
    job.contribution_schema = contribution.schema();
    return job;
  }
  std::vector<double> counts_of_round(JobRunner& job, std::int64_t round) {
    const RoundOutcome outcome = job.run_round(round, tensors_of(1), progress_);
    EXPECT_TRUE(outcome.contribution) << outcome.refusal.detail;
    const auto counts = outcome.contribution->tensors.at(tasks::evaluation_tensor).as<double>();
    return {counts.begin(), counts.end()};
  }
  const std::vector<double> zeros_{0.0, 0.0, 0.0};
};

TEST_F(SiteEvaluationTest, HappensOnlyWhereTheSitesOwnConfigurationSharesIt) {
  const auto job = runner(evaluating_offer());
  EXPECT_EQ(counts_of_round(*job, 5), zeros_);
  EXPECT_EQ(behaviour_->evaluated, 0);
  EXPECT_EQ(charges(), 1);
}

TEST_F(SiteEvaluationTest, IsChargedByItselfAndSentWithTheRoundsThatAreEvaluated) {
  site_.data_sets["default"].share_evaluation = true;
  const auto job = runner(evaluating_offer());
  EXPECT_EQ(counts_of_round(*job, 4), zeros_);
  EXPECT_EQ(charges(), 1);
  EXPECT_EQ(counts_of_round(*job, 5), (std::vector<double>{50.0, 40.0, 5.0})) << "whatever the round's weight";
  EXPECT_EQ(charges(), 3);
  EXPECT_TRUE(ledger_->charged("job-1:evaluation", 5, "default"));
  EXPECT_EQ(counts_of_round(*job, 10), (std::vector<double>{50.0, 40.0, 5.0})) << "the last round";
  EXPECT_EQ(behaviour_->evaluated, 2);
}

TEST_F(SiteEvaluationTest, IsLeftOutRatherThanSpendWhatLaterRoundsNeed) {
  site_.data_sets["default"].share_evaluation = true;
  behaviour_->evaluation_noise_multiplier = 0.7;  // epsilon 7 or so, which alone is below the cap
  behaviour_->noise_multiplier = 0.6;
  behaviour_->steps = 40;
  const auto job = runner(evaluating_offer());
  for (std::int64_t round = 1; round <= 10; ++round) EXPECT_EQ(counts_of_round(*job, round), zeros_) << round;
  EXPECT_EQ(behaviour_->evaluated, 0);
  EXPECT_EQ(charges(), 10);
}

TEST_F(SiteEvaluationTest, IsLeftOutWhereTheDeviceFailsInIt) {
  site_.data_sets["default"].share_evaluation = true;
  behaviour_->at_evaluation = [] { throw FatalError(Error{Errc::unavailable, "CUDA: the device was lost"}); };
  const auto job = runner(evaluating_offer());
  EXPECT_EQ(counts_of_round(*job, 5), zeros_);
  EXPECT_EQ(charges(), 2);
}

TEST_F(JobRunnerTest, ADeviceWithoutMemoryForTheModelTakesNoPart) {
  behaviour_->at_making = [] { throw std::bad_alloc(); };
  EXPECT_THAT(refusal_of().reason, HasSubstr("no memory"));
  behaviour_->at_making = [] { throw FatalError(Error{Errc::unavailable, "CUDA: memory: the device was lost"}); };
  EXPECT_THAT(refusal_of().reason, HasSubstr("the device was lost"));
  EXPECT_EQ(charges(), 0);
}

TEST_F(JobRunnerTest, HandsOverAFinishedContributionThoughTheBudgetIsUsedUp) {
  behaviour_->noise_multiplier = 0.6;
  std::int64_t round = 1;
  {
    const auto job = runner();
    while (round < 1000 && job->run_round(round, tensors_of(1), progress_).contribution) ++round;
  }
  open_stores();
  const auto restarted = runner();
  ASSERT_TRUE(restarted);
  EXPECT_TRUE(restarted->run_round(round - 1, tensors_of(1), progress_).resent);
  ASSERT_TRUE(restarted->job_ended());
  EXPECT_TRUE(refusal_of().over_budget);
}

TEST_F(JobRunnerTest, KeepsTheChargeOfATrainingThatFailedAndItsErrorAtTheSite) {
  behaviour_->train_error = Error{Errc::invalid_argument, "record 12 has no loss"};
  const auto job = runner();
  const RoundOutcome outcome = job->run_round(1, tensors_of(1), progress_);
  EXPECT_FALSE(outcome.contribution);
  EXPECT_THAT(outcome.refusal.reason, Not(HasSubstr("record 12")));
  EXPECT_THAT(outcome.refusal.detail, HasSubstr("record 12 has no loss"));
  EXPECT_EQ(charges(), 1);
  behaviour_->train_error.reset();
  EXPECT_THAT(job->run_round(1, tensors_of(1), progress_).refusal.reason, HasSubstr("is spent"));
}

TEST_F(JobRunnerTest, StopsAtAStepWhenCancelledAndTheRoundIsSpent) {
  behaviour_->at_step = [&](std::int64_t step) { progress_.is_cancelled = step == 2; };
  const auto job = runner();
  const RoundOutcome outcome = job->run_round(1, tensors_of(1), progress_);
  EXPECT_FALSE(outcome.contribution);
  EXPECT_THAT(outcome.refusal.reason, HasSubstr("stopped at the site"));
  EXPECT_FALSE(job->is_made(1));
  EXPECT_EQ(charges(), 1);
}

TEST_F(JobRunnerTest, DeclinesWithoutAChargeWhenTheOutboxHasNoRoom) {
  outbox_ = std::move(Outbox::open(directory_ / "outbox", 100)).value();
  site_.outbox = outbox_.get();
  const auto job = runner();
  const auto refusal = job->check_round(1);
  ASSERT_TRUE(refusal.has_value());
  EXPECT_THAT(refusal->reason, HasSubstr("limits.outbox_bytes"));
  EXPECT_FALSE(job->run_round(1, tensors_of(1), progress_).contribution);
  EXPECT_EQ(charges(), 0);
}

TEST_F(JobRunnerTest, DeclinesAndKeepsTheChargeWhenTheContributionCannotBeKept) {
  const auto job = runner();
  behaviour_->at_step = [&](std::int64_t step) {
    if (step == 1) std::filesystem::remove_all(directory_ / "outbox");
  };
  const RoundOutcome outcome = job->run_round(1, tensors_of(1), progress_);
  EXPECT_FALSE(outcome.contribution);
  EXPECT_THAT(outcome.refusal.reason, HasSubstr("could not be kept"));
  EXPECT_EQ(charges(), 1);
}

TEST_F(JobRunnerTest, DeclinesWithoutAChargeABroadcastOfAnotherLayout) {
  TensorMap other;
  other["weight"] = HostTensor::from_f32({3, 2}, std::vector<float>(6, 0));
  const auto job = runner();
  EXPECT_THAT(job->run_round(1, other, progress_).refusal.reason, HasSubstr("[3, 2]"));
  EXPECT_EQ(charges(), 0);
}

TEST_F(JobRunnerTest, DeclinesARoundThatTheJobDoesNotHave) {
  const auto job = runner();
  EXPECT_FALSE(job->run_round(0, tensors_of(1), progress_).contribution);
  EXPECT_FALSE(job->run_round(1001, tensors_of(1), progress_).contribution);
  EXPECT_EQ(charges(), 0);
}

TEST_F(JobRunnerTest, ForgetsTheContributionsOfAJobThatEnded) {
  const auto job = runner();
  ASSERT_TRUE(job->run_round(1, tensors_of(1), progress_).contribution);
  ASSERT_TRUE(job->run_round(2, tensors_of(1), progress_).contribution);
  ASSERT_TRUE(job->job_ended());
  EXPECT_TRUE(outbox_->list().empty());
}

TEST_F(JobRunnerTest, DeclinesAContributionInTheOutboxThatWasAltered) {
  const auto job = runner();
  ASSERT_TRUE(job->run_round(1, tensors_of(1), progress_).contribution);
  const auto path = directory_ / "outbox" / "job-1.round-1.safetensors";
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-2, std::ios::end);
  file.put('\x11');
  file.close();
  const RoundOutcome outcome = job->run_round(1, tensors_of(1), progress_);
  EXPECT_FALSE(outcome.contribution);
  EXPECT_THAT(outcome.refusal.detail, HasSubstr("digest differs"));
  EXPECT_EQ(behaviour_->trained, 1);
}

TEST_F(JobRunnerTest, WithoutAnOutboxNothingIsKeptAndARepeatedRoundIsSpent) {
  site_.outbox = nullptr;
  const auto job = runner();
  EXPECT_TRUE(job->run_round(1, tensors_of(1), progress_).contribution);
  EXPECT_THAT(job->run_round(1, tensors_of(1), progress_).refusal.reason, HasSubstr("is spent"));
}

// A process killed at each place in a round: what a restart finds, and what it then does.
struct Crash {
  const char* failpoint;
  std::int64_t charges;  // in the ledger afterwards
  bool is_made;          // the contribution is in the outbox
  bool is_trained_anew;  // the restarted site trains the round
};

class KilledRoundTest : public SiteFixture, public ::testing::WithParamInterface<Crash> {};

TEST_P(KilledRoundTest, IsNeverTrainedTwiceOnOneChargeAndNeverLosesACharge) {
  const Crash& crash = GetParam();
  const int status = in_killed_child(crash.failpoint, [&] { runner()->run_round(1, tensors_of(1), progress_); });
  ASSERT_TRUE(WIFSIGNALED(status)) << crash.failpoint << " was not reached";
  ASSERT_EQ(WTERMSIG(status), SIGKILL);

  EXPECT_EQ(charges(), crash.charges);
  const auto job = runner();
  EXPECT_EQ(job->is_made(1), crash.is_made);
  const RoundOutcome outcome = job->run_round(1, tensors_of(1), progress_);
  EXPECT_EQ(outcome.contribution.has_value(), crash.is_made || crash.is_trained_anew);
  EXPECT_EQ(outcome.resent, crash.is_made);
  EXPECT_EQ(behaviour_->trained, crash.is_trained_anew ? 1 : 0);
  EXPECT_EQ(charges(), 1);
}

INSTANTIATE_TEST_SUITE_P(
    AtEveryFailpoint, KilledRoundTest,
    ::testing::Values(Crash{"ledger.before_write", 0, false, true}, Crash{"ledger.after_write", 1, false, false},
                      Crash{"ledger.after_fsync", 1, false, false}, Crash{"session.after_charge", 1, false, false},
                      Crash{"client.mid_training:2", 1, false, false}, Crash{"outbox.before_write", 1, false, false},
                      Crash{"outbox.after_write", 1, true, false}),
    [](const auto& info) {
      std::string name = info.param.failpoint;
      for (char& c : name) {
        if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
      }
      return name;
    });

}  // namespace
}  // namespace trib::client
