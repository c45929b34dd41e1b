// Statistical tests that try to falsify the claims of a DP-SGD step: its sampling, its noise, and its (epsilon, delta).
// Seeded, so that a result stays what it is; each bound is at least four standard errors away from the truth.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <numbers>
#include <string>

#include "vector_records.h"

namespace trib::privacy {
namespace {

// Before the pool starts: a step of a few numbers gains nothing from threads, and a busy machine makes it wait for
// them.
const int kOneThread = ::setenv("TRIBUTARY_THREADS", "1", 1);

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

TEST(Sampling, ComparesEveryRecordsOwn64BitsWithTheRate) {
  const Charge charge = charge_of("j", 1);
  const RandomKey key = RandomKey::from_seed(15);
  const Subkey subkey(key, "sampling", charge);
  const double rate = 0.3;
  std::vector<std::size_t> expected;
  std::array<std::uint32_t, 16> block;
  for (std::size_t i = 0; i < 1000; ++i) {
    if (i % 8 == 0) chacha20_block(subkey.bytes(), i / 8, 2, block);
    const std::uint64_t bits = std::uint64_t{block[2 * (i % 8) + 1]} << 32 | block[2 * (i % 8)];
    if (bits < 5534023222112865280u) expected.push_back(i);  // floor(0.3·2^64) of the double 0.3
  }
  EXPECT_EQ(PoissonSampler(key, charge).sample(1000, rate), expected);
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

// --- (epsilon, delta) of the whole mechanism ---
//
// After google/differential-privacy's stochastic tester: run the mechanism many times on neighbouring data, and show an
// event that one data set makes likelier than (epsilon, delta) allows. The data are a few records of gradient 0, and
// the same with one more, far over the clip norm: with it the mechanism is as far as it may be from itself without it.
// The events are those at which the promise is tight (likelihood ratio above e^epsilon), so that anything weaker shows,
// in both directions, and one far out, for what should hardly ever happen. A frequency is taken at its Clopper–Pearson
// bound that favours the mechanism, which is wrong once in 5·10^8: with at most 21 comparisons of two bounds each in a
// test, an honest mechanism fails one of the three tests with less than one key in three million.

constexpr double kBoundError = 2e-9;

// log P(X = k) of a binomial.
double log_binomial(int k, int n, double p) {
  return std::lgamma(n + 1.0) - std::lgamma(k + 1.0) - std::lgamma(n - k + 1.0) + k * std::log(p) +
         (n - k) * std::log1p(-p);
}

// The largest probability at which no more than `hits` of n come about with probability kBoundError.
double highest_probability(int hits, int n) {
  if (hits == n) return 1.0;
  double low = static_cast<double>(hits) / n, high = 1.0 - 1e-15;
  for (int i = 0; i < 60; ++i) {
    const double p = (low + high) / 2;
    double sum = 0.0;  // downwards from the largest term, until terms no longer count
    for (int k = hits; k >= 0; --k) {
      const double term = std::exp(log_binomial(k, n, p));
      sum += term;
      if (term < sum * 1e-12 || sum > kBoundError) break;
    }
    (sum > kBoundError ? low : high) = p;
  }
  return high;
}
double lowest_probability(int hits, int n) {
  return 1.0 - highest_probability(n - hits, n);
}

// What is run: the promise that the mechanism makes, and the one that it keeps.
struct Experiment {
  enum class Kind { flat_clipping, automatic_clipping, released_sum };
  Kind kind = Kind::flat_clipping;
  Mechanism claimed, actual;
  double epsilon = 0.0;  // at which the events are chosen
  int trials = 0;
};

constexpr double kFarOver = 1e6;  // the gradient of the record, in clip norms

// The sums that `trials` steps come to, with or without the record, in claimed clip norms; ascending.
std::vector<double> sums(const Experiment& experiment, bool with_the_record) {
  std::vector<VectorRecord> records(3, VectorRecord{{0.0f}});
  if (with_the_record) records.push_back({{static_cast<float>(kFarOver * experiment.actual.clip_norm)}});
  const RecordStore<VectorRecord> store(std::move(records));
  Mechanism mechanism = experiment.actual;
  mechanism.steps = experiment.trials;
  if (experiment.kind == Experiment::Kind::automatic_clipping) mechanism.clipping = Clipping::automatic;
  TestSession test(mechanism, 4, with_the_record ? 21 : 22);
  const auto stream = kernels::cpu_device().make_stream();
  const VectorModel model;
  SummandFunctions<VectorRecord> summands;
  summands.per_record = [per_sample = model.functions(*stream).per_sample](auto part, auto& out) {
    per_sample(part, out);
  };
  std::vector<double> results;
  for (int i = 0; i < experiment.trials; ++i) {
    double sum;
    if (experiment.kind == Experiment::Kind::released_sum) {
      sum = test.session.release_sum<VectorRecord>(*stream, store, {{1}}, summands).value().at(0).as<double>()[0];
    } else {
      sum = step(test.session, store, model).second.at(0) * mechanism.sample_rate * 4.0;
    }
    results.push_back(sum / experiment.claimed.clip_norm);
  }
  std::ranges::sort(results);
  return results;
}

// By how much an event breaks the promise for certain: below 0 where it may be kept. The promise is one sampled
// Gaussian step of sensitivity 1, whose delta(epsilon) is known in closed form in both directions.
double breach(const Experiment& experiment) {
  const std::vector<double> with = sums(experiment, true), without = sums(experiment, false);
  const int n = experiment.trials;
  const double q = experiment.claimed.sample_rate, s = experiment.claimed.noise_multiplier;
  const auto above = [](const std::vector<double>& values, double x) {
    return static_cast<int>(values.end() - std::ranges::upper_bound(values, x));
  };
  double worst = -1.0;
  const auto compare = [&](int likelier, int other, double epsilon, double delta) {
    worst =
        std::max(worst, lowest_probability(likelier, n) - std::exp(epsilon) * highest_probability(other, n) - delta);
  };
  const auto threshold = [&](double log_ratio) { return s * s * std::log((std::exp(log_ratio) - 1.0 + q) / q) + 0.5; };
  const auto delta_with = [&](double epsilon) {
    const double x = threshold(epsilon);
    return (1.0 - q) * normal_cdf(-x / s) + q * normal_cdf((1.0 - x) / s) - std::exp(epsilon) * normal_cdf(-x / s);
  };
  for (const double epsilon : {experiment.epsilon / 2, experiment.epsilon, 1.5 * experiment.epsilon}) {
    const double x = threshold(epsilon);
    compare(above(with, x), above(without, x), epsilon, delta_with(epsilon));
    if (std::exp(-epsilon) <= 1.0 - q) continue;  // in this direction the ratio never gets so large
    const double y = threshold(-epsilon);
    const double delta =
        normal_cdf(y / s) - std::exp(epsilon) * ((1.0 - q) * normal_cdf(y / s) + q * normal_cdf((y - 1.0) / s));
    compare(n - above(without, y), n - above(with, y), epsilon, delta);
  }
  const double far = 1.0 + 8.0 * s;
  compare(above(with, far), above(without, far), 1.0, delta_with(1.0));
  return worst;
}

std::vector<Experiment> experiments(Experiment::Kind kind) {
  const auto make = [&](double q, double s, double epsilon, int trials) {
    if (kind == Experiment::Kind::released_sum) q = 1.0;
    const Mechanism mechanism = gaussian(q, s, 0.5, 1);
    return Experiment{kind, mechanism, mechanism, epsilon, trials};
  };
  // The first two show wrong noise, clip and rate; the last, whose noise is wide, a record that is not clipped.
  std::vector<Experiment> all{make(1.0, 0.5, 0.2, 30000), make(0.8, 3.0, 0.5, 30000)};
  if (kind != Experiment::Kind::released_sum) all.push_back(make(0.5, 0.4, 1.3, 50000));
  return all;
}

class Falsification : public testing::TestWithParam<Experiment::Kind> {};

TEST_P(Falsification, KeepsItsPromise) {
  for (const Experiment& experiment : experiments(GetParam())) {
    EXPECT_LT(breach(experiment), 0.0) << "sample rate " << experiment.claimed.sample_rate << ", noise multiplier "
                                       << experiment.claimed.noise_multiplier;
  }
}

std::string name_of(const testing::TestParamInfo<Experiment::Kind>& info) {
  constexpr const char* names[] = {"flat_clipping", "automatic_clipping", "released_sum"};
  return names[static_cast<int>(info.param)];
}

INSTANTIATE_TEST_SUITE_P(Mechanisms, Falsification,
                         testing::Values(Experiment::Kind::flat_clipping, Experiment::Kind::automatic_clipping,
                                         Experiment::Kind::released_sum),
                         name_of);

// The tests below test the tests: each breaks the promise a little, and the breach must show. The mutants of dp_sgd.cpp
// (CMakeLists.txt) break the mechanism itself.

TEST(FalsificationSees, NoiseThatIsScaledByNineTenths) {
  Experiment mutant = experiments(Experiment::Kind::flat_clipping)[0];
  mutant.actual.noise_multiplier *= 0.9;
  EXPECT_GT(breach(mutant), 0.0);
}

TEST(FalsificationSees, AClipThatIsTooWide) {
  Experiment mutant = experiments(Experiment::Kind::flat_clipping)[0];
  mutant.actual.clip_norm *= 1.2;
  mutant.actual.noise_multiplier /= 1.2;  // the noise itself is what was promised
  EXPECT_GT(breach(mutant), 0.0);
}

TEST(FalsificationSees, SamplingAtAHigherRate) {
  Experiment mutant = experiments(Experiment::Kind::flat_clipping)[2];
  mutant.actual.sample_rate *= 1.2;
  EXPECT_GT(breach(mutant), 0.0);
}

TEST(FalsificationSees, AnEpsilonThatIsUnderstated) {
  Experiment mutant = experiments(Experiment::Kind::released_sum)[0];
  mutant.claimed.noise_multiplier *= 1.1;
  EXPECT_GT(breach(mutant), 0.0);
}

}  // namespace
}  // namespace trib::privacy
