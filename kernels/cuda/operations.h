// The CUDA twins of the operations in kernels/*.h, with the same contracts. Plain C++: what the operations' own files
// include. Argument checks are done by the callers.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/attention.h"
#include "kernels/convolution.h"
#include "kernels/gemm.h"
#include "kernels/layer_norm.h"
#include "kernels/linalg.h"
#include "kernels/per_sample.h"

namespace trib::kernels::cuda {

// activation.h
void gelu(Stream& stream, const Tensor& x, const Tensor& y, const Tensor& kept);
void gelu_backward(Stream& stream, const Tensor& dy, const Tensor& kept, const Tensor& dx);
void tanh(Stream& stream, const Tensor& x, const Tensor& y);
void tanh_backward(Stream& stream, const Tensor& dy, const Tensor& y, const Tensor& dx);
void convert(Stream& stream, const Tensor& x, const Tensor& y);

// attention.h
void attention(Stream& stream, const AttentionInputs& inputs, const Tensor& output, const Tensor& log_sums);
void attention_backward(Stream& stream, const AttentionInputs& inputs, const Tensor& log_sums, const Tensor& d_output,
                        const MatrixView& d_query, const MatrixView& d_keys, const MatrixView& d_values);

// convolution.h. gather_windows() gives the windows of to.dim(0) output rows from `first` on; rectify() is max(x, 0).
void gather_windows(Stream& stream, const Tensor& x, const Windows& windows, std::int64_t first, const Tensor& to);
void rectify(Stream& stream, const Tensor& x);
void max_pool(Stream& stream, const Tensor& x, const Windows& windows, const Tensor& y);
void mean_pool(Stream& stream, const Tensor& x, std::int64_t images, const MatrixView& y);

// embedding.h
void embed(Stream& stream, const Tensor& tokens, const Tensor& tokens_table, const Tensor& positions,
           const Tensor& positions_table, const Tensor& constant, const Tensor& y);
void gather_rows(Stream& stream, const Tensor& x, const Tensor& rows, const Tensor& y);
void scatter_rows(Stream& stream, const Tensor& x, const Tensor& rows, const Tensor& y);
void scatter_add_rows(Stream& stream, const Tensor& x, const Tensor& rows, const Tensor& y);
void fill_rows(Stream& stream, const Tensor& row, const Tensor& y);

// gemm.h
std::shared_ptr<const PackedMatrix::Impl> pack_matrix(Stream& stream, const Tensor& weights, bool transposed,
                                                      DType compute, Float32Products products);
// The same weights for products in the other direction; shares their memory.
std::shared_ptr<const PackedMatrix::Impl> reversed(const PackedMatrix::Impl& matrix);
void packed_product(Stream& stream, const Tensor& x, const PackedMatrix& w, const Tensor& bias, bool accumulate,
                    const Tensor& y);
void packed_product_gelu(Stream& stream, const Tensor& x, const PackedMatrix& w, const Tensor& bias, const Tensor& y,
                         const Tensor& kept);
void packed_product_gelu_backward(Stream& stream, const Tensor& dy, const PackedMatrix& w, const Tensor& kept,
                                  const Tensor& dx);
void matmul(Stream& stream, float alpha, const MatrixView& a, const MatrixView& b, bool accumulate,
            const MatrixView& c);
void matmul_transposed(Stream& stream, float alpha, const MatrixView& a, const MatrixView& b, bool accumulate,
                       const MatrixView& c);
void segment_products(Stream& stream, float alpha, const MatrixView& a, const MatrixView& b, const Tensor& offsets,
                      const Tensor& rows, const Tensor& out);
void transpose(Stream& stream, const Tensor& from, const MatrixView& to);
void make_forms(Stream& stream, std::span<const MatrixForms> matrices);

// layer_norm.h
void layer_norm(Stream& stream, const Tensor& x, const Tensor& residual, const LayerNormWeights& weights,
                const Tensor& y, const Tensor& y_bf16, const LayerNormSaved& saved, const Fp8Rows& y_fp8);
void layer_norm_backward(Stream& stream, const Tensor& dy, const LayerNormWeights& weights, const LayerNormSaved& saved,
                         const Tensor& dx, const Tensor& dx_bf16, const Fp8Rows& dx_fp8);

// loss.h
void cross_entropy(Stream& stream, const Tensor& logits, const Tensor& labels, const Tensor& losses,
                   const Tensor& d_logits);

// per_sample.h
void joint_squared_norms(Stream& stream, const PerSampleGradients& gradients, const Tensor& squared_norms);
// `bound` is the clip norm with its room for rounding.
void clip_factors(Stream& stream, const Tensor& squared_norms, double bound, ClippingRule rule, double stability,
                  const Tensor& factors);
void add_weighted_sum(Stream& stream, const PerSampleGradients& gradients, const Tensor& factors,
                      const std::vector<Tensor>& sums);
void axpy(Stream& stream, double a, const Tensor& x, const Tensor& y);
void add_scaled(Stream& stream, std::span<const ScaledAddition> additions);
void add_sum(Stream& stream, const Tensor& x, const Tensor& total);
void scale(Stream& stream, double a, const Tensor& x);
double squared_norm(Stream& stream, const std::vector<Tensor>& tensors);
void add_gaussian_noise(Stream& stream, double stddev, const std::uint32_t key[8], std::uint64_t stream_id,
                        std::uint64_t first_counter, const Tensor& y);
void add_count_below(Stream& stream, const Tensor& x, float limit, const Tensor& count);

// grid.h. `margin` as in detail/discrete_gaussian_margin.h.
void add_rounded_sum(Stream& stream, const PerSampleGradients& gradients, const Tensor& factors, double spacing,
                     const std::vector<Tensor>& sums);
void add_discrete_gaussian_noise(Stream& stream, int log2_stddev, std::span<const std::uint8_t, 32> key,
                                 std::uint64_t stream_id, std::uint64_t first_counter, const Tensor& y, double margin);
void scale_grid(Stream& stream, double a, const Tensor& grid, const Tensor& y);

// linalg.h. refactorize_batch leaves adapters that it does not serve untouched and returns their indices: those whose
// A is not orthonormal or whose elements are not finite, and shapes beyond its limits.
std::vector<std::size_t> refactorize_batch(Stream& stream, std::span<const Refactorization> adapters);

}  // namespace trib::kernels::cuda
