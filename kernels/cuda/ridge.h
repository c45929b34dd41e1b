// Float64 products of cuBLAS for ridge.cu (kernels/cuda/gemm.cpp): in columns, as cuBLAS thinks.
#pragma once

#include <cstdint>

#include "kernels/device.h"

namespace trib::kernels::cuda {

// A matrix in columns that are `stride` elements apart, or its transpose.
struct Columns {
  const double* data;
  std::int64_t stride;
  bool transposed = false;
};

// c (m, n) = alpha·op(a)·op(b) + beta·c.
void product_f64(Stream& stream, std::int64_t m, std::int64_t n, std::int64_t k, double alpha, const Columns& a,
                 const Columns& b, double beta, double* c, std::int64_t c_stride);
// The lower triangle of c (m, m) = alpha·a·aᵀ + beta·c, a (m, k).
void lower_gram_f64(Stream& stream, std::int64_t m, std::int64_t k, double alpha, const double* a,
                    std::int64_t a_stride, double beta, double* c, std::int64_t c_stride);

}  // namespace trib::kernels::cuda
