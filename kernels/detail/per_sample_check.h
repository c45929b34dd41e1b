// What every operation on per-sample gradients demands of them.
#pragma once

#include "kernels/detail/dispatch.h"
#include "kernels/per_sample.h"

namespace trib::kernels::detail {

inline void check(const PerSampleGradients& gradients) {
  for (const PerSampleGradient& gradient : gradients.tensors) {
    const std::int64_t size = element_count(gradient.shape), count = gradients.sample_count;
    bool fits, is_f32;
    if (gradient.is_outer_product()) {
      fits = gradient.output_grads.dim(0) == count && gradient.inputs.dim(0) == count &&
             gradient.output_grads.dim(1) * gradient.inputs.dim(1) == size;
      is_f32 = gradient.output_grads.dtype() == DType::f32 && gradient.inputs.dtype() == DType::f32;
    } else {
      fits = gradient.values.element_count() == count * size;
      is_f32 = gradient.values.dtype() == DType::f32;
    }
    require(fits, "per-sample gradients do not fit their tensor's shape");
    require(is_f32, "per-sample operations take float32 tensors");
  }
}

}  // namespace trib::kernels::detail
