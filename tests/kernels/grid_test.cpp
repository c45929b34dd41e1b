// Sums on an integer grid and the discrete Gaussian: that the sampler is the exact function of the keystream that it
// claims to be, that no instruction set changes it, and that its values have the distribution.
#include "kernels/grid.h"

#include <array>
#include <boost/multiprecision/cpp_bin_float.hpp>
#include <boost/multiprecision/cpp_int.hpp>
#include <map>

#include "common/random.h"
#include "kernels/cpu/discrete_gaussian.h"
#include "tests/kernels/reference.h"

namespace trib::kernels {
namespace {

using Wide = boost::multiprecision::number<boost::multiprecision::cpp_bin_float<120>>;

constexpr std::uint32_t kScale = 105'000'000;  // N of discrete_gaussian.h
constexpr std::uint32_t kTail = cpu::DiscreteGaussianTable::cells - 2;

Wide rho(std::uint64_t magnitude, int log2_stddev) {
  const Wide y = magnitude, s = boost::multiprecision::pow(Wide(2), log2_stddev);
  return exp(-y * y / (2 * s * s));
}

std::vector<std::int64_t> noise(std::int64_t count, int log2_stddev, std::uint64_t seed, std::uint64_t stream_id = 0,
                                std::uint64_t counter = 0) {
  auto stream = cpu_device().make_stream();
  const Tensor y = Tensor::zeros(*stream, DType::i64, {count});
  add_discrete_gaussian_noise(*stream, log2_stddev, RandomKey::from_seed(seed).bytes(), stream_id, counter, y);
  const HostTensor on_host = y.to_host(*stream);
  const auto values = on_host.as<std::int64_t>();
  return {values.begin(), values.end()};
}

// --- The table ---

TEST(DiscreteGaussianTable, GivesEachCellTheSmallestWeightThatIsAboveItsDensity) {
  const auto& table = cpu::discrete_gaussian_table();
  std::uint64_t total = 0;
  for (std::uint32_t cell = 0; cell < kTail; ++cell) {
    const Wide bound = kScale * rho(cell, 5);
    EXPECT_GE(Wide(table.weight[cell]), bound) << cell;
    EXPECT_LE(Wide(table.weight[cell]), bound + 1) << cell;
    EXPECT_NEAR((bound / table.weight[cell]).convert_to<double>(), table.acceptance[cell], 1e-15);
    total += table.weight[cell];
  }
  EXPECT_EQ(table.weight[kTail], 1u);
  EXPECT_EQ(total + 1 + table.weight[kTail + 1], std::uint64_t{1} << 32);
  EXPECT_LT(table.weight[kTail + 1], (std::uint64_t{1} << 32) / 100) << "attempts that are wasted";
}

TEST(DiscreteGaussianTable, ItsAliasesGiveEveryCellExactlyItsWeight) {
  const auto& table = cpu::discrete_gaussian_table();
  constexpr std::uint64_t slot_size = std::uint64_t{1} << 24;
  std::vector<std::uint64_t> given(cpu::DiscreteGaussianTable::cells);
  for (std::uint32_t slot = 0; slot < given.size(); ++slot) {
    ASSERT_LE(table.threshold[slot], slot_size);
    given[slot] += table.threshold[slot];
    given.at(table.alias[slot]) += slot_size - table.threshold[slot];
  }
  for (std::uint32_t cell = 0; cell < given.size(); ++cell) EXPECT_EQ(given[cell], table.weight[cell]) << cell;
}

// --- The sampler ---

// The definition in discrete_gaussian.h in arithmetic of 120 digits, written a second time.
std::int64_t reference_value(int log2_stddev, const RandomKey& key, std::uint64_t stream_id, std::uint64_t first,
                             std::uint64_t index) {
  const auto& table = cpu::discrete_gaussian_table();
  for (std::uint64_t number = 0;; ++number) {
    std::array<std::uint32_t, 16> block;
    const std::uint64_t position = number == 0 ? index % 4 : (number - 1) % 4;
    if (number == 0) {
      chacha20_block(key.bytes(), first + index / 4, stream_id, block);
    } else {
      chacha20_block(key.bytes(), first + index, stream_id + ((number - 1) / 4 + 1) * (std::uint64_t{1} << 32), block);
    }
    const std::uint32_t* w = block.data() + 4 * position;
    const std::uint32_t slot = w[0] / 0x1000000, low = w[0] % 0x1000000;
    const std::uint32_t cell = low < table.threshold[slot] ? slot : table.alias[slot];
    if (cell == kTail + 1) continue;
    if (cell == kTail) throw std::runtime_error("the tail, which comes once in four thousand million");
    const std::uint64_t width = std::uint64_t{1} << (log2_stddev - 5);
    const std::uint64_t magnitude = cell * width + w[1] % width;
    const bool negative = w[1] >= 0x80000000u;
    if (magnitude == 0 && negative) continue;
    const Wide uniform = (Wide(w[2]) + Wide(w[3]) / 4294967296.0) / 4294967296.0;
    if (uniform < kScale * rho(magnitude, log2_stddev) / table.weight[cell]) {
      return negative ? -static_cast<std::int64_t>(magnitude) : static_cast<std::int64_t>(magnitude);
    }
  }
}

TEST(DiscreteGaussian, IsTheDocumentedFunctionOfTheKeystream) {
  const RandomKey key = RandomKey::from_seed(3);
  const std::uint64_t first = 0xfffffff00ULL;  // blocks on both sides of a carry into the counter's high word
  auto stream = cpu_device().make_stream();
  for (const int log2_stddev : {5, 9, 21, 36}) {
    const Tensor y = Tensor::zeros(*stream, DType::i64, {2003});
    EXPECT_EQ(add_discrete_gaussian_noise(*stream, log2_stddev, key.bytes(), 77, first, y), first + 2003);
    const HostTensor actual = y.to_host(*stream);
    for (std::uint64_t i = 0; i < 2003; ++i) {
      ASSERT_EQ(actual.as<std::int64_t>()[i], reference_value(log2_stddev, key, 77, first, i))
          << i << " of 2^" << log2_stddev;
    }
  }
}

TEST(DiscreteGaussian, IsTheSameNumbersOnEveryInstructionSet) {
  constexpr std::int64_t n = 10'003;
  const std::uint32_t key[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  const auto run = [&](const cpu::SimdKernels& level) {
    std::vector<std::int64_t> y(n, 7), pending(n);
    const std::int64_t count =
        level.discrete_gaussian(cpu::discrete_gaussian_table(), 21, key, 9, 5, y.data(), 0, n, pending.data());
    EXPECT_NEAR(static_cast<double>(count) / n, 0.02, 0.01) << "attempts that do not decide";
    pending.resize(static_cast<std::size_t>(count));
    return std::pair(y, pending);
  };
  const auto levels = cpu::simd_levels();
  const auto first = run(levels.front());
  for (const cpu::SimdKernels& level : levels) EXPECT_EQ(run(level), first) << level.name;
}

TEST(DiscreteGaussian, DoesNotDependOnHowTheWorkIsSplit) {
  const std::uint32_t key[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  const auto& table = cpu::discrete_gaussian_table();
  std::vector<std::int64_t> whole(4000), parts(4000), pending(4000);
  const auto pending_of_whole =
      cpu::simd().discrete_gaussian(table, 30, key, 0, 0, whole.data(), 0, 4000, pending.data());
  std::int64_t pending_of_parts = 0;
  for (const auto& [begin, end] : {std::pair<std::int64_t, std::int64_t>{0, 1996}, {1996, 4000}}) {
    pending_of_parts += cpu::simd().discrete_gaussian(table, 30, key, 0, 0, parts.data(), begin, end, pending.data());
  }
  EXPECT_EQ(parts, whole);
  EXPECT_EQ(pending_of_parts, pending_of_whole);
}

// A comparison that 64 bits do not decide comes about never, so it is made to come here: the uniform number shares ever
// more digits with the bound.
TEST(DiscreteGaussian, ComparesWithTheBoundAsExactlyAsItTakes) {
  struct Case {
    std::uint64_t numerator, denominator, magnitude;
    int log2_stddev;
  };
  for (const Case& c : {Case{kScale, 105'000'001, 0, 9},
                        {kScale, 105'000'001, 1, 5},
                        {kScale, 64'000'000, 32, 5},
                        {kScale, 64'000'000, 1u << 21, 21},
                        {kScale, 3, (254ull << 31) / 39 * 40, 36}}) {
    const Wide bound = Wide(c.numerator) / c.denominator * rho(c.magnitude, c.log2_stddev);
    // The digits of the bound in base 2^32.
    std::vector<std::uint32_t> digits;
    Wide rest = bound;
    for (int i = 0; i < 10; ++i) {
      rest *= 4294967296.0;
      digits.push_back(static_cast<std::uint32_t>(floor(rest).convert_to<std::uint64_t>()));
      rest -= floor(rest);
    }
    for (std::size_t differing = 0; differing < digits.size(); ++differing) {
      for (const int by : {-1, 1}) {
        std::vector<std::uint32_t> number = digits;
        number[differing] += static_cast<std::uint32_t>(by);
        if ((by > 0) != (number[differing] > digits[differing])) continue;  // it wrapped
        std::size_t used = 2;
        const auto next_word = [&] { return number.at(used++); };
        EXPECT_EQ(cpu::is_below_scaled_exp(std::uint64_t{number[0]} << 32 | number[1], next_word, c.numerator, 0,
                                           c.denominator, c.magnitude, c.log2_stddev),
                  by < 0)
            << "digit " << differing << " of the bound at " << c.magnitude;
        EXPECT_LE(used, std::max<std::size_t>(2, differing + 2)) << "more bits than it takes";
      }
    }
  }
}

TEST(DiscreteGaussian, HasATailWithoutAnEnd) {
  constexpr int log2_stddev = 12;
  const std::uint32_t slot_of_tail = kTail << 24;
  ASSERT_EQ(cpu::discrete_gaussian_table().threshold[kTail], 1u);
  for (const unsigned ones : {0u, 1u, 5u, 31u, 32u, 40u}) {
    std::vector<std::uint32_t> further;
    for (unsigned left = ones; left >= 32; left -= 32) further.push_back(0xffffffff);
    further.push_back(~(0xffffffffu >> (ones % 32)));
    further.insert(further.end(), {0, 5});
    const std::uint64_t magnitude = ((kTail + 4ull * ones) << (log2_stddev - 5)) + 5;
    const Wide bound =
        kScale * boost::multiprecision::pow(Wide(2), static_cast<int>(ones) + 3) * rho(magnitude, log2_stddev);
    ASSERT_LT(bound, 1) << "an acceptance probability";
    // The uniform number just below the bound and just above it, with 128 bits.
    for (const bool below : {true, false}) {
      const Wide scaled = bound * boost::multiprecision::pow(Wide(2), 128);
      boost::multiprecision::cpp_int bits(floor(scaled));
      bits += below ? -1 : 1;
      if (bits < 0) continue;
      std::vector<std::uint32_t> words(4);
      for (int i = 3; i >= 0; --i, bits >>= 32)
        words[static_cast<std::size_t>(i)] = static_cast<std::uint32_t>(bits & 0xffffffff);
      const std::uint32_t w[4] = {slot_of_tail, 0x80000000u, words[0], words[1]};
      std::vector<std::uint32_t> stream = further;
      stream.insert(stream.end(), {words[2], words[3], 0, 0, 0, 0});
      std::size_t used = 0;
      const auto value = cpu::discrete_gaussian_attempt(log2_stddev, w, [&] { return stream.at(used++); });
      ASSERT_EQ(value.has_value(), below) << ones;
      if (below) {
        EXPECT_EQ(*value, -static_cast<std::int64_t>(magnitude));
      }
    }
  }
}

TEST(DiscreteGaussian, AttemptsThatMustFailDo) {
  const auto never = []() -> std::uint32_t { throw std::runtime_error("no further word is needed"); };
  const std::uint32_t again[4] = {(kTail + 1) << 24, 0, 0, 0};
  ASSERT_GT(cpu::discrete_gaussian_table().threshold[kTail + 1], 0u);
  EXPECT_FALSE(cpu::discrete_gaussian_attempt(9, again, never));
  const std::uint32_t zero[4] = {0, 0, 0, 0}, minus_zero[4] = {0, 0x80000000u, 0, 0};
  EXPECT_EQ(cpu::discrete_gaussian_attempt(9, zero, never), 0);
  EXPECT_FALSE(cpu::discrete_gaussian_attempt(9, minus_zero, never)) << "or zero would come twice as often";
}

TEST(DiscreteGaussian, TakesOnlyDeviationsItWasMadeFor) {
  for (const int log2_stddev : {4, 37}) EXPECT_THROW(noise(1, log2_stddev, 1), std::invalid_argument);
  auto stream = cpu_device().make_stream();
  const Tensor y = Tensor::zeros(*stream, DType::i64, {4});
  EXPECT_THROW(add_discrete_gaussian_noise(*stream, 20, RandomKey::from_seed(1).bytes(), 1ull << 32, 0, y),
               std::invalid_argument)
      << "such a stream belongs to further attempts";
}

// --- Its distribution. A statistic that is six of its deviations off comes once in 5·10^8. ---

// Standard deviations that a chi-square statistic lies from its mean (Wilson and Hilferty).
double chi_square_z(double statistic, double degrees) {
  const double variance = 2.0 / (9.0 * degrees);
  return (std::cbrt(statistic / degrees) - (1.0 - variance)) / std::sqrt(variance);
}

TEST(DiscreteGaussian, HasItsProbabilityAtEveryInteger) {
  for (const int log2_stddev : {5, 7}) {
    constexpr std::int64_t n = 3'000'000;
    Wide total = 1;
    const int most = 12 << log2_stddev;
    std::vector<Wide> density{1};
    for (int y = 1; y <= most; ++y) {
      density.push_back(rho(static_cast<std::uint64_t>(y), log2_stddev));
      total += 2 * density.back();
    }
    std::map<std::int64_t, double> counts;
    for (const std::int64_t y : noise(n, log2_stddev, 10)) ++counts[y];
    double statistic = 0, degrees = -1, rest = n, rest_expected = n;
    for (int y = -most; y <= most; ++y) {
      const double expected = n * (density[static_cast<std::size_t>(std::abs(y))] / total).convert_to<double>();
      if (expected < 20) continue;
      statistic += std::pow(counts[y] - expected, 2) / expected;
      rest -= counts[y];
      rest_expected -= expected;
      ++degrees;
    }
    statistic += std::pow(rest - rest_expected, 2) / rest_expected;
    EXPECT_GT(degrees, 6 << log2_stddev);
    EXPECT_LT(std::abs(chi_square_z(statistic, degrees + 1)), 6.0) << "2^" << log2_stddev;
  }
}

TEST(DiscreteGaussian, OfALargeDeviationIsTheNormalDistribution) {
  constexpr std::int64_t n = 3'000'000, bins = 200;
  constexpr double deviation = 1 << 21;
  std::vector<double> counts(bins);
  double total = 0, squares = 0, fourth = 0;
  for (const std::int64_t y : noise(n, 21, 11)) {
    const double z = static_cast<double>(y) / deviation;
    const double uniform = 0.5 * std::erfc(-z / std::sqrt(2.0));
    ++counts[static_cast<std::size_t>(std::min<double>(bins - 1, uniform * bins))];
    total += z, squares += z * z, fourth += z * z * z * z;
  }
  double statistic = 0;
  for (const double count : counts) statistic += std::pow(count - n / bins, 2) / (n / bins);
  EXPECT_LT(std::abs(chi_square_z(statistic, bins - 1)), 6.0);
  EXPECT_LT(std::abs(total) / std::sqrt(static_cast<double>(n)), 6.0);
  EXPECT_LT(std::abs(squares - n) / std::sqrt(2.0 * n), 6.0);
  EXPECT_LT(std::abs(fourth - 3.0 * n) / std::sqrt(96.0 * n), 6.0);
}

TEST(DiscreteGaussian, FillsItsLowBitsEvenly) {
  constexpr std::int64_t n = 1'000'000;
  std::vector<double> counts(256);
  for (const std::int64_t y : noise(n, 21, 12)) ++counts[static_cast<std::size_t>(y & 255)];
  double statistic = 0;
  for (const double count : counts) statistic += std::pow(count - n / 256.0, 2) / (n / 256.0);
  EXPECT_LT(std::abs(chi_square_z(statistic, 255)), 6.0);
}

TEST(DiscreteGaussian, IsUncorrelatedBetweenNeighboursStreamsAndCounters) {
  constexpr std::int64_t n = 1'000'000;
  const auto z = noise(n, 21, 13), other_stream = noise(n, 21, 13, 1), later = noise(n, 21, 13, 0, n);
  double neighbours = 0, blocks = 0, streams = 0, counters = 0;
  for (std::size_t i = 0; i + 4 < z.size(); ++i) {
    const double value = static_cast<double>(z[i]) * 0x1p-42;
    neighbours += value * static_cast<double>(z[i + 1]);
    blocks += value * static_cast<double>(z[i + 4]);
    streams += value * static_cast<double>(other_stream[i]);
    counters += value * static_cast<double>(later[i]);
  }
  for (const double product : {neighbours, blocks, streams, counters}) {
    EXPECT_LT(std::abs(product) / std::sqrt(static_cast<double>(n)), 6.0);
  }
}

// --- Sums ---

PerSampleGradients gradients_of(Stream& stream, std::int64_t count, const std::vector<float>& values,
                                const std::vector<float>& g, const std::vector<float>& x) {
  PerSampleGradients gradients{.sample_count = count, .tensors = {}};
  PerSampleGradient plain{.name = "b",
                          .shape = {static_cast<std::int64_t>(values.size()) / count},
                          .values = {},
                          .output_grads = {},
                          .inputs = {}};
  plain.values = matrix(stream, count, plain.shape[0], values);
  gradients.tensors.push_back(plain);
  PerSampleGradient outer{.name = "w", .shape = {}, .values = {}, .output_grads = {}, .inputs = {}};
  outer.output_grads = matrix(stream, count, static_cast<std::int64_t>(g.size()) / count, g);
  outer.inputs = matrix(stream, count, static_cast<std::int64_t>(x.size()) / count, x);
  outer.shape = {outer.output_grads.dim(1), outer.inputs.dim(1)};
  gradients.tensors.push_back(outer);
  return gradients;
}

TEST(Grid, EveryRecordIsRoundedByItselfInBothForms) {
  constexpr std::int64_t count = 700, size = 1500, p = 3, q = 37;
  constexpr double spacing = 1.0 / 1000;
  auto stream = cpu_device().make_stream();
  const auto values = random_floats(count * size, 1), g = random_floats(count * p, 2), x = random_floats(count * q, 3);
  auto factors = random_floats(count, 4);
  factors[5] = 0.0f;
  const PerSampleGradients gradients = gradients_of(*stream, count, values, g, x);
  const std::vector<Tensor> sums = {Tensor::zeros(*stream, DType::i64, {size}),
                                    Tensor::zeros(*stream, DType::i64, {p, q})};
  for (int twice = 0; twice < 2; ++twice) {
    add_rounded_sum(*stream, gradients, Tensor::from_host(*stream, std::span<const float>(factors)), spacing, sums);
  }
  std::vector<std::int64_t> expected(size), expected_outer(p * q);
  for (std::int64_t i = 0; i < count; ++i) {
    const float factor = static_cast<float>(static_cast<double>(factors[static_cast<std::size_t>(i)]) / spacing);
    const auto rounded = [](float value) { return 2 * std::llrint(value); };
    for (std::int64_t j = 0; j < size; ++j) {
      expected[static_cast<std::size_t>(j)] += rounded(factor * values[static_cast<std::size_t>(i * size + j)]);
    }
    for (std::int64_t row = 0; row < p; ++row) {
      const float row_factor = factor * g[static_cast<std::size_t>(i * p + row)];
      for (std::int64_t j = 0; j < q; ++j) {
        expected_outer[static_cast<std::size_t>(row * q + j)] +=
            rounded(row_factor * x[static_cast<std::size_t>(i * q + j)]);
      }
    }
  }
  const HostTensor actual = sums[0].to_host(*stream), outer = sums[1].to_host(*stream);
  EXPECT_TRUE(std::ranges::equal(actual.as<std::int64_t>(), expected));
  EXPECT_TRUE(std::ranges::equal(outer.as<std::int64_t>(), expected_outer));
}

TEST(Grid, HoldsTheLargestCoordinatesOfManyRecordsOnEveryInstructionSet) {
  constexpr std::int64_t count = 1000, size = 37;
  std::vector<float> rows(count * size);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = i % size % 2 == 0 ? 0x1p22f : -0x1p22f;
  rows[7] = INFINITY;
  std::vector<float> factors(count, 1.0f);
  factors[0] = 0.0f;  // leaves the infinity out
  for (const cpu::SimdKernels& level : cpu::simd_levels()) {
    std::vector<std::int64_t> sum(size, std::int64_t{1} << 50);
    level.rounded_row_sum(rows.data(), size, factors.data(), count, sum.data(), 0, size);
    for (std::int64_t j = 0; j < size; ++j) {
      const std::int64_t expected = (std::int64_t{1} << 50) + (j % 2 == 0 ? 1 : -1) * 999 * max_grid_coordinate;
      EXPECT_EQ(sum[static_cast<std::size_t>(j)], expected) << level.name << " " << j;
    }
  }
}

TEST(Grid, RoundsAlikeOnEveryInstructionSet) {
  constexpr std::int64_t count = 300, size = 2049;
  const auto rows = random_floats(count * size, 5), factors = random_floats(count, 6, 1e4f);
  const auto levels = cpu::simd_levels();
  const auto run = [&](const cpu::SimdKernels& level) {
    std::vector<std::int64_t> sum(size);
    level.rounded_row_sum(rows.data(), size, factors.data(), count, sum.data(), 0, 1000);
    level.rounded_row_sum(rows.data(), size, factors.data(), count, sum.data(), 1000, size);
    return sum;
  };
  for (const cpu::SimdKernels& level : levels) EXPECT_EQ(run(level), run(levels.front())) << level.name;
}

TEST(Grid, IsScaledToFloatsOfBothKinds) {
  auto stream = cpu_device().make_stream();
  const std::vector<std::int64_t> values = {3, -(std::int64_t{1} << 40), 0};
  const Tensor grid = Tensor::from_host(*stream, std::span<const std::int64_t>(values));
  for (const DType dtype : {DType::f32, DType::f64}) {
    const Tensor y(cpu_device(), dtype, {3});
    scale_grid(*stream, 0.25, grid, y);
    const HostTensor on_host = y.to_host(*stream);
    for (std::size_t i = 0; i < 3; ++i) {
      const double actual = dtype == DType::f32 ? static_cast<double>(on_host.as<float>()[i]) : on_host.as<double>()[i];
      EXPECT_EQ(actual, 0.25 * static_cast<double>(values[i]));
    }
  }
}

}  // namespace
}  // namespace trib::kernels
