// What a session does, and what it refuses.
#include "privacy/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/grid.h"
#include "privacy/accountant.h"
#include "vector_records.h"

namespace trib::privacy {
namespace {

using testing::HasSubstr;

// Private in name: lets the exact answer be seen.
Mechanism quiet(double sample_rate, double clip_norm, Clipping clipping = Clipping::flat) {
  Mechanism mechanism = gaussian(sample_rate, 1e-9, clip_norm, 1);
  mechanism.noise = NoiseKind::float_gaussian;
  mechanism.clipping = clipping;
  return mechanism;
}

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
  functions.per_sample = [](auto, auto&) { throw std::runtime_error("out of memory"); };
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
  TestSession half(quiet(1.0, 10.0), 100);
  const RecordStore<VectorRecord> fifty(equal_records(50, {2.0f}));
  EXPECT_NEAR(step(half.session, fifty, {}).second.at(0), 1.0, 1e-5);  // 50 · 2 / (1.0 · 100)

  TestSession sampled(quiet(0.25, 10.0), 100);
  const RecordStore<VectorRecord> hundred(equal_records(100, {2.0f}));
  const auto [report, gradient] = step(sampled.session, hundred, {});
  EXPECT_NE(report.sample_count, 25);
  EXPECT_NEAR(gradient.at(0), 2.0 * static_cast<double>(report.sample_count) / 25.0, 1e-5);
}

TEST(Step, ClipsTheJointNormOverAllTensorsInBothForms) {
  const VectorModel model{2, 2};
  TestSession test(quiet(1.0, 0.5), 1);
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
    TestSession test(quiet(1.0, 0.5), 1);
    const RecordStore<VectorRecord> records(equal_records(1, {size, 0.0f, size}));
    const std::vector<float> gradient = step(test.session, records, {3}).second;
    EXPECT_LE(std::hypot(gradient[0], gradient[1], gradient[2]), 0.5 + 1e-8) << size;
  }
}

TEST(Step, LeavesSmallGradientsAlone) {
  TestSession test(quiet(1.0, 1.0), 1);
  const RecordStore<VectorRecord> records(equal_records(1, {0.25f, -0.5f}));
  const auto [report, gradient] = step(test.session, records, {2});
  EXPECT_EQ(report.clipped_fraction, 0.0);
  EXPECT_NEAR(gradient.at(0), 0.25, 1e-7);
  EXPECT_NEAR(gradient.at(1), -0.5, 1e-7);
}

TEST(Step, CountsWhatWasClippedOverAllMicroBatchesOfThisStepAlone) {
  Mechanism two_steps = quiet(1.0, 1.0);
  two_steps.steps = 2;
  TestSession test(two_steps, 10);
  std::vector<VectorRecord> mixed(10, VectorRecord{{0.5f}});
  for (const std::size_t large : {0, 4, 5, 9}) mixed[large].gradient[0] = 3.0f;
  const VectorModel by_threes{.micro_batch = 3};
  EXPECT_DOUBLE_EQ(step(test.session, RecordStore(mixed), by_threes).first.clipped_fraction, 0.4);
  EXPECT_EQ(step(test.session, RecordStore(equal_records(10, {0.5f})), by_threes).first.clipped_fraction, 0.0);
}

// Norms of these records are exact, so clip factors have the same bits; what follows is integers.
TEST(Step, IsTheSameOnAGpuBitForBit) {
  const Result<kernels::Device*> gpu = kernels::open_device("cuda");
  if (!gpu) GTEST_SKIP() << gpu.error().message;
  std::vector<VectorRecord> records(500, VectorRecord{{3.0f, -4.0f, 12.0f, 0.0f, 0.0f}});  // of norm 13
  for (std::size_t i = 0; i < records.size(); i += 3) records[i].gradient = {0.0f, 0.25f, 0.0f, 0.5f, -0.25f};
  records[7].gradient[1] = std::numeric_limits<float>::infinity();
  const RecordStore<VectorRecord> store(records);
  const VectorModel model{3, 2, 64};
  const auto run = [&](kernels::Device& device) {
    TestSession test(gaussian(0.5, 0.7, 1.0, 2), 500);
    const auto stream = device.make_stream();
    auto [report, gradient] = step(test.session, store, model, *stream);
    const std::vector<float> second = step(test.session, store, model, *stream).second;
    gradient.insert(gradient.end(), second.begin(), second.end());
    return std::pair(report.clipped_fraction, gradient);
  };
  const auto on_cpu = run(kernels::cpu_device());
  EXPECT_GT(on_cpu.first, 0.5);
  EXPECT_EQ(run(**gpu), on_cpu);
}

