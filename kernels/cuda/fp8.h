// The CUDA twins of the operations in kernels/fp8.h, with the same contracts. Plain C++.
#pragma once

#include "kernels/fp8.h"

namespace trib::kernels::cuda {

void quantize_rows(Stream& stream, const Tensor& x, const Fp8Rows& y);
void dequantize_rows(Stream& stream, const Fp8Rows& x, const Tensor& y);
void gelu_fp8(Stream& stream, const Tensor& x, const Tensor& y, const Fp8Rows& rows, const Tensor& kept);
void gelu_backward_fp8(Stream& stream, const Tensor& dy, const Tensor& kept, const Tensor& dx, const Fp8Rows& rows);

// Weights of a product, a row an output, and the largest norm of a row: (1) float32.
struct Fp8Weights {
  Tensor codes, scales, largest_norm;
};
void largest_row_norm(Stream& stream, const Fp8Rows& x, const Tensor& largest);

// In fp8_gelu.cu. y = gelu(x·w + bias), or with `backward` (x·w)·gelu'(kept), where the device has a kernel for it and
// the matrices fit it; otherwise does nothing and gives false. `kept` is (t, n) bfloat16; forward it is written, or not
// wanted.
bool fused_fp8_gelu(Stream& stream, const Fp8Rows& x, const Fp8Weights& w, const Tensor& bias, const Tensor& kept,
                    const Fp8Rows& y, bool backward);

// In gemm.cpp.
void fp8_product_gelu(Stream& stream, const Fp8Rows& x, const PackedMatrix& w, const Tensor& bias, const Tensor& before,
                      const Fp8Rows& y, const Tensor& kept);
void fp8_product_gelu_backward(Stream& stream, const Fp8Rows& dy, const PackedMatrix& w, const Tensor& kept,
                               const Tensor& before, const Fp8Rows& dx);
void fp8_product(Stream& stream, const Fp8Rows& x, const PackedMatrix& w, const Tensor& bias, bool accumulate,
                 const Tensor& y);
// The product x·w that takes `rows`, (n, k) in FP8.
std::shared_ptr<const PackedMatrix::Impl> pack_fp8(Stream& stream, const Fp8Rows& rows);
Status supports_fp8(Device& device);

}  // namespace trib::kernels::cuda
