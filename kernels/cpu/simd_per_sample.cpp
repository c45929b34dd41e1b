#include "kernels/cpu/simd_vector.h"

namespace trib::kernels::cpu::TRIB_SIMD_NAMESPACE {
namespace {

void weighted_row_sum(const float* rows, int64_t stride, const float* factors, int64_t row_count, float* y,
                      int64_t begin, int64_t end) {
  constexpr int64_t block = 1024;  // of y, which stays in L1 while every row passes over it
  for (int64_t first = begin; first < end; first += block) {
    const int64_t last = end - first < block ? end : first + block;
    for (int64_t i = 0; i < row_count; ++i) {
      // Not only a shortcut: a left-out row may hold infinities.
      if (factors[i] == 0) continue;
      const float* row = rows + i * stride;
      const float factor = factors[i];
      int64_t j = first;
      for (; j + width <= last; j += width) store(y + j, load(y + j) + factor * load(row + j));
      for (; j < last; ++j) y[j] += factor * row[j];
    }
  }
}

}  // namespace

void add_per_sample(SimdKernels& kernels) {
  kernels.weighted_row_sum = weighted_row_sum;
}

}  // namespace trib::kernels::cpu::TRIB_SIMD_NAMESPACE
