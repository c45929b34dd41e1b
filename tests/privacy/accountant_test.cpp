// The accountant against reference tables (tests/golden/dp): one test a row.
#include "privacy/accountant.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "privacy/plan.h"
#include "tests/privacy/golden_table.h"

namespace trib::privacy {
namespace {

// Mironov, Talwar, Zhang 2019, eq. 8: A(alpha) = Σ C(alpha, k) (1−q)^(alpha−k) q^k exp((k² − k)/(2 sigma²)).
double binomial_divergence(int alpha, double q, double sigma) {
  std::vector<double> terms;
  for (int k = 0; k <= alpha; ++k) {
    const double log_binomial = std::lgamma(alpha + 1) - std::lgamma(k + 1) - std::lgamma(alpha - k + 1);
    terms.push_back(log_binomial + (alpha - k) * std::log1p(-q) + k * std::log(q) +
                    (k * k - k) / (2.0 * sigma * sigma));
  }
  const double peak = *std::max_element(terms.begin(), terms.end());
  double sum = 0.0;
  for (const double term : terms) sum += std::exp(term - peak);
  return (peak + std::log(sum)) / (alpha - 1);
}

double divergence_at(const RdpCurve& curve, double order) {
  const auto found = std::find(rdp_orders().begin(), rdp_orders().end(), order);
  return curve.divergences()[static_cast<std::size_t>(found - rdp_orders().begin())];
}

class Points : public testing::TestWithParam<Row> {};
TEST_P(Points, EpsilonEqualsTheReferenceQuadrature) {
  const Row& row = GetParam();
  RdpCurve curve;
  curve.add(number(row, "q"), number(row, "sigma"), static_cast<std::int64_t>(number(row, "steps")));
  const double expected = number(row, "eps_rdp_quad");
  EXPECT_NEAR(curve.epsilon(number(row, "delta")), expected, 1e-6 * expected);
  EXPECT_GE(curve.epsilon(number(row, "delta")), number(row, "eps_best") * (1.0 - number(row, "eps_tol_rel")));
}
INSTANTIATE_TEST_SUITE_P(Golden, Points, testing::ValuesIn(read_table("points.csv")), RowName());

class Heterogeneous : public testing::TestWithParam<Row> {};
TEST_P(Heterogeneous, EpsilonEqualsTheReferenceQuadratureInAnyOrder) {
  const Row& row = GetParam();
  RdpCurve forward, backward;
  const std::vector<std::string> phases = split(row.at("phases_q:sigma:steps"), '|');
  const auto add = [](RdpCurve& curve, const std::string& phase) {
    const std::vector<std::string> parts = split(phase, ':');
    curve.add(std::stod(parts.at(0)), std::stod(parts.at(1)), std::stoll(parts.at(2)));
  };
  for (auto phase = phases.begin(); phase != phases.end(); ++phase) add(forward, *phase);
  for (auto phase = phases.rbegin(); phase != phases.rend(); ++phase) add(backward, *phase);
  const double delta = number(row, "delta"), expected = number(row, "eps_rdp_quad");
  EXPECT_NEAR(forward.epsilon(delta), expected, 1e-6 * expected);
  EXPECT_NEAR(backward.epsilon(delta), expected, 1e-6 * expected);
  EXPECT_DOUBLE_EQ(forward.best_order(delta), number(row, "rdp_order_quad"));
}
INSTANTIATE_TEST_SUITE_P(Golden, Heterogeneous, testing::ValuesIn(read_table("hetero.csv")), RowName());

class Calibration : public testing::TestWithParam<Row> {};
TEST_P(Calibration, SigmaEqualsTheReferenceAndKeepsTheTarget) {
  const Row& row = GetParam();
  const double epsilon = number(row, "target_eps"), delta = number(row, "delta"), q = number(row, "q");
  const auto steps = static_cast<std::int64_t>(number(row, "steps"));
  const double sigma = calibrate_noise_multiplier(epsilon, delta, q, steps).value();
  if (row.at("id") == "11") {
    // The table's sigma_rdp is 0.14 % too small here: its quadrature lost the tail that decides order 128 (see
    // HighOrdersSeeTheFarTailEvenWhereTheDensityUnderflows). By the exact sum, no integer order gives the target at it,
    // and the orders between are below 11, where the conversion alone costs more than the target.
    for (const double order : rdp_orders()) {
      if (order != std::floor(order)) {
        EXPECT_GT(std::log1p(-1.0 / order) - std::log(delta * order) / (order - 1.0), epsilon) << order;
        continue;
      }
      const double divergence =
          static_cast<double>(steps) * binomial_divergence(static_cast<int>(order), q, number(row, "sigma_rdp"));
      EXPECT_GT(divergence + std::log1p(-1.0 / order) - std::log(delta * order) / (order - 1.0), epsilon) << order;
    }
    EXPECT_NEAR(sigma, 3.47738, 1e-4 * sigma);
  } else {
    EXPECT_NEAR(sigma, number(row, "sigma_rdp"), 1e-4 * sigma);
  }
  EXPECT_LE(RdpCurve().add(q, sigma, steps).epsilon(delta), epsilon);
}
INSTANTIATE_TEST_SUITE_P(Golden, Calibration, testing::ValuesIn(read_table("calibration.csv")), RowName());

class Gaussian : public testing::TestWithParam<Row> {};
TEST_P(Gaussian, EpsilonIsNeverBelowTheExactOne) {
  const Row& row = GetParam();
  const double exact = number(row, "epsilon");
  const double epsilon = RdpCurve().add(1.0, number(row, "sigma"), 1).epsilon(number(row, "delta"));
  EXPECT_GE(epsilon, exact);
  EXPECT_LE(epsilon, 1.25 * exact);
}
INSTANTIATE_TEST_SUITE_P(Golden, Gaussian, testing::ValuesIn(read_table("gaussian.csv")), RowName());

TEST(Accountant, WithoutSamplingTheDivergenceIsTheGaussians) {
  RdpCurve curve;
  curve.add(1.0, 2.0, 3);
  for (std::size_t i = 0; i < rdp_orders().size(); ++i) {
    EXPECT_DOUBLE_EQ(curve.divergences()[i], 3 * rdp_orders()[i] / 8.0);
  }
}

TEST(Accountant, QuadratureApproachesTheGaussianAsTheSampleRateApproachesOne) {
  RdpCurve sampled, plain;
  sampled.add(1.0 - 1e-12, 1.3, 1);
  plain.add(1.0, 1.3, 1);
  for (std::size_t i = 0; i < rdp_orders().size(); ++i) {
    EXPECT_NEAR(sampled.divergences()[i], plain.divergences()[i], 1e-9 * plain.divergences()[i]);
  }
}

TEST(Accountant, IntegerOrdersEqualTheBinomialSum) {
  const double q = 0.03, sigma = 0.9;
  RdpCurve curve;
  curve.add(q, sigma, 1);
  for (const int alpha : {2, 3, 7, 16, 40, 128, 1024}) {
    const double expected = binomial_divergence(alpha, q, sigma);
    EXPECT_NEAR(divergence_at(curve, alpha), expected, 1e-10 * expected) << alpha;
  }
}

TEST(Accountant, HighOrdersSeeTheFarTailEvenWhereTheDensityUnderflows) {
  // The integrand's second mode lies at x = alpha, where the density is about exp(−alpha²/(2 sigma²)): below the
  // smallest double, and yet what decides.
  for (const double sigma : {3.475, 3.4773, 3.48}) {
    RdpCurve curve;
    curve.add(0.005, sigma, 1);
    const double expected = binomial_divergence(128, 0.005, sigma);
    EXPECT_NEAR(divergence_at(curve, 128), expected, 1e-9 * expected) << sigma;
  }
}

TEST(Accountant, EpsilonIsFiniteAndMonotoneInEveryArgumentOverItsRange) {
  const auto epsilon = [](double q, double sigma, std::int64_t steps, double delta) {
    return RdpCurve().add(q, sigma, steps).epsilon(delta);
  };
  for (const double q : {1e-6, 1e-3, 0.1, 0.9, 1.0}) {
    for (const double sigma : {0.04, 0.05, 0.3, 1.0, 100.0}) {
      for (const std::int64_t steps : {std::int64_t{1}, std::int64_t{1000000}}) {
        for (const double delta : {1e-12, 1e-3}) {
          const double here = epsilon(q, sigma, steps, delta);
          ASSERT_TRUE(std::isfinite(here)) << q << ' ' << sigma << ' ' << steps << ' ' << delta;
          const double slack = 1e-9 * (1.0 + here);
          EXPECT_LE(epsilon(q / 2, sigma, steps, delta), here + slack) << q << ' ' << sigma;
          EXPECT_LE(epsilon(q, sigma * 1.1, steps, delta), here + slack) << q << ' ' << sigma;
          EXPECT_LE(here, epsilon(q, sigma, 2 * steps, delta) + slack) << q << ' ' << sigma;
          EXPECT_LE(epsilon(q, sigma, steps, delta * 2), here + slack) << q << ' ' << sigma;
        }
      }
    }
  }
}

TEST(Accountant, WhatCannotBeAccountedForCostsInfinity) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const auto& [q, sigma] : {std::pair{1.5, 1.0}, {-0.1, 1.0}, {nan, 1.0}, {0.1, 0.0}, {0.1, -1.0}, {0.1, nan}}) {
    EXPECT_TRUE(std::isinf(RdpCurve().add(q, sigma, 1).epsilon(1e-5))) << q << ' ' << sigma;
  }
  EXPECT_TRUE(std::isinf(RdpCurve().add(0.1, 1.0, -1).epsilon(1e-5)));
  EXPECT_TRUE(std::isinf(RdpCurve().add(Mechanism{MechanismKind::none, 0.1, 1.0, 1.0, 1}).epsilon(1e-5)));
}

