// Three ways to one set of weights: sums and one solve, G-ACIL's recursion, and AFL's law.
#include <gtest/gtest.h>

#include <Eigen/Dense>
#include <algorithm>
#include <random>

#include "kernels/ridge.h"
#include "tasks/analytic_cil/recursion.h"

namespace trib::tasks::analytic_cil {
namespace {

using Eigen::MatrixXd;

struct Records {
  std::int64_t d = 0;
  std::vector<float> features;
  std::vector<std::int32_t> labels;

  LabelledFeatures all() const { return {features, labels}; }
  void append(const Records& from, std::size_t i) {
    const auto begin = from.features.begin() + static_cast<std::ptrdiff_t>(i) * d;
    features.insert(features.end(), begin, begin + d);
    labels.push_back(from.labels[i]);
  }
};

Records random_records(std::size_t n, std::int64_t d, int classes, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Records records{d, {}, {}};
  for (std::size_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < d; ++j) records.features.push_back(std::max(0.0f, normal(random)));
    records.labels.push_back(static_cast<std::int32_t>(random() % static_cast<unsigned>(classes)));
  }
  return records;
}

// Parts of random sizes in random order; with many sites most have fewer records than features, and some none.
std::vector<Records> split(const Records& records, std::size_t sites, std::mt19937& random) {
  std::vector<std::size_t> order(records.labels.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), random);
  std::vector<Records> parts(sites, Records{records.d, {}, {}});
  for (const std::size_t i : order) parts[random() % sites].append(records, i);
  return parts;
}

MatrixXd by_class(const std::vector<double>& weights, std::int64_t d) {  // (d, classes)
  return Eigen::Map<const MatrixXd>(weights.data(), d, static_cast<Eigen::Index>(weights.size()) / d);
}

MatrixXd joint(const Records& records, int classes, double gamma) {
  using Long = Eigen::Matrix<long double, Eigen::Dynamic, Eigen::Dynamic>;
  const auto n = static_cast<Eigen::Index>(records.labels.size());
  Long x(n, records.d), y = Long::Zero(n, classes);
  for (Eigen::Index i = 0; i < n; ++i) {
    for (Eigen::Index j = 0; j < records.d; ++j)
      x(i, j) = records.features[static_cast<std::size_t>(i * records.d + j)];
    y(i, records.labels[static_cast<std::size_t>(i)]) = 1;
  }
  const Long c = x.transpose() * x + static_cast<long double>(gamma) * Long::Identity(records.d, records.d);
  return c.ldlt().solve(x.transpose() * y).cast<double>();
}

double difference(const MatrixXd& actual, const MatrixXd& expected) {
  return (actual - expected).norm() / expected.norm();
}

class AnalyticRecursion : public testing::TestWithParam<std::size_t> {};  // the number of parts

TEST_P(AnalyticRecursion, AllWaysGiveTheWeightsOfJointTraining) {
  constexpr int classes = 7;
  std::mt19937 random(11);
  for (const std::int64_t d : {5, 60, 130}) {
    const Records records = random_records(300, d, classes, static_cast<unsigned>(d));
    const double gamma = 0.5;
    const MatrixXd expected = joint(records, classes, gamma);
    const std::vector<Records> parts = split(records, GetParam(), random);

    const auto stream = kernels::cpu_device().make_stream();
    const kernels::RidgeSums sums = kernels::RidgeSums::zeros(*stream, d, classes);
    RecursiveRidge recursive(d, gamma);
    std::vector<AbsoluteShare> shares;
    for (const Records& part : parts) {
      const auto n = static_cast<std::int64_t>(part.labels.size());
      if (n > 0) {
        kernels::add_ridge_sums(
            *stream, kernels::Tensor::from_host(*stream, std::span<const float>(part.features)).reshape({n, d}),
            kernels::Tensor::from_host(*stream, std::span<const std::int32_t>(part.labels)), sums);
        recursive.learn(part.all(), classes);
      }
      shares.push_back(AbsoluteShare::of(part.all(), d, classes, gamma));
    }
    const HostTensor solved =
        kernels::solve_ridge(*stream, sums.gram, sums.class_sums, gamma).value().weights.to_host(*stream);
    EXPECT_LT(difference(by_class({solved.as<double>().begin(), solved.as<double>().end()}, d), expected), 1e-9);
    EXPECT_LT(difference(by_class(recursive.weights(), d), expected), 1e-7);

    // AFL joins in any order, here as a random tree, and takes the gamma of all sites but one off at the end.
    while (shares.size() > 1) {
      std::shuffle(shares.begin(), shares.end(), random);
      const AbsoluteShare last = shares.back();
      shares.pop_back();
      shares.front() = shares.front().joined_with(last);
    }
    const double all_gamma = gamma * static_cast<double>(parts.size());
    EXPECT_LT(difference(by_class(shares.front().weights_without(all_gamma - gamma), d), expected), 1e-7);
    EXPECT_LT(difference(by_class(shares.front().weights_without(0.0), d), joint(records, classes, all_gamma)), 1e-7);
  }
}

INSTANTIATE_TEST_SUITE_P(Parts, AnalyticRecursion, testing::Values(1, 3, 20, 100));

TEST(OneSiteRecursion, NewClassesComeAtAnyTimeAndOldOnesComeBack) {
  constexpr std::int64_t d = 40;
  const Records records = random_records(240, d, 9, 3);
  RecursiveRidge recursive(d, 2.0);
  // Batch k holds what remains of the classes below 3·(k + 1): the exposed ones of earlier batches among them.
  std::vector<bool> taken(240, false);
  for (int batch = 0; batch < 3; ++batch) {
    Records part{d, {}, {}};
    for (std::size_t i = 0; i < 240; ++i)
      if (!taken[i] && records.labels[i] < 3 * (batch + 1) && (batch == 2 || i % 2 == 0)) {
        part.append(records, i);
        taken[i] = true;
      }
    recursive.learn(part.all(), 3 * (batch + 1));
    EXPECT_EQ(recursive.class_count(), 3 * (batch + 1));
  }
  EXPECT_LT(difference(by_class(recursive.weights(), d), joint(records, 9, 2.0)), 1e-9);
}

TEST(OneSiteRecursion, RefusesWhatCannotBe) {
  EXPECT_THROW(RecursiveRidge(3, 0.0), std::invalid_argument);
  RecursiveRidge recursive(3, 1.0);
  const Records records = random_records(4, 3, 2, 1);
  recursive.learn(records.all(), 2);
  EXPECT_THROW(recursive.learn(records.all(), 1), std::invalid_argument);
  Records wrong = records;
  wrong.labels[0] = 5;
  EXPECT_THROW(recursive.learn(wrong.all(), 2), std::invalid_argument);
}

}  // namespace
}  // namespace trib::tasks::analytic_cil
