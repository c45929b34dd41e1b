// Rounding to e4m3 on the device, as kernels/detail/e4m3.h does it on the host.
#pragma once

#include <cuda_fp8.h>

#include "kernels/cuda/device_functions.cuh"
#include "kernels/fp8.h"

namespace trib::kernels::cuda {

// Rows of codes and their scales as a kernel's argument, or none.
struct CodeRows {
  std::uint8_t* codes = nullptr;
  float* scales = nullptr;
  float* norms = nullptr;
};
inline CodeRows code_rows(const Fp8Rows& rows) {
  if (!rows.defined()) return {};
  return {RawAccess::data<std::uint8_t>(rows.codes), RawAccess::data<float>(rows.scales),
          rows.norms.defined() ? RawAccess::data<float>(rows.norms) : nullptr};
}

// IEEE division: the CPU's numbers.
__device__ inline float2 e4m3_scale(float peak) {
  if (!(peak >= 0x1p-100f)) return {0.0f, 0.0f};
  return {__fdiv_rn(448.0f, peak), __fdiv_rn(peak, 448.0f)};
}
__device__ inline std::uint32_t e4m3_pair(float low, float high) {
  return __nv_cvt_float2_to_fp8x2({low, high}, __NV_SATFINITE, __NV_E4M3);
}
__device__ inline std::uint32_t e4m3_four(float4 x, float factor) {
  return e4m3_pair(x.x * factor, x.y * factor) | e4m3_pair(x.z * factor, x.w * factor) << 16;
}
__device__ inline float square_sum(float sum, float4 x) {
  return fmaf(x.x, x.x, fmaf(x.y, x.y, fmaf(x.z, x.z, fmaf(x.w, x.w, sum))));
}
__device__ inline float largest(float peak, float4 x) {
  return fmaxf(fmaxf(peak, fmaxf(fabsf(x.x), fabsf(x.y))), fmaxf(fabsf(x.z), fabsf(x.w)));
}

}  // namespace trib::kernels::cuda
