// Multi-head attention inside each record of a packed batch.
#pragma once

#include "kernels/matrix_view.h"

namespace trib::kernels {

// Record i has the query rows query_offsets[i] … query_offsets[i+1] and the key and value rows key_offsets[i] …; both
// (records + 1) int32. Every query of a record sees every key of it. Views are (rows, heads·head_size) float32; on a
// GPU also bfloat16, all of one type.
struct AttentionInputs {
  MatrixView query, keys, values;
  Tensor query_offsets, key_offsets;
  std::int64_t heads = 1;
  std::int64_t longest = 0;  // the most rows that a record has, or 0 if that is not known: faster ways have limits
  std::int64_t head_size() const { return query.columns / heads; }
};

// output (query rows, heads·head_size), float32 or bfloat16 = softmax(q·kᵀ/√head_size)·v per head. `log_sums` (query
// rows, heads) float32 receives log Σ exp of each row of scores, for the backward pass, unless it is undefined.
void attention(Stream& stream, const AttentionInputs& inputs, const Tensor& output, const Tensor& log_sums);

// The gradients for d_output (query rows, heads·head_size), in the views' type. They are written, not added to; d_keys
// may be undefined where nothing below the keys trains.
void attention_backward(Stream& stream, const AttentionInputs& inputs, const Tensor& log_sums, const Tensor& d_output,
                        const MatrixView& d_query, const MatrixView& d_keys, const MatrixView& d_values);

}  // namespace trib::kernels