TEST(Step, AutomaticClippingScalesEveryRecordToTheClipNorm) {
  for (const float size : {1e-4f, 0.3f, 1e3f}) {
    TestSession test(quiet(1.0, 0.5, Clipping::automatic), 1);
    const RecordStore<VectorRecord> records(equal_records(1, {size, 0.0f, -size}));
    const std::vector<float> gradient = step(test.session, records, {3}).second;
    const double norm = std::sqrt(2.0) * static_cast<double>(size);
    EXPECT_NEAR(gradient[0] / (0.5 * static_cast<double>(size) / (norm + 0.01)), 1.0, 2e-5) << size;
    EXPECT_LE(std::hypot(gradient[0], gradient[2]), 0.5) << size;
  }
}

TEST(Step, ARecordWithoutAFiniteGradientIsLeftOut) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    TestSession again(quiet(1.0, 1.0), 1);
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

TEST(Step, WithoutPrivacyRecordsAreClippedWhereTheMechanismHasAClipNorm) {
  TestSession test({MechanismKind::none, 1.0, 0.0, 5.0, 1}, 10);
  const RecordStore<VectorRecord> records(equal_records(5, {300.0f, -400.0f}));
  const auto [report, gradient] = step(test.session, records, {2});
  EXPECT_NEAR(gradient[0], 0.5 * 3.0, 1e-4);
  EXPECT_NEAR(gradient[1], 0.5 * -4.0, 1e-4);
  EXPECT_EQ(report.clipped_fraction, 1.0);
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

// --- The grid ---

constexpr Clipping kClippings[] = {Clipping::flat, Clipping::automatic};

Mechanism on_grid(double noise_multiplier, double clip_norm, Clipping clipping = Clipping::flat) {
  Mechanism mechanism = gaussian(1.0, noise_multiplier, clip_norm, 1);
  mechanism.clipping = clipping;
  return mechanism;
}

// What a whole step came to in grid points, at q = 1 and one declared record. The noise is small enough for float32 to
// hold its integers.
std::vector<std::int64_t> points(const Mechanism& mechanism, std::vector<VectorRecord> records,
                                 const VectorModel& model) {
  TestSession test(mechanism, 1);
  const double spacing = noise_grid(mechanism, model.vector_size + model.outer_size).spacing;
  const RecordStore<VectorRecord> store(std::move(records));
  std::vector<std::int64_t> result;
  for (const float value : step(test.session, store, model).second) {
    const double at = static_cast<double>(value) / spacing;
    EXPECT_NEAR(at, std::round(at), 0.3) << "a result between two points of the grid, beyond the rounding to float32";
    result.push_back(std::llrint(at));
  }
  return result;
}

TEST(Grid, TheNoiseIsTheChargedMultipleOfTheTrueSensitivity) {
  for (const double noise_multiplier : {1.0 / 64, 0.03, 0.5, 0.999, 1.0, 3.7, 1e4, 16384.0}) {
    for (const double clip_norm : {1e-9, 0.1, 3.0, 1e9}) {
      for (const std::int64_t coordinates : {std::int64_t{1}, std::int64_t{27'000}, std::int64_t{1} << 30}) {
        const NoiseGrid grid = noise_grid(on_grid(noise_multiplier, clip_norm), coordinates);
        const double sensitivity = clip_norm + grid.spacing * std::sqrt(static_cast<double>(coordinates)) / 2;
        const double stddev = std::ldexp(grid.spacing, grid.log2_stddev);
        EXPECT_NEAR(stddev / sensitivity / noise_multiplier, 1.0, 1e-12);
        EXPECT_LE(clip_norm / grid.spacing, 0x1p22);
        EXPECT_GE(clip_norm / grid.spacing, 0x1p21 - std::sqrt(static_cast<double>(coordinates)) / 2);
        EXPECT_GE(grid.log2_stddev, 16);
        EXPECT_LE(grid.log2_stddev, 36);
      }
    }
  }
  EXPECT_LT(noise_grid(on_grid(1.0, 1.0), 27'000).spacing * std::sqrt(27'000) / 2, 1e-4) << "of the clip norm";
}

TEST(Grid, ARecordMovesTheResultByExactlyItsOwnIntegersWhateverElseIsInIt) {
  for (const Clipping clipping : kClippings) {
    const Mechanism mechanism = on_grid(1.0 / 64, 0.7, clipping);
    const VectorModel model{5, 3};
    const double spacing = noise_grid(mechanism, 8).spacing;
    const VectorRecord one{{0.1f, -0.2f, 0.3f, 0.01f, 5.0f, -1.0f, 2.0f, 0.0f}};
    const VectorRecord other{{3.0f, 0.2f, -0.3f, 0.01f, 0.5f, 1.0f, -20.0f, 7.0f}};
    const auto nobody = points(mechanism, {}, model), first = points(mechanism, {one}, model),
               second = points(mechanism, {other}, model), both = points(mechanism, {one, other}, model);
    double squares = 0.0, norm = 0.0;
    for (const float g : other.gradient) norm += static_cast<double>(g) * static_cast<double>(g);
    norm = std::sqrt(norm);
    for (std::size_t i = 0; i < 8; ++i) {
      const std::int64_t added = second[i] - nobody[i];
      EXPECT_EQ(both[i] - first[i], added) << i;
      const double expected = static_cast<double>(other.gradient[i]) * 0.7 * (1.0 - 1e-5) /
                              (clipping == Clipping::flat ? norm : norm + 0.01) / spacing;
      EXPECT_NEAR(static_cast<double>(added), expected, 0.5 + 1e-6 * std::abs(expected)) << i;
      squares += static_cast<double>(added) * static_cast<double>(added);
    }
    EXPECT_LE(std::sqrt(squares) * spacing, 0.7 + spacing * std::sqrt(8.0) / 2);
  }
}

TEST(Grid, TheNoiseIsTheKeystreamOfTheChargeWithoutABlockUsedTwice) {
  const Mechanism mechanism = on_grid(1.0 / 64, 1.0);
  TestSession test(mechanism, 1);
  const Subkey subkey(RandomKey::from_seed(1), "noise", test.session.charge());
  const auto stream = kernels::cpu_device().make_stream();
  // The two tensors of the model begin at multiples of 16 coordinates.
  const kernels::Tensor y = kernels::Tensor::zeros(*stream, DType::i64, {112 + 16});
  kernels::add_discrete_gaussian_noise(*stream, noise_grid(mechanism, 107).log2_stddev, subkey.bytes(), 1, 0, y);
  const HostTensor on_host = y.to_host(*stream);
  const auto noise = on_host.as<std::int64_t>();
  std::vector<std::int64_t> expected(noise.begin(), noise.begin() + 100);
  expected.insert(expected.end(), noise.begin() + 112, noise.begin() + 119);
  EXPECT_EQ(points(mechanism, {}, {100, 7}), expected);
}

TEST(Grid, TakesOnlyNoiseThatItsArgumentCovers) {
  for (const double noise_multiplier : {1.0 / 65, 16385.0}) {
    Charge charge = charge_of("j", 1);
    charge.mechanism.noise_multiplier = noise_multiplier;
    EXPECT_THAT(check_charge(charge).error().message, HasSubstr("from 1/64 to 16384 for the discrete Gaussian"));
    charge.mechanism.noise = NoiseKind::float_gaussian;
    EXPECT_TRUE(check_charge(charge).ok());
  }
  EXPECT_THROW((void)noise_grid(on_grid(1.0, 1.0), (std::int64_t{1} << 40) + 1), std::invalid_argument);
}

// --- A sum over all records ---

SummandFunctions<VectorRecord> summands_of(const VectorModel& model, kernels::Stream& stream) {
  SummandFunctions<VectorRecord> functions;
  functions.micro_batch = model.micro_batch;
  functions.per_record = [per_sample = model.functions(stream).per_sample](auto records, auto& out) {
    per_sample(records, out);
  };
  return functions;
}

Result<std::vector<HostTensor>> release(PrivacySession& session, const RecordStore<VectorRecord>& records,
                                        const VectorModel& model) {
  const auto stream = kernels::cpu_device().make_stream();
  return session.release_sum<VectorRecord>(*stream, records, {{model.vector_size}}, summands_of(model, *stream));
}

TEST(ReleaseSum, IsTheSumOfClippedRecordsAndNoiseOfTheChargedSpread) {
  const std::vector<VectorRecord> records{{{0.5f, 0.25f}}, {{30.0f, 40.0f}}, {{-0.125f, 0.0f}}};
  for (const NoiseKind noise : {NoiseKind::discrete_gaussian, NoiseKind::float_gaussian}) {
    Mechanism mechanism = on_grid(1.0 / 64, 1.0);
    mechanism.noise = noise;
    double squares = 0.0;
    constexpr int kSessions = 200;
    for (int seed = 0; seed < kSessions; ++seed) {
      TestSession test(mechanism, 1000, static_cast<std::uint64_t>(seed));
      const auto sums = release(test.session, RecordStore<VectorRecord>(records), {2, 0, 2}).value();
      ASSERT_EQ(sums.at(0).dtype(), DType::f64);
      const double first = sums[0].as<double>()[0] - (0.5 + 0.6 - 0.125);
      const double second = sums[0].as<double>()[1] - (0.25 + 0.8);
      squares += (first * first + second * second) * 64 * 64;
      EXPECT_LT(std::hypot(first, second), 7.0 / 64);
    }
    EXPECT_NEAR(squares / (2 * kSessions), 1.0, 0.35);  // chi-square of 400 degrees: five deviations
  }
}

TEST(ReleaseSum, MovesByExactlyARecordsIntegers) {
  const Mechanism mechanism = on_grid(1.0, 1.0);
  const double spacing = noise_grid(mechanism, 2).spacing;
  const VectorRecord one{{0.3f, 0.1f}}, other{{-5.0f, 2.0f}};
  const auto of = [&](std::vector<VectorRecord> records) {
    TestSession test(mechanism, 10);
    return release(test.session, RecordStore<VectorRecord>(std::move(records)), {2}).value()[0];
  };
  const HostTensor nobody = of({}), first = of({one}), second = of({other}), both = of({one, other});
  for (std::size_t i = 0; i < 2; ++i) {
    const auto at = [&](const HostTensor& sum) { return std::llrint(sum.as<double>()[i] / spacing); };
    EXPECT_EQ(at(nobody) * spacing, nobody.as<double>()[i]) << "a point of the grid";
    EXPECT_EQ(at(both) - at(first), at(second) - at(nobody));
    EXPECT_NE(at(second), at(nobody));
  }
}

TEST(ReleaseSum, HappensOnceForACharge) {
  TestSession test(on_grid(1.0, 1.0), 10);
  const RecordStore<VectorRecord> records(equal_records(3, {1.0f}));
  EXPECT_TRUE(release(test.session, records, {}).ok());
  EXPECT_EQ(release(test.session, records, {}).error().code, Errc::limit_exceeded);
  EXPECT_TRUE(test.session.contribute(TensorMap(), 1.0).ok()) << "what came out may be sent";
  TestSession contributed(on_grid(1.0, 1.0), 10);
  EXPECT_TRUE(contributed.session.contribute(TensorMap(), 1.0).ok());
  EXPECT_EQ(release(contributed.session, records, {}).error().code, Errc::limit_exceeded);
}

TEST(ReleaseSum, NeedsAChargeForEveryRecord) {
  TestSession test(gaussian(0.5, 1.0, 1.0, 1), 10);
  const auto refused = release(test.session, RecordStore<VectorRecord>(equal_records(3, {1.0f})), {});
  EXPECT_EQ(refused.error().code, Errc::invalid_argument);
  EXPECT_THAT(refused.error().message, HasSubstr("charged with 0.5"));
  EXPECT_EQ(test.session.steps_left(), 1);
}

TEST(ReleaseSum, WithoutPrivacyIsExactBeyondFloats) {
  TestSession test({MechanismKind::none, 1.0, 0.0, 0.0, 1}, 10);
  const RecordStore<VectorRecord> records({VectorRecord{{16777216.0f}}, VectorRecord{{1.0f}}, VectorRecord{{1.0f}}});
  EXPECT_EQ(release(test.session, records, {1, 0, 1}).value()[0].as<double>()[0], 16777218.0);
  TestSession empty({MechanismKind::none, 1.0, 0.0, 0.0, 1}, 10);
  EXPECT_EQ(
      release(empty.session, RecordStore<VectorRecord>(std::vector<VectorRecord>{}), {}).value()[0].as<double>()[0],
      0.0);
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
