// What a session does, and what it refuses.
#include "privacy/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "privacy/accountant.h"
#include "vector_records.h"

namespace trib::privacy {
namespace {

using testing::HasSubstr;

constexpr double kTinyNoise = 1e-9;  // private in name: lets the exact answer be seen

std::vector<VectorRecord> equal_records(std::size_t count, std::vector<float> gradient) {
  return std::vector<VectorRecord>(count, VectorRecord{std::move(gradient)});
}

// --- Opening the door ---

class SessionTest : public testing::Test {
 protected:
  Result<PrivacySession> open(const Charge& charge, bool allow_non_private = false) {
    return PrivacySession::open(*ledger_, charge, allow_non_private, RandomKey::from_seed(1), clock_);
  }
  ManualClock clock_;
  std::unique_ptr<Ledger> ledger_ = Ledger::in_memory(budget_of(8.0), clock_).value();
};

TEST_F(SessionTest, OpeningChargesTheWholeRoundBeforeAnythingIsRead) {
  const PrivacySession session = open(charge_of("j", 1)).value();
  EXPECT_EQ(session.steps_left(), 10);
  EXPECT_TRUE(session.is_private());
  EXPECT_EQ(session.charge().job, "j");
  EXPECT_DOUBLE_EQ(ledger_->epsilon_spent("messages", 1e-5), RdpCurve().add(charge_of("j", 1).mechanism).epsilon(1e-5));
}

TEST_F(SessionTest, OverBudgetThereIsNoSessionAndNoCharge) {
  ledger_ = Ledger::in_memory(budget_of(0.1), clock_).value();
  EXPECT_EQ(open(charge_of("j", 1)).error().code, Errc::over_budget);
  EXPECT_TRUE(ledger_->entries().empty());
}

TEST_F(SessionTest, ARoundIsOpenedOnce) {
  EXPECT_TRUE(open(charge_of("j", 1)).ok());
  EXPECT_EQ(open(charge_of("j", 1)).error().code, Errc::already_exists);
}

TEST_F(SessionTest, WithoutPrivacyOnlyWhereTheSiteAllowsIt) {
  const auto refused = open(non_private_charge("j", 1));
  EXPECT_EQ(refused.error().code, Errc::permission_denied);
  EXPECT_TRUE(ledger_->entries().empty());
  const PrivacySession session = open(non_private_charge("j", 1), true).value();
  EXPECT_FALSE(session.is_private());
  EXPECT_TRUE(std::isinf(ledger_->epsilon_spent("messages", 1e-5)));
}

TEST_F(SessionTest, TakesNoMoreStepsThanWereCharged) {
  Charge charge = charge_of("j", 1);
  charge.mechanism.steps = 2;
  PrivacySession session = open(charge).value();
  const RecordStore<VectorRecord> records(equal_records(3, {1.0f}));
  EXPECT_EQ(step(session, records, {}).first.step, 1);
  EXPECT_EQ(step(session, records, {}).first.step, 2);
  EXPECT_EQ(session.steps_left(), 0);
  const auto stream = kernels::cpu_device().make_stream();
  bool updated = false;
  const VectorModel model;
  const auto refused =
      session.dp_sgd_step<VectorRecord>(*stream, records, model.parameters(*stream), model.functions(*stream),
                                        [&](const std::vector<kernels::Tensor>&) { updated = true; });
  EXPECT_EQ(refused.error().code, Errc::limit_exceeded);
  EXPECT_THAT(refused.error().message, HasSubstr("2 were charged"));
  EXPECT_FALSE(updated);
}

TEST_F(SessionTest, AStepThatFailsInTheModelIsSpent) {
  PrivacySession session = open(charge_of("j", 1)).value();
  const RecordStore<VectorRecord> records(equal_records(500, {1.0f}));
  const auto stream = kernels::cpu_device().make_stream();
  const VectorModel model;
  GradientFunctions<VectorRecord> functions = model.functions(*stream);
  functions.per_sample = [](auto, auto&) -> double { throw std::runtime_error("out of memory"); };
  EXPECT_THROW((void)session.dp_sgd_step<VectorRecord>(*stream, records, model.parameters(*stream), functions,
                                                       [](const auto&) {}),
               std::runtime_error);
  EXPECT_EQ(session.steps_left(), 9);
}

TEST_F(SessionTest, GradientsThatAreNotTheParametersAreABug) {
  PrivacySession session = open(charge_of("j", 1)).value();
  const RecordStore<VectorRecord> records(equal_records(500, {1.0f, 1.0f}));
  const auto stream = kernels::cpu_device().make_stream();
  EXPECT_THROW((void)session.dp_sgd_step<VectorRecord>(*stream, records, VectorModel{1}.parameters(*stream),
                                                       VectorModel{2}.functions(*stream), [](const auto&) {}),
               std::invalid_argument);
}

// --- One step ---

TEST(Step, DividesByTheExpectedBatchNotByTheRealizedOne) {
  TestSession half(gaussian(1.0, kTinyNoise, 10.0, 1), 100);
  const RecordStore<VectorRecord> fifty(equal_records(50, {2.0f}));
  EXPECT_NEAR(step(half.session, fifty, {}).second.at(0), 1.0, 1e-5);  // 50 · 2 / (1.0 · 100)

  TestSession sampled(gaussian(0.25, kTinyNoise, 10.0, 1), 100);
  const RecordStore<VectorRecord> hundred(equal_records(100, {2.0f}));
  const auto [report, gradient] = step(sampled.session, hundred, {});
  EXPECT_NE(report.sample_count, 25);
  EXPECT_NEAR(gradient.at(0), 2.0 * static_cast<double>(report.sample_count) / 25.0, 1e-5);
}

TEST(Step, ClipsTheJointNormOverAllTensorsInBothForms) {
  const VectorModel model{2, 2};
  TestSession test(gaussian(1.0, kTinyNoise, 0.5, 1), 1);
  const RecordStore<VectorRecord> records(equal_records(1, {10.0f, -20.0f, 20.0f, 40.0f}));  // of norm 50
  const auto [report, gradient] = step(test.session, records, model);
  EXPECT_EQ(report.clipped_fraction, 1.0);
  const double expected[] = {0.1, -0.2, 0.2, 0.4};
  double squares = 0.0;
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(gradient.at(i), expected[i], 1e-5);
    squares += static_cast<double>(gradient[i]) * gradient[i];
  }
  EXPECT_LE(std::sqrt(squares), 0.5);
}

TEST(Step, OneRecordNeverMovesTheSumByMoreThanTheClipNorm) {
  for (const float size : {1e-3f, 0.3f, 1.0f, 1e3f, 1e18f}) {
    TestSession test(gaussian(1.0, kTinyNoise, 0.5, 1), 1);
    const RecordStore<VectorRecord> records(equal_records(1, {size, 0.0f, size}));
    const std::vector<float> gradient = step(test.session, records, {3}).second;
    EXPECT_LE(std::hypot(gradient[0], gradient[1], gradient[2]), 0.5 + 1e-8) << size;
  }
}

TEST(Step, LeavesSmallGradientsAlone) {
  TestSession test(gaussian(1.0, kTinyNoise, 1.0, 1), 1);
  const RecordStore<VectorRecord> records(equal_records(1, {0.25f, -0.5f}));
  const auto [report, gradient] = step(test.session, records, {2});
  EXPECT_EQ(report.clipped_fraction, 0.0);
  EXPECT_NEAR(gradient.at(0), 0.25, 1e-7);
  EXPECT_NEAR(gradient.at(1), -0.5, 1e-7);
}

TEST(Step, ARecordWithoutAFiniteGradientIsLeftOut) {
  TestSession test(gaussian(1.0, kTinyNoise, 1.0, 1), 1);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    TestSession again(gaussian(1.0, kTinyNoise, 1.0, 1), 1);
    const RecordStore<VectorRecord> records({VectorRecord{{bad}}, VectorRecord{{0.5f}}});
    EXPECT_NEAR(step(again.session, records, {}).second.at(0), 0.5, 1e-6);
  }
}

