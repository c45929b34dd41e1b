// Gaussian noise: its distribution, that no instruction set changes it, and that it is the documented function of the
// ChaCha20 keystream.
#include <array>

#include "common/random.h"
#include "kernels/per_sample.h"
#include "tests/kernels/reference.h"

namespace trib::kernels {
namespace {

std::vector<float> noise(std::int64_t count, std::uint64_t seed, std::uint64_t stream_id = 0,
                         std::uint64_t counter = 0) {
  auto stream = cpu_device().make_stream();
  const Tensor y = Tensor::zeros(*stream, DType::f32, {count});
  add_gaussian_noise(*stream, 1.0, RandomKey::from_seed(seed).bytes(), stream_id, counter, y);
  return host(*stream, y);
}

TEST(GaussianNoise, IsBoxMullerOfTheKeystream) {
  const RandomKey key = RandomKey::from_seed(3);
  auto stream = cpu_device().make_stream();
  const Tensor y = Tensor::zeros(*stream, DType::f32, {1000});
  const std::uint64_t first = 0xffffffff0ULL;  // blocks on both sides of a carry into the counter's high word
  EXPECT_EQ(add_gaussian_noise(*stream, 2.5, key.bytes(), 77, first, y), first + 125);
  const auto actual = host(*stream, y);
  for (std::size_t block = 0; block < 125; ++block) {
    std::array<std::uint32_t, 16> words;
    chacha20_block(key.bytes(), first + block, 77, words);
    for (std::size_t pair = 0; pair < 4; ++pair) {
      const std::uint32_t* w = words.data() + 4 * pair;
      auto bits53 = [](std::uint32_t high, std::uint32_t low) { return (high >> 6) * 134217728.0 + (low >> 5); };
      const double u1 = (bits53(w[0], w[1]) + 1) * 0x1p-53, u2 = bits53(w[2], w[3]) * 0x1p-53;
      const double radius = 2.5 * std::sqrt(-2 * std::log(u1));
      EXPECT_NEAR(actual[8 * block + 2 * pair], radius * std::cos(2 * M_PI * u2), 1e-6);
      EXPECT_NEAR(actual[8 * block + 2 * pair + 1], radius * std::sin(2 * M_PI * u2), 1e-6);
    }
  }
}

TEST(GaussianNoise, IsTheSameNumbersOnEveryInstructionSet) {
  std::uint32_t key[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  const auto levels = cpu::simd_levels();
  std::vector<float> first(10'003, 0.0f);
  levels.front().add_gaussian(1.5, key, 9, 5, first.data(), 0, 10'003);
  for (const cpu::SimdKernels& level : levels) {
    std::vector<float> other(first.size(), 0.0f);
    level.add_gaussian(1.5, key, 9, 5, other.data(), 0, 10'003);
    EXPECT_EQ(other, first) << level.name;
  }
}

TEST(GaussianNoise, DoesNotDependOnHowTheWorkIsSplit) {
  std::uint32_t key[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  std::vector<float> whole(4000, 1.0f), parts(4000, 1.0f);
  cpu::simd().add_gaussian(1.0, key, 0, 0, whole.data(), 0, 4000);
  cpu::simd().add_gaussian(1.0, key, 0, 0, parts.data(), 0, 1992);
  cpu::simd().add_gaussian(1.0, key, 0, 0, parts.data(), 1992, 4000);
  EXPECT_EQ(parts, whole);
}

// Σ z² over n coordinates is chi-square with n degrees of freedom: its deviation from n in units of √(2n) is a standard
// normal. Six of those pass once in 5·10⁸; a deviation of the noise 0.5 % too small is caught.
TEST(GaussianNoise, HasTheSpreadOfAChiSquare) {
  constexpr std::int64_t n = 4'000'000;
  double squares = 0, total = 0, fourth = 0;
  for (float z : noise(n, 1)) {
    squares += static_cast<double>(z) * z;
    total += z;
    fourth += std::pow(static_cast<double>(z), 4);
  }
  EXPECT_LT(std::abs(squares - n) / std::sqrt(2.0 * n), 6.0);
  EXPECT_LT(std::abs(total) / std::sqrt(static_cast<double>(n)), 6.0);
  EXPECT_LT(std::abs(fourth - 3.0 * n) / std::sqrt(96.0 * n), 6.0);
}

TEST(GaussianNoise, FillsEveryBinOfTheNormalDistributionEvenly) {
  constexpr std::int64_t n = 2'000'000, bins = 200;
  std::vector<double> counts(bins);
  for (float z : noise(n, 2)) {
    const double uniform = 0.5 * std::erfc(-static_cast<double>(z) / std::sqrt(2.0));
    ++counts[static_cast<std::size_t>(std::min<double>(bins - 1, uniform * bins))];
  }
  double chi_square = 0;
  for (double count : counts)
    chi_square += std::pow(count - static_cast<double>(n) / bins, 2) / (static_cast<double>(n) / bins);
  EXPECT_LT(std::abs(chi_square - (bins - 1)) / std::sqrt(2.0 * (bins - 1)), 6.0);
}

TEST(GaussianNoise, IsUncorrelatedBetweenNeighboursStreamsAndCounters) {
  constexpr std::int64_t n = 1'000'000;
  const auto z = noise(n, 4), other_stream = noise(n, 4, 1), later = noise(n, 4, 0, n / 8);
  double neighbours = 0, streams = 0, counters = 0;
  for (std::size_t i = 0; i + 1 < z.size(); ++i) {
    neighbours += static_cast<double>(z[i]) * z[i + 1];
    streams += static_cast<double>(z[i]) * other_stream[i];
    counters += static_cast<double>(z[i]) * later[i];
  }
  for (double product : {neighbours, streams, counters})
    EXPECT_LT(std::abs(product) / std::sqrt(static_cast<double>(n)), 6.0);
}

TEST(GaussianNoise, OfNoDeviationChangesNothing) {
  auto stream = cpu_device().make_stream();
  const auto before = random_floats(100, 1);
  const Tensor y = Tensor::from_host(*stream, std::span<const float>(before));
  EXPECT_EQ(add_gaussian_noise(*stream, 0.0, RandomKey::from_seed(1).bytes(), 0, 10, y), 10u + 13u);
  EXPECT_EQ(host(*stream, y), before);
  EXPECT_THROW(add_gaussian_noise(*stream, -1.0, RandomKey::from_seed(1).bytes(), 0, 0, y), std::invalid_argument);
}

}  // namespace
}  // namespace trib::kernels
