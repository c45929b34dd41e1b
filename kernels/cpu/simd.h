// The loops that were compiled once per instruction set. Arrays are host memory, float32 unless said otherwise; row
// strides are in elements. Nothing here allocates threads: callers split the work.
#pragma once

#include <cstdint>

namespace trib::kernels::cpu {

// A destination in float32 or, rounded to nearest even, in bfloat16; or absent.
struct Output {
  void* data = nullptr;
  bool is_bf16 = false;
  explicit operator bool() const { return data != nullptr; }
};

// Rows [begin, end) of y = gamma·x̂ + beta, x̂ = (h − mean h)/sqrt(var h + epsilon), h = x + residual (which may be
// null).
struct LayerNormArguments {
  const float *x, *residual, *gamma, *beta;  // (rows, columns) ×2, (columns) ×2
  float epsilon;
  float* y;
  Output y_compute;
  float* normalized;          // x̂, or null
  float* inverse_deviations;  // (rows), or null
  std::int64_t columns;
};

struct LayerNormBackwardArguments {
  const float *dy, *normalized, *inverse_deviations, *gamma;
  float* dx;
  Output dx_compute;
  std::int64_t columns;
};

// One head of one record. Element (i, j) of query is query[i·query_stride + j], of keys keys[i·key_stride + j], and so
// on.
struct AttentionArguments {
  const float *query, *keys, *values;
  std::int64_t query_stride, key_stride, value_stride;
  std::int64_t query_count, key_count, head_size;
  float scale;
  Output output;  // (query_count, head_size), row stride output_stride
  std::int64_t output_stride;
  float* log_sums;  // log Σ exp of row i at log_sums[i·log_sum_stride]; null if no backward follows
  std::int64_t log_sum_stride;
};

struct AttentionBackwardArguments {
  const float *query, *keys, *values;
  std::int64_t query_stride, key_stride, value_stride;
  std::int64_t query_count, key_count, head_size;
  float scale;
  const float* log_sums;
  std::int64_t log_sum_stride;
  const float* d_output;
  std::int64_t d_output_stride;
  float *d_query, *d_keys, *d_values;  // written, not added to; d_keys may be null
  std::int64_t d_query_stride, d_key_stride, d_value_stride;
};

// The public constants of the discrete Gaussian sampler (discrete_gaussian.h): an alias table that chooses a cell, and
// the largest acceptance probability in it.
struct DiscreteGaussianTable {
  static constexpr int cells = 256;  // a power of two; the last is no cell but "try again", the one before it the tail
  std::uint32_t threshold[cells];    // a slot keeps its own cell for numbers below this, of 2^24
  std::uint32_t alias[cells];        // and gives this one for the others
  double acceptance[cells];          // at the cell's left end; not a number for the tail, −1 for "try again"
  std::uint32_t weight[cells];       // of 2^32
};

inline constexpr std::int64_t relu_rows = 64;

struct SimdKernels {
  const char* name;

  // c (m, n) = alpha·a·b, or += if accumulate. a (m, k), b (k, n).
  void (*matmul)(float alpha, const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float* c,
                 std::int64_t ldc, std::int64_t m, std::int64_t n, std::int64_t k, bool accumulate);
  // c (m, n) = alpha·aᵀ·b, or += if accumulate. a (k, m), b (k, n).
  void (*matmul_transposed)(float alpha, const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float* c,
                            std::int64_t ldc, std::int64_t m, std::int64_t n, std::int64_t k, bool accumulate);
  void (*matmul_f64)(double alpha, const double* a, std::int64_t lda, const double* b, std::int64_t ldb, double* c,
                     std::int64_t ldc, std::int64_t m, std::int64_t n, std::int64_t k, bool accumulate);

  void (*layer_norm)(const LayerNormArguments&, std::int64_t begin, std::int64_t end);
  void (*layer_norm_backward)(const LayerNormBackwardArguments&, std::int64_t begin, std::int64_t end);
  // y = x·Φ(x); derivative = Φ(x) + x·φ(x), or absent.
  void (*gelu)(const float* x, Output y, Output derivative, std::int64_t begin, std::int64_t end);
  // dx = dy·derivative, derivative in bfloat16 if is_bf16.
  void (*multiply)(const float* dy, const void* derivative, bool is_bf16, Output dx, std::int64_t begin,
                   std::int64_t end);
  void (*tanh)(const float* x, float* y, std::int64_t begin, std::int64_t end);
  void (*tanh_backward)(const float* dy, const float* y, float* dx, std::int64_t begin, std::int64_t end);
  void (*rectify)(float* x, std::int64_t begin, std::int64_t end);  // x = max(x, 0)
  // y[j] = the largest of corner[r·row_stride + c·channels + j] over `rows` and `columns`, for j in [0, channels).
  void (*largest)(const float* corner, std::int64_t channels, std::int64_t columns, std::int64_t row_stride,
                  std::int64_t rows, float* y);
  void (*to_bf16)(const float* x, std::uint16_t* y, std::int64_t begin, std::int64_t end);
  void (*axpy)(float a, const float* x, float* y, std::int64_t begin, std::int64_t end);
  void (*scale)(float a, float* x, std::int64_t begin, std::int64_t end);
  double (*squared_norm)(const float* x, std::int64_t begin, std::int64_t end);
  std::int64_t squared_norm_block;  // floats from `begin` on whose squares it adds up in float32, a sixteenth at a step

