// Gaussian noise in floating point: ChaCha20 and Box–Muller in float64. Built without fused multiply-adds, so that
// every instruction set gives the same numbers.
#include "kernels/cpu/simd_chacha.h"

namespace trib::kernels::cpu::TRIB_SIMD_NAMESPACE {
namespace {

constexpr int normals_per_block = 8;

// log(x) for 0 < x ≤ 1 to about 1 ulp: x = m·2^e with m in [√½, √2), log m = 2 atanh((m − 1)/(m + 1)) by its series.
TRIB_INLINE double log_of(double x) {
  uint64_t bits;
  memcpy(&bits, &x, sizeof bits);
  const uint64_t sqrt_half = 0x3fe6a09e667f3bcdULL, mantissa = 0x000fffffffffffffULL;
  uint64_t above = bits - sqrt_half;                                            // its exponent field is e
  uint64_t biased = 0x4330000000000000ULL | ((above + (1024ULL << 52)) >> 52);  // the bits of 2^52 + e + 1024
  uint64_t m_bits = sqrt_half + (above & mantissa);
  double e, m;
  memcpy(&e, &biased, sizeof e);
  memcpy(&m, &m_bits, sizeof m);
  e -= 4503599627370496.0 + 1024.0;
  double s = (m - 1.0) / (m + 1.0), z = s * s;
  double p = 1.0 / 21;
  p = p * z + 1.0 / 19;
  p = p * z + 1.0 / 17;
  p = p * z + 1.0 / 15;
  p = p * z + 1.0 / 13;
  p = p * z + 1.0 / 11;
  p = p * z + 1.0 / 9;
  p = p * z + 1.0 / 7;
  p = p * z + 1.0 / 5;
  p = p * z + 1.0 / 3;
  return e * 0.693147180559945309 + 2.0 * (s + s * z * p);
}

struct SineCosine {
  double sine, cosine;
};
// sin and cos of 2π·u, 0 ≤ u < 1: u = q/4 + f/4 with |f| ≤ ½, Taylor series of π/2·f, then the quadrant.
TRIB_INLINE SineCosine sine_cosine_of_turns(double u) {
  const double shifter = 6755399441055744.0;  // 1.5·2^52: adding it rounds to an integer
  double turned = u * 4.0;
  double q = (turned + shifter) - shifter;
  double x = (turned - q) * 1.57079632679489662, z = x * x;
  double s = -1.0 / 1307674368000.0;
  s = s * z + 1.0 / 6227020800.0;
  s = s * z - 1.0 / 39916800.0;
  s = s * z + 1.0 / 362880.0;
  s = s * z - 1.0 / 5040.0;
  s = s * z + 1.0 / 120.0;
  s = s * z - 1.0 / 6.0;
  s = x + x * z * s;
  double c = 1.0 / 20922789888000.0;
  c = c * z - 1.0 / 87178291200.0;
  c = c * z + 1.0 / 479001600.0;
  c = c * z - 1.0 / 3628800.0;
  c = c * z + 1.0 / 40320.0;
  c = c * z - 1.0 / 720.0;
  c = c * z + 1.0 / 24.0;
  c = c * z - 0.5;
  c = 1.0 + z * c;
  // q is 0 … 4: (sin, cos) of q·π/2 + x.
  bool odd = q == 1.0 || q == 3.0;
  double sine = odd ? c : s, cosine = odd ? s : c;
  sine = (q == 2.0 || q == 3.0) ? -sine : sine;
  cosine = (q == 1.0 || q == 2.0) ? -cosine : cosine;
  return {sine, cosine};
}

// normals[lane·8 + 2j], [… + 1] from words 4j … 4j + 3 of the block: two 53-bit uniforms, the first in (0, 1].
void normals_of_blocks(const uint32_t key[8], uint64_t counter, uint64_t stream_id, double* normals) {
  alignas(64) uint32_t words[16][blocks_at_once];
  alignas(64) double first[blocks_at_once], second[blocks_at_once];
  chacha20_blocks(key, counter, stream_id, words);
  for (int j = 0; j < normals_per_block / 2; ++j) {
    const uint32_t* w = words[4 * j];
    for (int lane = 0; lane < blocks_at_once; ++lane) {
      // 26 high and 27 low bits, each exact as a signed 32-bit integer, which every instruction set converts.
      const uint32_t* word = w + lane;
      double high1 = static_cast<int32_t>(word[0] >> 6), low1 = static_cast<int32_t>(word[blocks_at_once] >> 5);
      double high2 = static_cast<int32_t>(word[2 * blocks_at_once] >> 6),
             low2 = static_cast<int32_t>(word[3 * blocks_at_once] >> 5);
      double u1 = (high1 * 134217728.0 + low1 + 1.0) * 0x1p-53;
      double u2 = (high2 * 134217728.0 + low2) * 0x1p-53;
      double radius = __builtin_sqrt(-2.0 * log_of(u1));
      SineCosine angle = sine_cosine_of_turns(u2);
      first[lane] = radius * angle.cosine;
      second[lane] = radius * angle.sine;
    }
    for (int lane = 0; lane < blocks_at_once; ++lane) {
      normals[lane * normals_per_block + 2 * j] = first[lane];
      normals[lane * normals_per_block + 2 * j + 1] = second[lane];
    }
  }
  wipe(words, sizeof words);
}

template <typename Use>
TRIB_INLINE void for_each_normal(const uint32_t key[8], uint64_t stream_id, uint64_t first_counter, int64_t begin,
                                 int64_t end, Use use) {
  constexpr int64_t batch = blocks_at_once * normals_per_block;
  alignas(64) double normals[batch];
  for (int64_t i = begin; i < end; i += batch) {
    normals_of_blocks(key, first_counter + static_cast<uint64_t>(i) / normals_per_block, stream_id, normals);
    const int64_t count = end - i < batch ? end - i : batch;
    for (int64_t j = 0; j < count; ++j) use(i + j, normals[j]);
  }
  wipe(normals, sizeof normals);
}

void add_gaussian(double stddev, const uint32_t key[8], uint64_t stream_id, uint64_t first_counter, float* y,
                  int64_t begin, int64_t end) {
  for_each_normal(key, stream_id, first_counter, begin, end, [&](int64_t i, double normal) {
    y[i] = static_cast<float>(static_cast<double>(y[i]) + stddev * normal);
  });
}

void gaussian_f64(const uint32_t key[8], uint64_t stream_id, double* y, int64_t count) {
  for_each_normal(key, stream_id, 0, 0, count, [&](int64_t i, double normal) { y[i] = normal; });
}

}  // namespace

void add_noise(SimdKernels& kernels) {
  kernels.add_gaussian = add_gaussian;
  kernels.gaussian_f64 = gaussian_f64;
}

}  // namespace trib::kernels::cpu::TRIB_SIMD_NAMESPACE
