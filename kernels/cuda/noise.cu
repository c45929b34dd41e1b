// The noise of kernels/cpu/simd_noise.cpp on the device: the same function of the ChaCha20 keystream, term by term and
// without fused multiply-adds, so that it gives the same bits.
#include "kernels/cuda/chacha.cuh"
#include "kernels/cuda/device_functions.cuh"
#include "kernels/cuda/operations.h"

namespace trib::kernels::cuda {
namespace {

constexpr int threads = 128, normals_per_block = 8;

__device__ inline double log_of(double x) {
  const std::uint64_t bits = static_cast<std::uint64_t>(__double_as_longlong(x));
  const std::uint64_t sqrt_half = 0x3fe6a09e667f3bcdULL, mantissa = 0x000fffffffffffffULL;
  const std::uint64_t above = bits - sqrt_half;
  const std::uint64_t biased = 0x4330000000000000ULL | ((above + (1024ULL << 52)) >> 52);
  const double e = __longlong_as_double(static_cast<long long>(biased)) - (4503599627370496.0 + 1024.0);
  const double m = __longlong_as_double(static_cast<long long>(sqrt_half + (above & mantissa)));
  const double s = (m - 1.0) / (m + 1.0), z = s * s;
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

// sin and cos of 2π·u, 0 ≤ u < 1.
__device__ inline double2 sine_cosine_of_turns(double u) {
  const double shifter = 6755399441055744.0;  // 1.5·2^52: adding it rounds to an integer
  const double turned = u * 4.0, q = (turned + shifter) - shifter;
  const double x = (turned - q) * 1.57079632679489662, z = x * x;
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
  const bool odd = q == 1.0 || q == 3.0;
  double sine = odd ? c : s, cosine = odd ? s : c;
  sine = (q == 2.0 || q == 3.0) ? -sine : sine;
  cosine = (q == 1.0 || q == 2.0) ? -cosine : cosine;
  return {sine, cosine};
}

// A thread a block of the keystream: eight normals.
__global__ void __launch_bounds__(threads) add_noise(double stddev, ChaChaKey key, std::uint64_t stream_id,
                                                     std::uint64_t first_counter, float* y, std::int64_t count) {
  const std::int64_t block = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  const std::int64_t first = block * normals_per_block;
  if (first >= count) return;
  std::uint32_t words[16];
  chacha20_block(key, first_counter + static_cast<std::uint64_t>(block), stream_id, words);
#pragma unroll
  for (int j = 0; j < normals_per_block / 2; ++j) {
    const std::uint32_t* w = words + 4 * j;
    const double u1 = (static_cast<double>(w[0] >> 6) * 134217728.0 + static_cast<double>(w[1] >> 5) + 1.0) * 0x1p-53;
    const double u2 = (static_cast<double>(w[2] >> 6) * 134217728.0 + static_cast<double>(w[3] >> 5)) * 0x1p-53;
    const double radius = sqrt(-2.0 * log_of(u1));
    const double2 angle = sine_cosine_of_turns(u2);
    const std::int64_t i = first + 2 * j;
    if (i < count) y[i] = static_cast<float>(static_cast<double>(y[i]) + stddev * (radius * angle.y));
    if (i + 1 < count) y[i + 1] = static_cast<float>(static_cast<double>(y[i + 1]) + stddev * (radius * angle.x));
  }
}

}  // namespace

void add_gaussian_noise(Stream& stream, double stddev, const std::uint32_t key[8], std::uint64_t stream_id,
                        std::uint64_t first_counter, const Tensor& y) {
  if (y.element_count() == 0) return;
  ChaChaKey words;
  for (int i = 0; i < 8; ++i) words.words[i] = key[i];
  add_noise<<<blocks_for(y.element_count(), threads * normals_per_block), threads, 0, handle(stream)>>>(
      stddev, words, stream_id, first_counter, RawAccess::data<float>(y), y.element_count());
  explicit_bzero(&words, sizeof words);
  check_launch("add_gaussian_noise");
}

}  // namespace trib::kernels::cuda
