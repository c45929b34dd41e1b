// The CUDA twins of the operations in kernels/fp8.h, with the same contracts. Plain C++.
#pragma once

#include "kernels/fp8.h"

namespace trib::kernels::cuda {

void quantize_rows(Stream& stream, const Tensor& x, const Fp8Rows& y);
void dequantize_rows(Stream& stream, const Fp8Rows& x, const Tensor& y);
void gelu_fp8(Stream& stream, const Tensor& x, const Tensor& y, const Fp8Rows& rows, const Tensor& kept);
void gelu_backward_fp8(Stream& stream, const Tensor& dy, const Tensor& kept, const Tensor& dx, const Fp8Rows& rows);

// In gemm.cpp.
void fp8_product(Stream& stream, const Fp8Rows& x, const PackedMatrix& w, const Tensor& bias, bool accumulate,
                 const Tensor& y);
// The product x·w that takes `rows`, (n, k) in FP8.
std::shared_ptr<const PackedMatrix::Impl> pack_fp8(const Fp8Rows& rows);
Status supports_fp8(Device& device);

}  // namespace trib::kernels::cuda
