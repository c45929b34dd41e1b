// Vectors of the width that the translation unit's instruction set has, and the float functions the loops need.
// Included only by simd_*.cpp: everything is in the namespace of one instruction set, and nothing from the standard
// library that could be emitted as a shared inline function is used, because the linker would keep one copy for all.
#pragma once

#include <stdint.h>
#include <string.h>

#include "kernels/cpu/simd.h"

#define TRIB_SIMD_NAME_INNER(level) simd_##level
#define TRIB_SIMD_NAME(level) TRIB_SIMD_NAME_INNER(level)
#define TRIB_SIMD_NAMESPACE TRIB_SIMD_NAME(TRIB_SIMD_LEVEL)

namespace trib::kernels::cpu::TRIB_SIMD_NAMESPACE {

// Each simd_*.cpp fills in its part of the table.
void add_matmul(SimdKernels& kernels);
void add_elementwise(SimdKernels& kernels);
void add_attention(SimdKernels& kernels);
void add_per_sample(SimdKernels& kernels);
void add_noise(SimdKernels& kernels);
void add_grid(SimdKernels& kernels);
void add_linalg(SimdKernels& kernels);
void add_ridge(SimdKernels& kernels);

#if defined(__AVX512F__)
inline constexpr int width = 16;
inline constexpr int tile_rows = 8;
#elif defined(__AVX2__)
inline constexpr int width = 8;
inline constexpr int tile_rows = 4;
#else
inline constexpr int width = 4;
inline constexpr int tile_rows = 4;
#endif

template <typename T, int lanes>
struct VectorOf {
  typedef T type __attribute__((vector_size(lanes * sizeof(T)), aligned(alignof(T)), may_alias));
};
template <int lanes>
struct VectorOf<float, lanes> {
  typedef float type __attribute__((vector_size(lanes * sizeof(float)), aligned(4), may_alias));
};

using Floats = VectorOf<float, width>::type;
using Ints = VectorOf<int32_t, width>::type;
using Shorts = VectorOf<uint16_t, width>::type;

#define TRIB_INLINE static inline __attribute__((always_inline))

TRIB_INLINE Floats load(const float* p) {
  return *reinterpret_cast<const Floats*>(p);
}
TRIB_INLINE void store(float* p, Floats v) {
  *reinterpret_cast<Floats*>(p) = v;
}
TRIB_INLINE Floats splat(float x) {
  return Floats{} + x;
}

TRIB_INLINE Floats select(Ints mask, Floats yes, Floats no) {
  return reinterpret_cast<Floats>((mask & reinterpret_cast<Ints>(yes)) | (~mask & reinterpret_cast<Ints>(no)));
}

// The first `count` floats at p, the rest zero.
TRIB_INLINE Floats load_some(const float* p, int64_t count) {
  Floats v = {};
  memcpy(&v, p, static_cast<size_t>(count) * sizeof(float));
  return v;
}
TRIB_INLINE void store_some(float* p, Floats v, int64_t count) {
  memcpy(p, &v, static_cast<size_t>(count) * sizeof(float));
}

// The vector with its halves exchanged by powers of two, so that a reduction takes log2(width) steps.
template <int distance>
TRIB_INLINE Floats exchange(Floats v) {
#if defined(__AVX512F__)
  return __builtin_shuffle(v, Ints{0 ^ distance, 1 ^ distance, 2 ^ distance, 3 ^ distance, 4 ^ distance, 5 ^ distance,
                                   6 ^ distance, 7 ^ distance, 8 ^ distance, 9 ^ distance, 10 ^ distance, 11 ^ distance,
                                   12 ^ distance, 13 ^ distance, 14 ^ distance, 15 ^ distance});
#elif defined(__AVX2__)
  return __builtin_shuffle(v, Ints{0 ^ distance, 1 ^ distance, 2 ^ distance, 3 ^ distance, 4 ^ distance, 5 ^ distance,
                                   6 ^ distance, 7 ^ distance});
#else
  return __builtin_shuffle(v, Ints{0 ^ distance, 1 ^ distance, 2 ^ distance, 3 ^ distance});
#endif
}
template <typename Combine>
TRIB_INLINE float reduce(Floats v, Combine combine) {
  if constexpr (width > 8) v = combine(v, exchange<8 % width>(v));
  if constexpr (width > 4) v = combine(v, exchange<4 % width>(v));
  v = combine(v, exchange<2>(v));
  v = combine(v, exchange<1>(v));
  return v[0];
}
TRIB_INLINE float sum(Floats v) {
  return reduce(v, [](Floats a, Floats b) { return a + b; });
}
TRIB_INLINE float maximum(Floats v) {
  return reduce(v, [](Floats a, Floats b) { return select(a > b, a, b); });
}

// Replaces the square r[0 … width) by its transpose: log2(width) perfect shuffles of the rows.
TRIB_INLINE void transpose_square(Floats r[width]) {
  for (int stage = 1; stage < width; stage *= 2) {
    Floats shuffled[width];
#pragma GCC unroll 16
    for (int i = 0; i < width / 2; ++i) {
      Floats a = r[i], b = r[i + width / 2];
#if defined(__AVX512F__)
      shuffled[2 * i] = __builtin_shuffle(a, b, Ints{0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23});
      shuffled[2 * i + 1] = __builtin_shuffle(a, b, Ints{8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31});
#elif defined(__AVX2__)
      shuffled[2 * i] = __builtin_shuffle(a, b, Ints{0, 8, 1, 9, 2, 10, 3, 11});
      shuffled[2 * i + 1] = __builtin_shuffle(a, b, Ints{4, 12, 5, 13, 6, 14, 7, 15});
#else
      shuffled[2 * i] = __builtin_shuffle(a, b, Ints{0, 4, 1, 5});
      shuffled[2 * i + 1] = __builtin_shuffle(a, b, Ints{2, 6, 3, 7});
#endif
    }
#pragma GCC unroll 16
    for (int i = 0; i < width; ++i) r[i] = shuffled[i];
  }
}

// Round to nearest even; a NaN stays one.
TRIB_INLINE Shorts bf16_of(Floats v) {
  Ints bits = reinterpret_cast<Ints>(v);
  Ints rounded = bits + 0x7fff + ((bits >> 16) & 1);
  Ints is_nan = v != v;
  Ints kept = (is_nan & (bits | 0x400000)) | (~is_nan & rounded);
  return __builtin_convertvector((kept >> 16) & 0xffff, Shorts);
}
TRIB_INLINE Floats float_of(Shorts v) {
  return reinterpret_cast<Floats>(__builtin_convertvector(v, Ints) << 16);
}

template <bool is_bf16>
TRIB_INLINE void store_as(void* base, int64_t index, Floats v) {
  if constexpr (is_bf16) {
    Shorts narrow = bf16_of(v);
    memcpy(static_cast<uint16_t*>(base) + index, &narrow, sizeof narrow);
  } else {
    store(static_cast<float*>(base) + index, v);
  }
}
template <bool is_bf16>
TRIB_INLINE void store_some_as(void* base, int64_t index, Floats v, int64_t count) {
  if constexpr (is_bf16) {
    Shorts narrow = bf16_of(v);
    memcpy(static_cast<uint16_t*>(base) + index, &narrow, static_cast<size_t>(count) * sizeof(uint16_t));
  } else {
    store_some(static_cast<float*>(base) + index, v, count);
  }
}

// exp(x) to 2 ulp: Cody and Waite's reduction by ln 2 in two parts, then a degree-6 polynomial on |r| ≤ ln 2 / 2.
TRIB_INLINE Floats exp_of(Floats x) {
  x = select(x > splat(88.0f), splat(88.0f), x);
  Ints underflow = x < splat(-87.0f);
  x = select(underflow, splat(-87.0f), x);
  const float shifter = 12582912.0f;  // 1.5·2^23: adding it rounds to an integer in the low bits
  Floats shifted = x * 1.44269504089f + shifter;
  Ints exponent = reinterpret_cast<Ints>(shifted) << 23;
  Floats n = shifted - shifter;
  Floats r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  Floats p = splat(1.0f / 720);
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  Floats result = reinterpret_cast<Floats>(reinterpret_cast<Ints>(p) + exponent);
  return select(underflow, Floats{}, result);
}

}  // namespace trib::kernels::cpu::TRIB_SIMD_NAMESPACE
