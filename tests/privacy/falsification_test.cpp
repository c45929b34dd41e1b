// Statistical tests that try to falsify the claims of a DP-SGD step: its sampling, its noise, and its (epsilon, delta).
// Seeded, so that a result stays what it is; each bound is at least four standard errors away from the truth.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "vector_records.h"

namespace trib::privacy {
namespace {

double normal_cdf(double x) {
  return 0.5 * std::erfc(-x / std::numbers::sqrt2);
}

// How many standard deviations a chi-square statistic lies from its mean (Wilson and Hilferty).
double chi_square_z(double statistic, double degrees) {
  const double variance = 2.0 / (9.0 * degrees);
  return (std::cbrt(statistic / degrees) - (1.0 - variance)) / std::sqrt(variance);
}

// --- Sampling ---

TEST(Sampling, EveryRecordJoinsAtTheDeclaredRate) {
  constexpr std::size_t kRecords = 2000;
  constexpr int kDraws = 500;
  for (const double rate : {0.02, 0.3, 0.9}) {
    PoissonSampler sampler(RandomKey::from_seed(11), charge_of("j", 1));
    std::vector<int> joined(kRecords);
    for (int draw = 0; draw < kDraws; ++draw) {
      for (const std::size_t index : sampler.sample(kRecords, rate)) ++joined.at(index);
    }
    double statistic = 0.0;
    for (const int count : joined) statistic += std::pow(count - kDraws * rate, 2) / (kDraws * rate * (1.0 - rate));
    EXPECT_LT(std::abs(chi_square_z(statistic, kRecords)), 4.0) << rate;
  }
}

TEST(Sampling, TheSizeOfASampleIsBinomial) {
  constexpr std::size_t kRecords = 1000;
  constexpr int kDraws = 4000;
  const double rate = 0.05, variance = kRecords * rate * (1.0 - rate);
  PoissonSampler sampler(RandomKey::from_seed(12), charge_of("j", 1));
  double sum = 0.0, squares = 0.0;
  for (int draw = 0; draw < kDraws; ++draw) {
    const double deviation = static_cast<double>(sampler.sample(kRecords, rate).size()) - kRecords * rate;
    sum += deviation;
    squares += deviation * deviation;
  }
  EXPECT_LT(std::abs(sum) / std::sqrt(kDraws * variance), 4.0);
  EXPECT_LT(std::abs(chi_square_z(squares / variance, kDraws)), 4.0) << "a batch of fixed size would have no spread";
}

TEST(Sampling, RecordsAndStepsAreIndependent) {
  constexpr std::size_t kRecords = 20000;
  PoissonSampler sampler(RandomKey::from_seed(13), charge_of("j", 1));
  const auto draw = [&] {
    std::vector<int> member(kRecords);
    for (const std::size_t index : sampler.sample(kRecords, 0.5)) member[index] = 1;
    return member;
  };
  const std::vector<int> first = draw(), second = draw();
  double neighbours = 0.0, steps = 0.0;
  for (std::size_t i = 0; i + 1 < kRecords; ++i) {
    neighbours += (first[i] - 0.5) * (first[i + 1] - 0.5);
    steps += (first[i] - 0.5) * (second[i] - 0.5);
  }
  const double deviation = 0.25 * std::sqrt(static_cast<double>(kRecords));
  EXPECT_LT(std::abs(neighbours) / deviation, 4.0);
  EXPECT_LT(std::abs(steps) / deviation, 4.0);
}

TEST(Sampling, AtRateOneEveryRecordJoins) {
  PoissonSampler sampler(RandomKey::from_seed(14), charge_of("j", 1));
  EXPECT_EQ(sampler.sample(1000, 1.0).size(), 1000u);
}

TEST(Sampling, DiffersBetweenKeysAndRounds) {
  const auto draw = [](std::uint64_t seed, std::int64_t round) {
    return PoissonSampler(RandomKey::from_seed(seed), charge_of("j", round)).sample(200, 0.5);
  };
  EXPECT_EQ(draw(1, 1), draw(1, 1));
  EXPECT_NE(draw(1, 1), draw(2, 1));
  EXPECT_NE(draw(1, 1), draw(1, 2));
}

// --- Noise ---

// What a whole step adds to a gradient of zero, in units of noise_multiplier·clip_norm/expected batch.
std::vector<double> noise_of_a_step(TestSession& test, const VectorModel& model) {
  const Mechanism& mechanism = test.session.charge().mechanism;
  const double unit = mechanism.noise_multiplier * mechanism.clip_norm /
                      (mechanism.sample_rate * static_cast<double>(test.session.charge().declared_records));
  const std::size_t size = static_cast<std::size_t>(model.vector_size + model.outer_size);
  const RecordStore<VectorRecord> records(std::vector<VectorRecord>(20, VectorRecord{std::vector<float>(size, 0.0f)}));
  std::vector<double> noise;
  for (const float value : step(test.session, records, model).second) noise.push_back(value / unit);
  return noise;
}

TEST(Noise, HasTheSpreadThatWasCharged) {
  for (const auto& [noise_multiplier, clip_norm] : {std::pair{1.0, 1.0}, {0.6, 4.0}, {20.0, 0.05}}) {
    TestSession test(gaussian(0.5, noise_multiplier, clip_norm, 1), 40);
    const std::vector<double> noise = noise_of_a_step(test, {30000, 10000});
    double sum = 0.0, squares = 0.0;
    for (const double z : noise) sum += z, squares += z * z;
    const double size = static_cast<double>(noise.size());
    EXPECT_LT(std::abs(sum) / std::sqrt(size), 4.0);
    EXPECT_LT(std::abs(chi_square_z(squares, size)), 4.0) << noise_multiplier;
  }
}

TEST(Noise, HasTheShapeOfAGaussian) {
  TestSession test(gaussian(0.5, 1.3, 0.7, 1), 40);
  const std::vector<double> noise = noise_of_a_step(test, {100000, 0});
  constexpr int kBins = 50;  // equally likely
  std::vector<double> count(kBins);
  for (const double z : noise) ++count.at(std::min(kBins - 1, static_cast<int>(kBins * normal_cdf(z))));
  const double expected = static_cast<double>(noise.size()) / kBins;
  double statistic = 0.0;
  for (const double n : count) statistic += (n - expected) * (n - expected) / expected;
  EXPECT_LT(chi_square_z(statistic, kBins - 1), 4.0);
}

TEST(Noise, IsFreshInEveryStepAndEveryTensor) {
  TestSession test(gaussian(0.5, 1.0, 1.0, 2), 40);
  const VectorModel model{10000, 10000};
  const std::vector<double> first = noise_of_a_step(test, model), second = noise_of_a_step(test, model);
  double steps = 0.0, tensors = 0.0, neighbours = 0.0;
  for (std::size_t i = 0; i < 10000; ++i) {
    steps += first[i] * second[i];
    tensors += first[i] * first[10000 + i];
    neighbours += first[i] * first[i + 1];
  }
  EXPECT_LT(std::abs(steps) / 100.0, 4.0);
  EXPECT_LT(std::abs(tensors) / 100.0, 4.0);
  EXPECT_LT(std::abs(neighbours) / 100.0, 4.0);
}

// --- (epsilon, delta) of the whole step ---

// By how many standard errors a step breaks the (epsilon, delta) that `claimed` promises, where the step really runs
// `actual`. Runs many steps on neighbouring data: a few records with gradient 0, and the same with one more record far
// over the clip norm. `claimed` is a tight promise: at the event "the sum exceeds x" with the x below, honest steps
// reach delta(epsilon) exactly, so any weaker protection shows.
double standard_errors_over_the_promise(const Mechanism& claimed, const Mechanism& actual, double epsilon) {
  constexpr int kTrials = 60000;
  // delta(epsilon) of one sampled Gaussian step, sensitivity 1: (1−q)Φ(−x/s) + qΦ((1−x)/s) − e^epsilon Φ(−x/s).
  const double q = claimed.sample_rate, s = claimed.noise_multiplier;
  const double x = s * s * std::log((std::exp(epsilon) - 1.0 + q) / q) + 0.5;
  const double delta =
      (1.0 - q) * normal_cdf(-x / s) + q * normal_cdf((1.0 - x) / s) - std::exp(epsilon) * normal_cdf(-x / s);

  const auto frequency = [&](bool with_the_record, std::uint64_t seed) {
    std::vector<VectorRecord> records(3, VectorRecord{{0.0f}});
    if (with_the_record) records.push_back({{1000.0f}});
    const RecordStore<VectorRecord> store(std::move(records));
    Mechanism mechanism = actual;
    mechanism.steps = kTrials;
    TestSession test(mechanism, 4, seed);
    const double expected_batch = actual.sample_rate * 4.0;
    int hits = 0;
    for (int i = 0; i < kTrials; ++i) {
      const double sum = step(test.session, store, {}).second.at(0) * expected_batch;
      hits += sum > x * claimed.clip_norm ? 1 : 0;
    }
    return static_cast<double>(hits) / kTrials;
  };
  const double with = frequency(true, 21), without = frequency(false, 22);
  const double standard_error =
      std::sqrt((with * (1.0 - with) + std::exp(2.0 * epsilon) * without * (1.0 - without)) / kTrials);
  return (with - std::exp(epsilon) * without - delta) / standard_error;
}

struct Promise {
  double sample_rate, noise_multiplier, epsilon;
};

class Falsification : public testing::TestWithParam<Promise> {
 protected:
  Mechanism claimed() const { return gaussian(GetParam().sample_rate, GetParam().noise_multiplier, 0.5, 1); }
};

TEST_P(Falsification, AnHonestStepKeepsItsPromise) {
  EXPECT_LT(standard_errors_over_the_promise(claimed(), claimed(), GetParam().epsilon), 4.0);
}

// The three below test the test: each breaks the step a little, and the breach must show.

TEST_P(Falsification, ShowsNoiseThatIsScaledByNineTenths) {
  Mechanism mutant = claimed();
  mutant.noise_multiplier *= 0.9;
  EXPECT_GT(standard_errors_over_the_promise(claimed(), mutant, GetParam().epsilon), 4.0);
}

TEST_P(Falsification, ShowsAClipThatIsTooWide) {
  Mechanism mutant = claimed();
  mutant.clip_norm *= 1.2;
  mutant.noise_multiplier /= 1.2;  // the noise itself is what was promised
  EXPECT_GT(standard_errors_over_the_promise(claimed(), mutant, GetParam().epsilon), 4.0);
}

TEST_P(Falsification, ShowsSamplingAtAHigherRate) {
  Mechanism mutant = claimed();
  mutant.sample_rate = std::min(1.0, mutant.sample_rate * 1.15);
  if (mutant.sample_rate == claimed().sample_rate) GTEST_SKIP() << "every record takes part already";
  EXPECT_GT(standard_errors_over_the_promise(claimed(), mutant, GetParam().epsilon), 4.0);
}

INSTANTIATE_TEST_SUITE_P(Steps, Falsification,
                         testing::Values(Promise{1.0, 1.0, 1.0}, Promise{0.5, 0.8, 0.7}, Promise{0.8, 1.5, 0.3}));

}  // namespace
}  // namespace trib::privacy
