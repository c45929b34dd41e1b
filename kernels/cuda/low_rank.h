// Special forms of thin products, tried before the general ones.
#pragma once

#include <vector>

#include "kernels/gemm.h"

namespace trib::kernels::cuda {

// c += alpha·a·b where a has 4, 8 or 16 columns. False, and nothing done, if the shapes do not fit the kernel.
bool add_low_rank(Stream& stream, float alpha, const MatrixView& a, const MatrixView& b, const MatrixView& c);

// c = alpha·a·b where c has 8 or 16 columns, all bfloat16. False, and nothing done, if the shapes do not fit the
// kernel.
bool reduce_to_low_rank(Stream& stream, float alpha, const MatrixView& a, const MatrixView& b, const MatrixView& c);

// kernels::adapter_gradients for rank 8 in bfloat16. False, and nothing done, if the shapes do not fit the kernel.
bool adapter_gradients(Stream& stream, float alpha, const std::vector<AdapterGradient>& adapters, const Tensor& offsets,
                       const Tensor& rows);

}  // namespace trib::kernels::cuda