TEST(Accountant, NothingSpentIsEpsilonZero) {
  EXPECT_EQ(RdpCurve().epsilon(1e-5), 0.0);
  EXPECT_EQ(RdpCurve().add(0.0, 1.0, 10).epsilon(1e-5), 0.0);
}

TEST(Accountant, TheFilterOrderDeclinesNoStepOfTheJobItWasFixedFor) {
  for (const double epsilon : {1.5, 3.0, 8.0}) {
    const Mechanism step{MechanismKind::poisson_subsampled_gaussian, 0.02, 1.1, 1.0, 1};
    const double order = filter_order(step, epsilon, 1e-5);
    std::int64_t steps = 1;
    while (RdpCurve().add(step.sample_rate, step.noise_multiplier, 2 * steps).epsilon(1e-5) <= epsilon) steps *= 2;
    while (RdpCurve().add(step.sample_rate, step.noise_multiplier, steps + 1).epsilon(1e-5) <= epsilon) ++steps;
    RdpCurve most;
    most.add(step.sample_rate, step.noise_multiplier, steps);
    EXPECT_LE(most.epsilon_at_order(order, 1e-5), epsilon);
    EXPECT_GE(most.epsilon_at_order(order, 1e-5), most.epsilon(1e-5));
  }
}

TEST(CalibrationRequests, ImpossibleRequestsAreRefusedWithTheReason) {
  EXPECT_EQ(calibrate_noise_multiplier(0.0, 1e-5, 0.1, 10).error().code, Errc::invalid_argument);
  EXPECT_EQ(calibrate_noise_multiplier(1.0, 1.0, 0.1, 10).error().code, Errc::invalid_argument);
  EXPECT_EQ(calibrate_noise_multiplier(1.0, 1e-5, 1.1, 10).error().code, Errc::invalid_argument);
  EXPECT_EQ(calibrate_noise_multiplier(1.0, 1e-5, 0.1, 0).error().code, Errc::invalid_argument);
  EXPECT_EQ(calibrate_noise_multiplier(1e-4, 1e-12, 1.0, 1000000).error().code, Errc::unsupported);
}

