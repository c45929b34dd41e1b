// Per-sample gradients as kernel arguments.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/cuda/runtime.h"
#include "kernels/per_sample.h"

namespace trib::kernels::cuda {

// One tensor's gradients: values (samples, size), or output_grads (samples, p) ⊗ inputs (samples, q).
struct Gradient {
  const float *values, *output_grads, *inputs;
  std::int64_t size;
  int p, q;
  float* sum;
  std::int64_t* integers;  // or a sum on an integer grid
};
// As many as a kernel's arguments hold; more tensors take further launches.
constexpr int most_gradients = 64;
struct Gradients {
  Gradient tensors[most_gradients];
};

inline Gradient gradient(const PerSampleGradient& from, const Tensor& sum) {
  Gradient to{};
  to.size = element_count(from.shape);
  if (from.is_outer_product()) {
    to.output_grads = RawAccess::data<float>(from.output_grads);
    to.inputs = RawAccess::data<float>(from.inputs);
    to.p = static_cast<int>(from.output_grads.dim(1));
    to.q = static_cast<int>(from.inputs.dim(1));
  } else {
    to.values = RawAccess::data<float>(from.values);
  }
  if (sum.defined() && sum.dtype() == DType::i64) {
    to.integers = RawAccess::data<std::int64_t>(sum);
  } else if (sum.defined()) {
    to.sum = RawAccess::data<float>(sum);
  }
  return to;
}

// Calls launch(gradients, first, count) for groups of tensors.
template <typename Launch>
void in_groups(const PerSampleGradients& all, const std::vector<Tensor>& sums, const Launch& launch) {
  for (std::size_t first = 0; first < all.tensors.size(); first += most_gradients) {
    Gradients group{};
    const std::size_t count = std::min<std::size_t>(most_gradients, all.tensors.size() - first);
    for (std::size_t i = 0; i < count; ++i)
      group.tensors[i] = gradient(all.tensors[first + i], sums.empty() ? Tensor() : sums[first + i]);
    launch(group, static_cast<unsigned>(first), static_cast<unsigned>(count));
  }
}

}  // namespace trib::kernels::cuda