TEST(Step, AnEmptySampleIsNoisedAndCounted) {
  TestSession test(gaussian(0.01, 2.0, 0.5, 3), 1000);
  const RecordStore<VectorRecord> nobody(std::vector<VectorRecord>{});
  const auto [report, gradient] = step(test.session, nobody, {1000});
  EXPECT_EQ(report.sample_count, 0);
  EXPECT_EQ(report.mean_loss, 0.0);
  EXPECT_EQ(test.session.steps_left(), 2);
  double squares = 0.0;
  for (const float value : gradient) squares += static_cast<double>(value) * value;
  EXPECT_NEAR(std::sqrt(squares / 1000.0), 2.0 * 0.5 / 10.0, 0.01);
}

TEST(Step, MicroBatchesAndTheirOrderDoNotChangeTheMechanism) {
  std::vector<VectorRecord> many;
  for (int i = 0; i < 200; ++i) many.push_back({{static_cast<float>(i), 1.0f}});
  const RecordStore<VectorRecord> records(many);
  std::vector<std::vector<float>> results;
  for (const std::int64_t micro_batch : {1, 7, 1000}) {
    TestSession test(gaussian(0.5, 0.1, 1.0, 1), 200);
    results.push_back(step(test.session, records, {2, 0, micro_batch}).second);
  }
  for (const auto& result : results) {
    EXPECT_NEAR(result[0], results[0][0], 1e-6);
    EXPECT_NEAR(result[1], results[0][1], 1e-6);
  }
}

