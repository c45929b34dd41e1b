#include "kernels/attention.h"

#include <cmath>
#include <vector>

#include "kernels/cpu/output.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cuda/operations.h"
#include "kernels/detail/dispatch.h"

namespace trib::kernels {
namespace {

float* data(const MatrixView& view) {
  return view.defined() ? RawAccess::data<float>(view.tensor) + view.first_column : nullptr;
}

void check(const AttentionInputs& in) {
  detail::require(in.heads > 0 && in.query.columns % in.heads == 0 && in.keys.columns == in.query.columns &&
                      in.values.columns == in.query.columns && in.keys.rows() == in.values.rows(),
                  "attention: shapes do not fit");
  detail::require(in.query_offsets.dtype() == DType::i32 && in.key_offsets.dtype() == DType::i32 &&
                      in.query_offsets.element_count() == in.key_offsets.element_count(),
                  "attention: offsets must be int32, as many for queries as for keys");
}

// Calls body(first query row, query count, first key row, key count, head, scratch) for every head of every record.
template <typename Body>
void for_each_head(const AttentionInputs& in, Body body) {
  const std::int64_t records = in.query_offsets.element_count() - 1;
  const std::int32_t* query_offset = RawAccess::data<std::int32_t>(in.query_offsets);
  const std::int32_t* key_offset = RawAccess::data<std::int32_t>(in.key_offsets);
  cpu::parallel_for(records, 4, [&](std::int64_t begin, std::int64_t end) {
    thread_local std::vector<float> scratch;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t keys = key_offset[i + 1] - key_offset[i];
      const auto needed = static_cast<std::size_t>(cpu::simd().attention_scratch(keys, in.head_size()));
      if (scratch.size() < needed) scratch.resize(needed);
      for (std::int64_t head = 0; head < in.heads; ++head)
        body(query_offset[i], query_offset[i + 1] - query_offset[i], key_offset[i], keys, head, scratch.data());
    }
  });
}

}  // namespace

void attention(Stream& stream, const AttentionInputs& in, const Tensor& output, const Tensor& log_sums) {
  check(in);
  detail::require(output.dim(0) == in.query.rows() && output.dim(1) == in.query.columns,
                  "attention: output does not fit");
  detail::dispatch(
      stream,
      [&] {
        const std::int64_t size = in.head_size(), stride = in.query.columns;
        const cpu::Output out = cpu::output(output);
        for_each_head(in, [&](std::int64_t query_row, std::int64_t queries, std::int64_t key_row, std::int64_t keys,
                              std::int64_t head, float* scratch) {
          const std::size_t first = static_cast<std::size_t>(query_row * stride + head * size);
          cpu::simd().attention(
              {.query = data(in.query) + query_row * in.query.row_stride() + head * size,
               .keys = data(in.keys) + key_row * in.keys.row_stride() + head * size,
               .values = data(in.values) + key_row * in.values.row_stride() + head * size,
               .query_stride = in.query.row_stride(),
               .key_stride = in.keys.row_stride(),
               .value_stride = in.values.row_stride(),
               .query_count = queries,
               .key_count = keys,
               .head_size = size,
               .scale = 1.0f / std::sqrt(static_cast<float>(size)),
               .output = {static_cast<std::byte*>(out.data) + first * size_of(output.dtype()), out.is_bf16},
               .output_stride = stride,
               .log_sums =
                   log_sums.defined() ? RawAccess::data<float>(log_sums) + query_row * in.heads + head : nullptr,
               .log_sum_stride = in.heads},
              scratch);
        });
      },
      [&] { cuda::attention(stream, in, output, log_sums); });
}

void attention_backward(Stream& stream, const AttentionInputs& in, const Tensor& log_sums, const Tensor& d_output,
                        const MatrixView& d_query, const MatrixView& d_keys, const MatrixView& d_values) {
  check(in);
  detail::require(d_output.dim(0) == in.query.rows() && d_output.dim(1) == in.query.columns &&
                      d_query.rows() == in.query.rows() && d_values.rows() == in.values.rows(),
                  "attention_backward: shapes do not fit");
  detail::dispatch(
      stream,
      [&] {
        const std::int64_t size = in.head_size(), stride = in.query.columns;
        for_each_head(in, [&](std::int64_t query_row, std::int64_t queries, std::int64_t key_row, std::int64_t keys,
                              std::int64_t head, float* scratch) {
          cpu::simd().attention_backward(
              {.query = data(in.query) + query_row * in.query.row_stride() + head * size,
               .keys = data(in.keys) + key_row * in.keys.row_stride() + head * size,
               .values = data(in.values) + key_row * in.values.row_stride() + head * size,
               .query_stride = in.query.row_stride(),
               .key_stride = in.keys.row_stride(),
               .value_stride = in.values.row_stride(),
               .query_count = queries,
               .key_count = keys,
               .head_size = size,
               .scale = 1.0f / std::sqrt(static_cast<float>(size)),
               .log_sums = RawAccess::data<float>(log_sums) + query_row * in.heads + head,
               .log_sum_stride = in.heads,
               .d_output = RawAccess::data<float>(d_output) + query_row * stride + head * size,
               .d_output_stride = stride,
               .d_query = data(d_query) + query_row * d_query.row_stride() + head * size,
               .d_keys = d_keys.defined() ? data(d_keys) + key_row * d_keys.row_stride() + head * size : nullptr,
               .d_values = data(d_values) + key_row * d_values.row_stride() + head * size,
               .d_query_stride = d_query.row_stride(),
               .d_key_stride = d_keys.defined() ? d_keys.row_stride() : 0,
               .d_value_stride = d_values.row_stride()},
              scratch);
        });
      },
      [&] { cuda::attention_backward(stream, in, log_sums, d_output, d_query, d_keys, d_values); });
}

}  // namespace trib::kernels