  // Scratch floats that attention and attention_backward need.
  std::int64_t (*attention_scratch)(std::int64_t key_count, std::int64_t head_size);
  void (*attention)(const AttentionArguments&, float* scratch);
  void (*attention_backward)(const AttentionBackwardArguments&, float* scratch);

  // y[j] += Σ_i factors[i]·rows[i·stride + j] for j in [begin, end), leaving out rows whose factor is 0.
  void (*weighted_row_sum)(const float* rows, std::int64_t stride, const float* factors, std::int64_t row_count,
                           float* y, std::int64_t begin, std::int64_t end);

  // y[i] += stddev·N(0, 1) for i in [begin, end), begin a multiple of 8: eight normals per ChaCha20 block, block
  // first_counter + i/8.
  void (*add_gaussian)(double stddev, const std::uint32_t key[8], std::uint64_t stream_id, std::uint64_t first_counter,
                       float* y, std::int64_t begin, std::int64_t end);
  void (*gaussian_f64)(const std::uint32_t key[8], std::uint64_t stream_id, double* y, std::int64_t count);

  // y[j] += Σ_i round(factors[i]·rows[i·stride + j]) for j in [begin, end), to nearest even of the float32 product,
  // whose magnitude is at most 2^22; leaving out rows whose factor is 0.
  void (*rounded_row_sum)(const float* rows, std::int64_t stride, const float* factors, std::int64_t row_count,
                          std::int64_t* y, std::int64_t begin, std::int64_t end);
  // y[i] += the discrete Gaussian of coordinate i for i in [begin, end), begin a multiple of 4, where its first attempt
  // decides; writes the other coordinates' indices to `pending` (room for end − begin) and returns how many they are.
  std::int64_t (*discrete_gaussian)(const DiscreteGaussianTable& table, int log2_stddev, const std::uint32_t key[8],
                                    std::uint64_t stream_id, std::uint64_t first_counter, std::int64_t* y,
                                    std::int64_t begin, std::int64_t end, std::int64_t* pending);

  // Panels of `panel_width` columns side by side, row after row: panel j of x (rows, columns), each row times its
  // weight (null: 1), is at panels + j·rows·panel_width, with zeros beyond the last column. For panels [begin, end).
  std::int64_t panel_width;
  void (*pack_panels_f32)(const float* x, std::int64_t row_stride, const float* weights, std::int64_t rows,
                          std::int64_t columns, std::int64_t begin, std::int64_t end, double* panels);
  void (*pack_panels_f64)(const double* x, std::int64_t row_stride, const float* weights, std::int64_t rows,
                          std::int64_t columns, std::int64_t begin, std::int64_t end, double* panels);
  // The packed triangle (d, d) += alpha·leftᵀ·right, left and right (k, d) in panels, in the rows of panels
  // [begin, end).
  void (*add_panels)(double alpha, const double* left, const double* right, std::int64_t k, double* triangle,
                     std::int64_t d, std::int64_t begin, std::int64_t end);
  // c (m, n) = alpha·aᵀ·b, or += if accumulate. a (k, m), b (k, n).
  void (*matmul_transposed_f64)(double alpha, const double* a, std::int64_t lda, const double* b, std::int64_t ldb,
                                double* c, std::int64_t ldc, std::int64_t m, std::int64_t n, std::int64_t k,
                                bool accumulate);
  // y += a·x.
  void (*add_scaled_f64)(double a, const float* x, double* y, std::int64_t count);
  // y (rows, columns) = max(0, x·w) in the columns of panels [begin, end) of w (k, columns); rows at most relu_rows,
  // scratch of relu_rows·k.
  void (*relu_product)(const float* x, std::int64_t rows, std::int64_t k, const double* panels, std::int64_t begin,
                       std::int64_t end, std::int64_t columns, double* scratch, float* y);
  // `rounds` times `multiply_adds_per_round` fused multiply-adds in registers; the result is of no use.
  double (*multiply_adds)(std::int64_t rounds);
  std::int64_t multiply_adds_per_round;

  double (*dot_f64)(const double* x, const double* y, std::int64_t count);
  void (*axpy_f64)(double a, const double* x, double* y, std::int64_t count);
  // y += a·row; returns row·x.
  double (*dot_and_add_f64)(const double* row, const double* x, double a, double* y, std::int64_t count);
};

// The table for this machine.
const SimdKernels& simd();

}  // namespace trib::kernels::cpu
