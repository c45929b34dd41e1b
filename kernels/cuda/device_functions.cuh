// Small device functions: typed loads and stores, and reductions in a fixed order.
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/runtime.h"

namespace trib::kernels::cuda {

__device__ inline float load(const Values& v, std::int64_t i) {
  return v.is_bf16 ? __bfloat162float(static_cast<const __nv_bfloat16*>(v.data)[i])
                   : static_cast<const float*>(v.data)[i];
}
__device__ inline void store(const Values& v, std::int64_t i, float x) {
  if (v.is_bf16) {
    static_cast<__nv_bfloat16*>(v.data)[i] = __float2bfloat16_rn(x);
  } else {
    static_cast<float*>(v.data)[i] = x;
  }
}

__device__ inline float2 unpack(std::uint32_t pair) {
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
}
__device__ inline std::uint32_t pack(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}

// Four neighbours from element i on, a multiple of 4 in memory that is aligned for it.
__device__ inline float4 load4(const Values& v, std::int64_t i) {
  if (!v.is_bf16) return *reinterpret_cast<const float4*>(static_cast<const float*>(v.data) + i);
  const uint2 bits = *reinterpret_cast<const uint2*>(static_cast<const __nv_bfloat16*>(v.data) + i);
  const float2 a = unpack(bits.x), b = unpack(bits.y);
  return {a.x, a.y, b.x, b.y};
}
__device__ inline void store4(const Values& v, std::int64_t i, float4 x) {
  if (v.is_bf16) {
    *reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(v.data) + i) = {pack(x.x, x.y), pack(x.z, x.w)};
  } else {
    *reinterpret_cast<float4*>(static_cast<float*>(v.data) + i) = x;
  }
}

// Elements i … i+3 of a row of `columns` that starts at element `row`; beyond its end loads give 0 and stores do
// nothing. `aligned` says that rows start and end at multiples of 4.
__device__ inline float4 load4_of_row(const Values& v, std::int64_t row, int i, int columns, bool aligned) {
  if (i >= columns) return {};
  if (aligned) return load4(v, row + i);
  float4 x = {};
  x.x = load(v, row + i);
  if (i + 1 < columns) x.y = load(v, row + i + 1);
  if (i + 2 < columns) x.z = load(v, row + i + 2);
  if (i + 3 < columns) x.w = load(v, row + i + 3);
  return x;
}
__device__ inline void store4_of_row(const Values& v, std::int64_t row, int i, int columns, bool aligned, float4 x) {
  if (i >= columns) return;
  if (aligned) return store4(v, row + i, x);
  store(v, row + i, x.x);
  if (i + 1 < columns) store(v, row + i + 1, x.y);
  if (i + 2 < columns) store(v, row + i + 2, x.z);
  if (i + 3 < columns) store(v, row + i + 3, x.w);
}

template <typename T>
__device__ inline T warp_sum(T x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}
__device__ inline float warp_max(float x) {
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}
// The sum over a block of up to 1024 threads, for thread 0. `shared` holds 32 values.
template <typename T>
__device__ inline T block_sum(T x, T* shared) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = (blockDim.x + 31) / 32;
  x = warp_sum(x);
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  x = lane < warps ? shared[lane] : T{};
  if (warp == 0) x = warp_sum(x);
  __syncthreads();
  return x;
}

}  // namespace trib::kernels::cuda