TEST(CalibrationRequests, AnEnormousTargetStillGetsSomeNoise) {
  EXPECT_GT(calibrate_noise_multiplier(1e9, 1e-5, 0.1, 10).value(), 0.0);
}

PlanRequest sst2() {
  return {3.0, 7e-6, 67349, 1024, 66, 3};
}

TEST(Plan, SpendsTheTargetOverAllRoundsAndNoMore) {
  const PlanRequest request = sst2();
  const RoundPrivacy plan = plan_privacy(request).value();
  EXPECT_DOUBLE_EQ(plan.sample_rate, 1024.0 / 67349.0);
  const Mechanism round = round_mechanism(plan, 0.5, request.steps_per_round).value();
  EXPECT_LE(epsilon_after_rounds(round, request.max_rounds, request.delta), request.epsilon);
  EXPECT_GT(epsilon_after_rounds(round, request.max_rounds, request.delta), 0.999 * request.epsilon);
  EXPECT_LT(epsilon_after_rounds(round, 1, request.delta), request.epsilon);
}

void expect_refused(const PlanRequest& request, const std::string& what) {
  const auto plan = plan_privacy(request);
  ASSERT_FALSE(plan.ok());
  EXPECT_EQ(plan.error().code, Errc::invalid_argument);
  EXPECT_NE(plan.error().message.find(what), std::string::npos) << plan.error().message;
}

TEST(Plan, RefusesADeltaOfOneOverTheRecordsOrMore) {
  PlanRequest request = sst2();
  request.delta = 1.0 / 67349.0;
  expect_refused(request, "lower delta");
}

TEST(Plan, RefusesABatchLargerThanTheDataSet) {
  PlanRequest request = sst2();
  request.batch_size = 67350;
  expect_refused(request, "batch_size is 67350");
}

TEST(Plan, RefusesValuesThatAreNotPositive) {
  for (auto& [change, what] : std::vector<std::pair<std::function<void(PlanRequest&)>, std::string>>{
           {[](PlanRequest& r) { r.epsilon = -1.0; }, "epsilon is -1"},
           {[](PlanRequest& r) { r.delta = 0.0; }, "delta is 0"},
           {[](PlanRequest& r) { r.declared_records = 0; }, "declared_records is 0"},
           {[](PlanRequest& r) { r.batch_size = 0; }, "batch_size is 0"},
           {[](PlanRequest& r) { r.steps_per_round = 0; }, "steps_per_round is 0"},
           {[](PlanRequest& r) { r.max_rounds = 0; }, "max_rounds is 0"}}) {
    PlanRequest request = sst2();
    change(request);
    expect_refused(request, what);
  }
  EXPECT_EQ(round_mechanism({0.1, 1.0}, 0.0, 1).error().code, Errc::invalid_argument);
  EXPECT_EQ(round_mechanism({0.1, 1.0}, -1.0, 1).error().code, Errc::invalid_argument);
}

}  // namespace
}  // namespace trib::privacy
