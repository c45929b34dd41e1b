// Products with weights in 8 or 4 bits (kernels/quantized_weights.h). Plain C++.
#pragma once

#include <memory>
#include <utility>

#include "kernels/quantized_weights.h"

namespace trib::kernels::cuda {

// For x·weightsᵀ and dy·weights; the two share their memory.
std::pair<std::shared_ptr<const PackedMatrix::Impl>, std::shared_ptr<const PackedMatrix::Impl>> pack_quantized(
    Stream& stream, const QuantizedWeights& weights);

// packed_product() for such a matrix: x bfloat16, y float32 or bfloat16, bias of y's type or undefined.
void quantized_product(Stream& stream, const Tensor& x, const PackedMatrix::Impl& w, const Tensor& bias,
                       bool accumulate, const Tensor& y);

}  // namespace trib::kernels::cuda
