// Conversions between float32 and the two 16-bit types, against their definition: the nearest representable value,
// found by search among all of them, the even one of two that are equally near.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

#include "common/random.h"
#include "common/tensor_map.h"

namespace trib {
namespace {

// A 16-bit format by its definition: sign, exponent, mantissa.
struct Format {
  int mantissa_bits;
  int bias;
  std::uint16_t infinity;  // magnitudes above it are NaN

  double magnitude(std::uint16_t bits) const {
    const int exponent = bits >> mantissa_bits;
    const int mantissa = bits & ((1 << mantissa_bits) - 1);
    const int leading = exponent == 0 ? 0 : 1 << mantissa_bits;
    return std::ldexp(leading + mantissa, std::max(exponent, 1) - bias - mantissa_bits);
  }

  // Infinity takes the place of the first value that is too large, as IEEE 754 rounds.
  std::uint16_t nearest(float value) const {
    const auto sign = static_cast<std::uint16_t>(std::signbit(value) ? 0x8000 : 0);
    const double target = std::fabs(static_cast<double>(value));
    std::uint16_t low = 0, high = infinity;  // magnitude(low) <= target < magnitude(high)
    if (target >= magnitude(high)) return sign | infinity;
    while (high - low > 1) {
      const auto middle = static_cast<std::uint16_t>((low + high) / 2);
      (magnitude(middle) <= target ? low : high) = middle;
    }
    const double below = target - magnitude(low), above = magnitude(high) - target;
    const bool take_low = below < above || (below == above && low % 2 == 0);
    return sign | (take_low ? low : high);
  }
};

constexpr Format half{10, 15, 0x7c00};
constexpr Format bfloat16{7, 127, 0x7f80};

bool is_nan(const Format& format, std::uint16_t bits) {
  return (bits & 0x7fff) > format.infinity;
}

template <typename ToFloat, typename FromFloat>
void expect_every_value_survives(const Format& format, std::uint16_t quiet_bit, ToFloat to_float,
                                 FromFloat from_float) {
  for (std::uint32_t i = 0; i <= 0xffff; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    const float value = to_float(bits);
    if (is_nan(format, bits)) {
      ASSERT_TRUE(std::isnan(value)) << i;
      ASSERT_EQ(from_float(value), bits | quiet_bit) << i;
      continue;
    }
    const double magnitude =
        (bits & 0x7fff) == format.infinity ? INFINITY : format.magnitude(static_cast<std::uint16_t>(bits & 0x7fff));
    ASSERT_EQ(value, (bits & 0x8000) != 0 ? -magnitude : magnitude) << i;
    ASSERT_EQ(std::signbit(value), (bits & 0x8000) != 0) << i;
    ASSERT_EQ(from_float(value), bits) << i;
  }
}

// The floats at which rounding decides: every value of the format, the midpoint to the next, and their neighbours.
template <typename FromFloat>
void expect_nearest_around_every_value(const Format& format, FromFloat from_float) {
  for (std::uint16_t bits = 0; bits < format.infinity; ++bits) {
    const double value = format.magnitude(bits);
    const double next = format.magnitude(static_cast<std::uint16_t>(bits + 1));
    for (const float centre : {static_cast<float>(value), static_cast<float>((value + next) / 2)}) {
      for (const float x : {std::nextafter(centre, -INFINITY), centre, std::nextafter(centre, INFINITY)}) {
        ASSERT_EQ(from_float(x), format.nearest(x)) << x;
        ASSERT_EQ(from_float(-x), format.nearest(-x)) << -x;
      }
    }
  }
}

template <typename FromFloat>
void expect_nearest_of_random_floats(const Format& format, FromFloat from_float) {
  ChaCha20Random random(RandomKey::from_seed(7));
  for (int i = 0; i < 200'000; ++i) {
    const float x = std::bit_cast<float>(static_cast<std::uint32_t>(random.next()));
    if (!std::isfinite(x)) continue;
    ASSERT_EQ(from_float(x), format.nearest(x)) << x;
  }
}

TEST(Half, EveryValueSurvivesTheTripThroughFloat) {
  expect_every_value_survives(half, 0x0200, half_to_float, float_to_half);
}

TEST(Half, RoundsToNearestEvenAroundEveryValue) {
  expect_nearest_around_every_value(half, float_to_half);
}

TEST(Half, RoundsRandomFloatsToNearest) {
  expect_nearest_of_random_floats(half, float_to_half);
}

TEST(Half, RoundsTheLargestToInfinityFromHalfAStepOn) {
  EXPECT_EQ(float_to_half(65504.0f), 0x7bff);
  EXPECT_EQ(float_to_half(65519.996f), 0x7bff);
  EXPECT_EQ(float_to_half(65520.0f), 0x7c00);
  EXPECT_EQ(float_to_half(-INFINITY), 0xfc00);
}

TEST(Half, RoundsTheSmallestToZeroFromHalfAStepDown) {
  EXPECT_EQ(float_to_half(0x1p-25f), 0x0000);
  EXPECT_EQ(float_to_half(std::nextafter(0x1p-25f, 1.0f)), 0x0001);
  EXPECT_EQ(float_to_half(-0x1p-26f), 0x8000);
}

TEST(Bfloat16, EveryValueSurvivesTheTripThroughFloat) {
  expect_every_value_survives(bfloat16, 0x0040, bfloat16_to_float, float_to_bfloat16);
}

TEST(Bfloat16, RoundsToNearestEvenAroundEveryValue) {
  expect_nearest_around_every_value(bfloat16, float_to_bfloat16);
}

TEST(Bfloat16, RoundsRandomFloatsToNearest) {
  expect_nearest_of_random_floats(bfloat16, float_to_bfloat16);
}

TEST(Bfloat16, KeepsANanWhoseUpperBitsAreClear) {
  const float nan = std::bit_cast<float>(std::uint32_t{0x7f80'0001});
  EXPECT_EQ(float_to_bfloat16(nan), 0x7fc0);
}

}  // namespace
}  // namespace trib
