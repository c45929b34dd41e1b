// The comparison that a GPU makes in integers of a fixed width, against the one without a limit on the CPU and against
// arithmetic of 120 digits.
#include "kernels/detail/scaled_exp.h"

#include <gtest/gtest.h>

#include <array>
#include <boost/multiprecision/cpp_bin_float.hpp>
#include <random>

#include "kernels/cpu/discrete_gaussian.h"

namespace trib::kernels::detail {
namespace {

using Wide = boost::multiprecision::number<boost::multiprecision::cpp_bin_float<120>>;
using Digits = std::array<std::uint32_t, ScaledExp::most_words>;

constexpr std::uint32_t kScale = 105'000'000;  // N of discrete_gaussian.h
constexpr std::uint64_t kTail = cpu::DiscreteGaussianTable::cells - 2;

struct Bound {
  int shift = 0;
  std::uint32_t denominator = 1;
  std::uint64_t magnitude = 0;
  int log2_stddev = 5;

  ScaledExp exact() const { return {kScale, shift, denominator, magnitude, log2_stddev}; }
  Wide value() const {
    const Wide y = magnitude, s = boost::multiprecision::pow(Wide(2), log2_stddev);
    return kScale * boost::multiprecision::pow(Wide(2), shift) / denominator * exp(-y * y / (2 * s * s));
  }
  // The first digits in base 2^32.
  Digits digits() const {
    Digits digits;
    Wide rest = value();
    for (std::uint32_t& digit : digits) {
      rest *= 4294967296.0;
      digit = static_cast<std::uint32_t>(floor(rest).convert_to<std::uint64_t>());
      rest -= floor(rest);
    }
    return digits;
  }
};

// The ends of cells and of the tail's runs, at every deviation.
std::vector<Bound> bounds() {
  const auto& table = cpu::discrete_gaussian_table();
  std::vector<Bound> all;
  for (const int k : {5, 6, 21, 36}) {
    const std::uint64_t width = std::uint64_t{1} << (k - 5);
    for (const std::uint64_t cell : {0, 1, 31, 32, 100, 253}) {
      for (const std::uint64_t offset : {std::uint64_t{0}, width / 3, width - 1}) {
        if (cell * width + offset > 0) all.push_back({0, table.weight[cell], cell * width + offset, k});
      }
    }
    for (const std::uint64_t ones : {0, 1, 17, 64, ScaledExp::most_ones}) {
      for (const std::uint64_t offset : {std::uint64_t{0}, 4 * width - 1}) {
        all.push_back({static_cast<int>(ones) + 3, 1, (kTail + 4 * ones) * width + offset, k});
      }
    }
  }
  return all;
}

TEST(ScaledExp, DecidesAtTheFirstDigitThatDiffersFromTheBound) {
  int decided = 0;
  for (const Bound& bound : bounds()) {
    const ScaledExp exact = bound.exact();
    const Digits digits = bound.digits();
    for (int count = 2; count <= ScaledExp::most_words; ++count) {
      EXPECT_EQ(exact.compare(digits.data(), count), Comparison::undecided) << count << " digits of " << bound.value();
    }
    for (std::size_t differing = 0; differing < digits.size(); ++differing) {
      for (const bool above : {false, true}) {
        Digits number = digits;
        if (number[differing] == (above ? 0xffffffff : 0)) continue;
        above ? ++number[differing] : --number[differing];
        const int count = std::max(2, static_cast<int>(differing) + 1);
        EXPECT_EQ(exact.compare(number.data(), count), above ? Comparison::not_below : Comparison::below)
            << "digit " << differing << " of " << bound.value();
        ++decided;
      }
    }
  }
  EXPECT_GT(decided, 500);
}

TEST(ScaledExp, AgreesWithIntegersWithoutALimit) {
  std::mt19937_64 random(1);
  const auto& table = cpu::discrete_gaussian_table();
  int below = 0, all = 0;
  for (int i = 0; i < 4000; ++i) {
    Bound bound;
    bound.log2_stddev = 5 + static_cast<int>(random() % 32);
    const std::uint64_t cell = random() % kTail, width = std::uint64_t{1} << (bound.log2_stddev - 5);
    bound.denominator = table.weight[cell];
    bound.magnitude = cell * width + random() % width;
    // A number anywhere, or one that shares most of the first 64 bits with the bound.
    Digits number = bound.digits();
    if (i % 2 == 0) number[0] = static_cast<std::uint32_t>(random());
    number[1] ^= static_cast<std::uint32_t>(random() >> (32 + random() % 32));
    for (std::size_t w = 2; w < number.size(); ++w) number[w] = static_cast<std::uint32_t>(random());
    std::size_t used = 2;
    const bool expected = cpu::is_below_scaled_exp(
        std::uint64_t{number[0]} << 32 | number[1], [&] { return number.at(used++); }, kScale, 0, bound.denominator,
        bound.magnitude, bound.log2_stddev);
    const Comparison actual = bound.exact().compare(number.data(), ScaledExp::most_words);
    EXPECT_EQ(actual, expected ? Comparison::below : Comparison::not_below) << bound.value();
    below += expected;
    ++all;
  }
  EXPECT_GT(below, all / 4);
  EXPECT_LT(below, all);
}

}  // namespace
}  // namespace trib::kernels::detail
