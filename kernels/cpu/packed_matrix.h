// Frozen matrices on the CPU: oneDNN's blocked form where it was built in, row-major float32 otherwise.
#pragma once

#include <memory>

#include "kernels/gemm.h"

namespace trib::kernels {

// What every backend knows of a matrix; the rest is its own.
struct PackedMatrix::Impl {
  std::int64_t input_size = 0, output_size = 0;
  DType compute = DType::f32;
  WeightFormat format = WeightFormat::dense;
  virtual ~Impl() = default;
};

namespace cpu {

struct HostMatrix : PackedMatrix::Impl {
  // y (rows, n) = x·w + bias or y += x·w, on the calling thread alone. x in the compute type, bias may be null.
  virtual void multiply(const void* x, const float* bias, bool accumulate, float* y, std::int64_t rows) const = 0;
};

// weights (k, n), or (n, k) if `transposed`.
std::shared_ptr<HostMatrix> pack_matrix(const float* weights, std::int64_t input_size, std::int64_t output_size,
                                        bool transposed, DType compute);
Status supports_compute(DType compute);

}  // namespace cpu
}  // namespace trib::kernels
