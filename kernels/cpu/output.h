// How tensors are handed to the loops.
#pragma once

#include "kernels/cpu/simd.h"
#include "kernels/detail/raw_access.h"

namespace trib::kernels::cpu {

// A float32 or bfloat16 destination, or an absent one.
inline Output output(const Tensor& tensor) {
  if (!tensor.defined()) return {};
  return {RawAccess::address(tensor), tensor.dtype() == DType::bf16};
}

inline float* floats_or_null(const Tensor& tensor) {
  return tensor.defined() ? RawAccess::data<float>(tensor) : nullptr;
}

}  // namespace trib::kernels::cpu
