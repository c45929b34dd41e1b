// The 8-bit floats e4m3 of FP8 products (Micikevicius et al., "FP8 formats for deep learning", 2022): a sign, four bits
// of exponent with bias 7, three of mantissa; no infinities, and one NaN of each sign. On a GPU the hardware's own
// conversions do the same.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace trib::kernels::detail {

inline constexpr float e4m3_largest = 448.0f;

inline float e4m3_to_float(std::uint8_t code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  const float sign = code & 0x80 ? -1.0f : 1.0f;
  if (exponent == 15 && mantissa == 7) return std::copysign(NAN, sign);
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -9);
  return sign * std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
}

// Rounded to nearest, ties to even; beyond ±448 (infinities too) to ±448.
inline std::uint8_t float_to_e4m3(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint8_t>(bits >> 24 & 0x80);
  std::uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7f;
  if (magnitude < std::bit_cast<std::uint32_t>(0x1p-6f)) {
    // Subnormal: a multiple of 2^−9, which is the last place of a float at 2^14, so that the addition rounds.
    const float shifted = std::bit_cast<float>(magnitude) + 0x1p14f;
    return static_cast<std::uint8_t>(sign |
                                     (std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(0x1p14f)));
  }
  magnitude += 0x7ffff + (magnitude >> 20 & 1);
  const std::uint32_t code = (magnitude >> 20) - (std::uint32_t{127 - 7} << 3);
  return static_cast<std::uint8_t>(sign | std::min<std::uint32_t>(code, 0x7e));
}

// What multiplies a row of largest magnitude `peak` before it is rounded, and what multiplies it back. A row of zeros,
// and one too small for a float's reciprocal, becomes zeros.
struct E4m3Scale {
  float to_codes, from_codes;
};
inline E4m3Scale e4m3_scale(float peak) {
  if (!(peak >= 0x1p-100f)) return {0.0f, 0.0f};
  return {e4m3_largest / peak, peak / e4m3_largest};
}

}  // namespace trib::kernels::detail
