// Noise at the aggregator: what it charges, how it samples, bounds and noises.
#include "privacy/cohort.h"

#include <gtest/gtest.h>

#include <cmath>

#include "common/clock.h"
#include "privacy/accountant.h"

namespace trib::privacy {
namespace {

constexpr std::int64_t size = 512;

Charge charge_of(double multiplier, double rate = 0.1, double clip = 2.0) {
  Charge charge{
      .job = "job", .round = 1, .data_set = "people", .declared_records = 1000, .target_delta = 1e-5, .mechanism = {}};
  charge.mechanism = {.sample_rate = rate, .noise_multiplier = multiplier, .clip_norm = clip, .steps = 1};
  return charge;
}

TensorMap tensors_of(double value) {
  TensorMap tensors;
  tensors["a"] = HostTensor(DType::f32, {size / 2});
  tensors["b"] = HostTensor(DType::f32, {2, size / 4});
  for (auto& [name, tensor] : tensors)
    for (float& x : tensor.as<float>()) x = static_cast<float>(value);
  return tensors;
}

class CohortSumTest : public ::testing::Test {
 protected:
  CohortSumTest() : ledger_(Ledger::in_memory({{"people", 1e5, 1e-5}}, system_clock()).value()) {}
  std::unique_ptr<CohortSum> open(const Charge& charge) {
    return CohortSum::open(*ledger_, charge, RandomKey::from_system(), tensors_of(0).schema(), kernels::cpu_device())
        .value();
  }
  std::unique_ptr<Ledger> ledger_;
};

TEST_F(CohortSumTest, BoundsTheJointNormOfEveryone) {
  // A multiplier so small that the noise does not show: 1/64 of the clip norm over √512 coordinates.
  const auto sum = open(charge_of(1.0 / 64));
  ASSERT_TRUE(sum->add(tensors_of(1000.0)).ok());  // far above the norm of 2
  double squares = 0.0;
  const TensorMap total = sum->release().value();
  for (const auto& [name, tensor] : total)
    for (const double value : tensor.as<double>()) squares += value * value;
  // ‖clipped‖² = 4, and noise of variance (2/64)² on each of 512 coordinates: 0.5.
  EXPECT_NEAR(squares, 4.5, 0.6);
}

TEST_F(CohortSumTest, LeavesAloneWhoIsWithinTheBound) {
  const auto sum = open(charge_of(1.0 / 64));
  for (int i = 0; i < 50; ++i) ASSERT_TRUE(sum->add(tensors_of(0.01)).ok());  // norm 0.01·√512 = 0.23
  EXPECT_EQ(sum->contributions(), 50);
  double mean = 0.0;
  const TensorMap total = sum->release().value();
  for (const auto& [name, tensor] : total)
    for (const double value : tensor.as<double>()) mean += value / size;
  EXPECT_NEAR(mean, 0.5, 5 * (2.0 / 64) / std::sqrt(512.0));
}

TEST_F(CohortSumTest, AddsNoiseOfTheChargedSizeToAnEmptySum) {
  // Nobody came: what is released has mean 0 and standard deviation 3·2. Of 512 draws the standard deviation's own
  // error is 6/√1024 = 0.19.
  const TensorMap total = open(charge_of(3.0))->release().value();
  double sum = 0.0, squares = 0.0;
  for (const auto& [name, tensor] : total) {
    for (const double value : tensor.as<double>()) {
      sum += value;
      squares += value * value;
    }
  }
  EXPECT_NEAR(sum / size, 0.0, 5 * 6.0 / std::sqrt(512.0));
  EXPECT_NEAR(std::sqrt(squares / size), 6.0, 5 * 0.19);
}

TEST_F(CohortSumTest, DividesByTheExpectedCohortAndNotByWhoCame) {
  const auto sum = open(charge_of(1.0));
  EXPECT_DOUBLE_EQ(sum->expected_cohort(), 100.0);
  ASSERT_TRUE(sum->add(tensors_of(0.0)).ok());
  EXPECT_DOUBLE_EQ(sum->expected_cohort(), 100.0);
}

TEST_F(CohortSumTest, IsChargedBeforeItTakesAnythingInAndOnceForARound) {
  EXPECT_EQ(ledger_->epsilon_spent("people", 1e-5), 0.0);
  const Charge charge = charge_of(1.0);
  auto first = open(charge);
  const double spent = ledger_->epsilon_spent("people", 1e-5);
  EXPECT_DOUBLE_EQ(spent, RdpCurve().add(charge.mechanism).epsilon(1e-5));
  first.reset();  // a restart: the round is taken up again under the same charge
  open(charge);
  EXPECT_EQ(ledger_->epsilon_spent("people", 1e-5), spent);
  EXPECT_EQ(ledger_->entries().size(), 1u);
}

TEST_F(CohortSumTest, BeyondTheBudgetIsNotOpened) {
  const auto ledger = Ledger::in_memory({{"people", 0.01, 1e-5}}, system_clock()).value();
  const auto sum =
      CohortSum::open(*ledger, charge_of(0.5), RandomKey::from_system(), tensors_of(0).schema(), kernels::cpu_device());
  ASSERT_FALSE(sum);
  EXPECT_EQ(sum.error().code, Errc::over_budget);
  EXPECT_TRUE(ledger->entries().empty());
}

TEST_F(CohortSumTest, IsReleasedOnce) {
  const auto sum = open(charge_of(1.0));
  ASSERT_TRUE(sum->release().ok());
  EXPECT_EQ(sum->release().error().code, Errc::limit_exceeded);
  EXPECT_EQ(sum->add(tensors_of(0.0)).error().code, Errc::limit_exceeded);
}

TEST_F(CohortSumTest, RefusesAnotherLayoutAndNumbersThatAreNone) {
  const auto sum = open(charge_of(1.0));
  TensorMap other = tensors_of(0.0);
  other.erase("b");
  EXPECT_FALSE(sum->add(other));
  EXPECT_FALSE(sum->add(tensors_of(std::nan(""))));
  EXPECT_EQ(sum->contributions(), 0);
}

TEST(CohortSample, HasEveryoneIndependentlyWithTheRate) {
  ChaCha20Random random(RandomKey::from_seed(4));
  constexpr std::size_t people = 200, rounds = 2000;
  std::vector<int> turns(people);
  double sizes = 0.0, squares = 0.0;
  for (std::size_t round = 0; round < rounds; ++round) {
    const auto chosen = sample_cohort(people, 0.1, random);
    for (const std::size_t i : chosen) ++turns[i];
    sizes += static_cast<double>(chosen.size());
    squares += static_cast<double>(chosen.size() * chosen.size());
  }
  const double mean = sizes / rounds, variance = squares / rounds - mean * mean;
  EXPECT_NEAR(mean, 20.0, 5 * std::sqrt(18.0 / rounds));
  EXPECT_NEAR(variance, 18.0, 5 * 18.0 * std::sqrt(2.0 / rounds)) << "a fixed size would have none";
  for (const int count : turns) EXPECT_NEAR(count, 200, 6 * std::sqrt(180.0));
}

TEST(CohortMechanism, IsCalibratedForAllRoundsOfTheJob) {
  const Mechanism round =
      cohort_mechanism(
          {.epsilon = 4.0, .delta = 1e-5, .population = 6000, .expected_cohort = 300, .rounds = 100, .clip_norm = 1.0})
          .value();
  EXPECT_DOUBLE_EQ(round.sample_rate, 0.05);
  EXPECT_EQ(round.steps, 1);
  Mechanism all = round;
  all.steps = 100;
  const double spent = RdpCurve().add(all).epsilon(1e-5);
  EXPECT_LE(spent, 4.0);
  EXPECT_GT(spent, 3.99);
}

}  // namespace
}  // namespace trib::privacy
