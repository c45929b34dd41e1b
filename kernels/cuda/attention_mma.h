// Attention on the tensor cores: bfloat16 operands of head size 32 or 64, products added in float32.
#pragma once

#include "kernels/attention.h"

namespace trib::kernels::cuda {

bool mma_attention_serves(const AttentionInputs& inputs, const Tensor& output);
void mma_attention(Stream& stream, const AttentionInputs& inputs, const Tensor& output, const Tensor& log_sums);

// Quickest for records of up to 128 rows, if AttentionInputs::longest says so.
bool mma_attention_backward_serves(const AttentionInputs& inputs, const Tensor& d_output, const MatrixView& d_query,
                                   const MatrixView& d_keys, const MatrixView& d_values);
void mma_attention_backward(Stream& stream, const AttentionInputs& inputs, const Tensor& log_sums,
                            const Tensor& d_output, const MatrixView& d_query, const MatrixView& d_keys,
                            const MatrixView& d_values);

}  // namespace trib::kernels::cuda