TEST(Step, ReportsTheLossAndTheSampleToTheSite) {
  TestSession test(gaussian(1.0, 1.0, 1.0, 1), 10);
  const RecordStore<VectorRecord> records(equal_records(10, {0.1f}));
  const StepReport report = step(test.session, records, {}).first;
  EXPECT_EQ(report.sample_count, 10);
  EXPECT_DOUBLE_EQ(report.mean_loss, 1.0);
}

TEST(Step, WithoutPrivacyTheSumIsExactAndDividedByTheExpectedBatch) {
  TestSession test({MechanismKind::none, 1.0, 0.0, 0.0, 1}, 10);
  const RecordStore<VectorRecord> records(equal_records(5, {300.0f, -1.0f}));
  const auto [report, gradient] = step(test.session, records, {2});
  EXPECT_EQ(gradient, (std::vector<float>{150.0f, -0.5f}));
  EXPECT_EQ(report.clipped_fraction, 0.0);
}

TEST(Step, OneKeyInTwoRoundsGivesTwoNoises) {
  ManualClock clock;
  const auto ledger = Ledger::in_memory(budget_of(1e9), clock).value();
  const RandomKey key = RandomKey::from_seed(3);
  const RecordStore<VectorRecord> nobody(std::vector<VectorRecord>{});
  PrivacySession first = PrivacySession::open(*ledger, charge_of("j", 1), false, key, clock).value();
  PrivacySession second = PrivacySession::open(*ledger, charge_of("j", 2), false, key, clock).value();
  EXPECT_NE(step(first, nobody, {4}).second, step(second, nobody, {4}).second);
}

// --- Leaving ---

TensorMap map_of(float value) {
  TensorMap tensors;
  tensors["w"] = HostTensor::from_f32({2}, std::vector<float>{value, -value});
  tensors["d"] = HostTensor::from_f64({1}, std::vector<double>{value});
  return tensors;
}

TEST_F(SessionTest, AContributionIsMultipliedByItsWeight) {
  PrivacySession session = open(charge_of("j", 1)).value();
  const Contribution contribution = session.contribute(map_of(0.5f), 4000.0).value();
  EXPECT_EQ(contribution.weight(), 4000.0);
  EXPECT_TRUE(contribution.is_private());
  EXPECT_EQ(contribution.tensors().at("w").as<float>()[1], -2000.0f);
  EXPECT_EQ(contribution.tensors().at("d").as<double>()[0], 2000.0);
}

TEST_F(SessionTest, AContributionWithoutPrivacySaysSo) {
  PrivacySession session = open(non_private_charge("j", 1), true).value();
  EXPECT_FALSE(session.contribute(map_of(1.0f), 1.0).value().is_private());
}

TEST_F(SessionTest, ContributesOnceAndTakesNoStepAfterwards) {
  PrivacySession session = open(charge_of("j", 1)).value();
  EXPECT_TRUE(session.contribute(map_of(1.0f), 1.0).ok());
  EXPECT_EQ(session.contribute(map_of(1.0f), 1.0).error().code, Errc::limit_exceeded);
  const auto stream = kernels::cpu_device().make_stream();
  const VectorModel model;
  const RecordStore<VectorRecord> records(equal_records(1, {1.0f}));
  EXPECT_EQ(session
                .dp_sgd_step<VectorRecord>(*stream, records, model.parameters(*stream), model.functions(*stream),
                                           [](const auto&) {})
                .error()
                .code,
            Errc::limit_exceeded);
}

TEST_F(SessionTest, RefusesWeightsAndTensorsThatCannotBeSummed) {
  PrivacySession session = open(charge_of("j", 1)).value();
  for (const double weight : {0.0, -1.0, std::numeric_limits<double>::infinity()}) {
    EXPECT_EQ(session.contribute(map_of(1.0f), weight).error().code, Errc::invalid_argument);
  }
  TensorMap half = map_of(1.0f);
  half["h"] = HostTensor(DType::f16, {2});
  EXPECT_THAT(session.contribute(half, 1.0).error().message, HasSubstr("'h' is F16"));
  EXPECT_FALSE(session.contribute(map_of(std::numeric_limits<float>::quiet_NaN()), 1.0).ok());
  EXPECT_TRUE(session.contribute(map_of(1.0f), 1.0).ok()) << "a refusal costs nothing";
}

TEST(Contribution, IsRestoredFromTheOutboxAsItWas) {
  const Contribution contribution = PrivacySession::restore(map_of(2.0f), 7.0, true);
  EXPECT_EQ(contribution.tensors(), map_of(2.0f));
  EXPECT_EQ(contribution.weight(), 7.0);
  EXPECT_TRUE(contribution.is_private());
}

}  // namespace
}  // namespace trib::privacy
