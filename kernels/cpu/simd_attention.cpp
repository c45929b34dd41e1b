// One head of one record at a time. Scores are made for a block of queries against all keys, in scratch memory; the
// backward pass makes them again from q, k and the saved log-sums instead of keeping them (FlashAttention's trade,
// Dao et al. 2022).
#include "kernels/cpu/simd_matmul.h"

namespace trib::kernels::cpu::TRIB_SIMD_NAMESPACE {
namespace {

constexpr int64_t query_block = 64;

TRIB_INLINE int64_t padded(int64_t count) {
  return (count + 15) / 16 * 16;
}

int64_t attention_scratch(int64_t key_count, int64_t head_size) {
  int64_t columns = padded(key_count);
  return 2 * head_size * columns      // keysᵀ, valuesᵀ
         + 2 * query_block * columns  // scores, their gradient
         + query_block * head_size;   // output before it is narrowed
}

// to (head_size, columns) = fromᵀ, zero beyond `count`; columns is a multiple of 16.
void transpose(const float* from, int64_t stride, int64_t count, int64_t head_size, float* to, int64_t columns) {
  for (int64_t j = 0; j < columns; j += width) {
    int64_t d = 0;
    for (; d + width <= head_size; d += width) {
      Floats square[width];
#pragma GCC unroll 16
      for (int row = 0; row < width; ++row)
        square[row] = j + row < count ? load(from + (j + row) * stride + d) : Floats{};
      transpose_square(square);
#pragma GCC unroll 16
      for (int row = 0; row < width; ++row) store(to + (d + row) * columns + j, square[row]);
    }
    for (; d < head_size; ++d)
      for (int64_t row = j; row < j + width; ++row) to[d * columns + row] = row < count ? from[row * stride + d] : 0.0f;
  }
}

// Replaces scores s (already scaled) by softmax(s); returns log Σ exp s.
TRIB_INLINE float softmax_row(float* s, int64_t count, int64_t columns) {
  constexpr float lowest = -3.0e38f;
  for (int64_t j = count; j < columns; ++j) s[j] = lowest;
  Floats most = splat(lowest);
  for (int64_t j = 0; j < columns; j += width) {
    Floats v = load(s + j);
    most = select(v > most, v, most);
  }
  const float peak = maximum(most);
  Floats total = {};
  for (int64_t j = 0; j < columns; j += width) {
    Floats e = exp_of(load(s + j) - peak);
    store(s + j, e);
    total += e;
  }
  const float whole = sum(total);
  const float inverse = 1.0f / whole;
  for (int64_t j = 0; j < columns; j += width) store(s + j, load(s + j) * inverse);
  return peak + __builtin_logf(whole);
}

void attention(const AttentionArguments& a, float* scratch) {
  const int64_t columns = padded(a.key_count), size = a.head_size;
  float* keys_transposed = scratch;
  float* scores = keys_transposed + 2 * size * columns;
  float* wide_output = scores + 2 * query_block * columns;
  transpose(a.keys, a.key_stride, a.key_count, size, keys_transposed, columns);
  for (int64_t first = 0; first < a.query_count; first += query_block) {
    const int64_t rows = a.query_count - first < query_block ? a.query_count - first : query_block;
    product<float>(a.scale, a.query + first * a.query_stride, a.query_stride, 1, keys_transposed, columns, scores,
                   columns, rows, columns, size, false);
    for (int64_t i = 0; i < rows; ++i) {
      float log_sum = softmax_row(scores + i * columns, a.key_count, columns);
      if (a.log_sums) a.log_sums[(first + i) * a.log_sum_stride] = log_sum;
    }
    float* to = a.output.is_bf16 ? wide_output : static_cast<float*>(a.output.data) + first * a.output_stride;
    const int64_t stride = a.output.is_bf16 ? size : a.output_stride;
    product<float>(1.0f, scores, columns, 1, a.values, a.value_stride, to, stride, rows, size, a.key_count, false);
    if (!a.output.is_bf16) continue;
    for (int64_t i = 0; i < rows; ++i) {
      int64_t j = 0;
      const int64_t base = (first + i) * a.output_stride;
      for (; j + width <= size; j += width) store_as<true>(a.output.data, base + j, load(to + i * size + j));
      if (j < size) store_some_as<true>(a.output.data, base + j, load_some(to + i * size + j, size - j), size - j);
    }
  }
}

void attention_backward(const AttentionBackwardArguments& a, float* scratch) {
  const int64_t columns = padded(a.key_count), size = a.head_size;
  float* keys_transposed = scratch;
  float* values_transposed = keys_transposed + size * columns;
  float* probabilities = values_transposed + size * columns;
  float* gradients = probabilities + query_block * columns;
  transpose(a.keys, a.key_stride, a.key_count, size, keys_transposed, columns);
  transpose(a.values, a.value_stride, a.key_count, size, values_transposed, columns);
  for (int64_t first = 0; first < a.query_count; first += query_block) {
    const int64_t rows = a.query_count - first < query_block ? a.query_count - first : query_block;
    const float* query = a.query + first * a.query_stride;
    const float* d_output = a.d_output + first * a.d_output_stride;
    product<float>(a.scale, query, a.query_stride, 1, keys_transposed, columns, probabilities, columns, rows, columns,
                   size, false);
    product<float>(1.0f, d_output, a.d_output_stride, 1, values_transposed, columns, gradients, columns, rows, columns,
                   size, false);
    // P = exp(s − log-sum), zero beyond the keys; dS = P∘(dP − Σ P∘dP).
    for (int64_t i = 0; i < rows; ++i) {
      float* p = probabilities + i * columns;
      float* g = gradients + i * columns;
      const float log_sum = a.log_sums[(first + i) * a.log_sum_stride];
      Floats weighted = {};
      for (int64_t j = 0; j < columns; j += width) store(p + j, exp_of(load(p + j) - log_sum));
      for (int64_t j = a.key_count; j < columns; ++j) p[j] = 0;
      for (int64_t j = 0; j < columns; j += width) weighted += load(p + j) * load(g + j);
      const float mean = sum(weighted);
      for (int64_t j = 0; j < columns; j += width) store(g + j, load(p + j) * (load(g + j) - mean));
    }
    product<float>(1.0f, probabilities, 1, columns, d_output, a.d_output_stride, a.d_values, a.d_value_stride,
                   a.key_count, size, rows, first > 0);
    product<float>(a.scale, gradients, columns, 1, a.keys, a.key_stride, a.d_query + first * a.d_query_stride,
                   a.d_query_stride, rows, size, a.key_count, false);
    if (a.d_keys)
      product<float>(a.scale, gradients, 1, columns, query, a.query_stride, a.d_keys, a.d_key_stride, a.key_count, size,
                     rows, first > 0);
  }
}

}  // namespace

void add_attention(SimdKernels& kernels) {
  kernels.attention_scratch = attention_scratch;
  kernels.attention = attention;
  kernels.attention_backward = attention_backward;
}

}  // namespace trib::kernels::cpu::TRIB_SIMD_NAMESPACE
