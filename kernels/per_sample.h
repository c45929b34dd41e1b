// Per-sample gradients and what DP-SGD does with them: joint norms, clip factors, weighted sums.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "kernels/tensor.h"

namespace trib::kernels {

// The gradients of one trained tensor for each of N samples, in one of three forms.
struct PerSampleGradient {
  std::string name;  // the trained tensor's
  Shape shape;       // the trained tensor's shape; d elements
  // Materialized: values is (N, d) float32, row i the gradient of sample i. For LoRA's B (facts: m·r floats a sample).
  Tensor values;
  // Or an outer product: the gradient of sample i is output_grads[i] ⊗ inputs[i], output_grads (N, p), inputs (N, q),
  // shape (p, q). For a dense layer that sees one token a sample; ‖gradient‖ = ‖output_grads[i]‖·‖inputs[i]‖.
  Tensor output_grads, inputs;
  bool is_outer_product() const { return output_grads.defined(); }
  // Or rows of a table, shape (n, q), of which a sample looks up few: values (R, q) holds the rows in which the
  // gradient is not zero, sample by sample, rows (R) int32 says which of the table's they are, ascending within a
  // sample, and sample i has those from row_ends[i − 1] (0 for the first) to row_ends[i]; row_ends (N) int64.
  Tensor rows = {}, row_ends = {};
  bool is_rows() const { return rows.defined(); }
};

// All trained tensors of one micro-batch of N samples, in the order of the parameters they belong to.
struct PerSampleGradients {
  std::int64_t sample_count = 0;
  std::vector<PerSampleGradient> tensors;
  Tensor losses = {};  // (N) float32, or undefined where nobody asks for them
};

// The same gradients, with whole tables in place of rows of them.
PerSampleGradients with_whole_tables(Stream& stream, const PerSampleGradients& gradients);

// squared_norms[i] = Σ over tensors ‖gradient of sample i‖², float32 (N). The numbers that are squared are the numbers
// that weighted_sum() adds.
void joint_squared_norms(Stream& stream, const PerSampleGradients& gradients, const Tensor& squared_norms);

enum class ClippingRule {
  flat,       // min(1, C/‖g‖)
  automatic,  // C/(‖g‖ + stability): Bu et al. 2023 (AUTO-S)
};

// factors[i] (N): what sample i's gradient is multiplied with so that its norm is at most clip_norm·(1 − 1e-5).
// A non-finite norm gives factor 0: the record is left out, which clipping allows.
void clip_factors(Stream& stream, const Tensor& squared_norms, double clip_norm, ClippingRule rule, double stability,
                  const Tensor& factors);

// count += how many of x (float32) are below `limit`; count: one int64.
void add_count_below(Stream& stream, const Tensor& x, float limit, const Tensor& count);

// sums[t] += Σ_i factors[i] · gradient_i of tensor t; sums[t] has tensors[t].shape, float32.
void add_weighted_sum(Stream& stream, const PerSampleGradients& gradients, const Tensor& factors,
                      const std::vector<Tensor>& sums);

// y += a·x, elementwise over float32 tensors of equal size.
void axpy(Stream& stream, double a, const Tensor& x, const Tensor& y);
// The same for several pairs of float32 tensors at once.
struct ScaledAddition {
  double a;
  Tensor x, y;
};
void add_scaled(Stream& stream, std::span<const ScaledAddition> additions);
// total += Σ x in float64, in an order that depends on the number of elements alone: x float32, total one float64.
void add_sum(Stream& stream, const Tensor& x, const Tensor& total);
void scale(Stream& stream, double a, const Tensor& x);
// ‖x‖² over several tensors, in float64.
double squared_norm(Stream& stream, const std::vector<Tensor>& tensors);

// y += stddev · N(0, I), from the ChaCha20 keystream (key, stream id), block counters from `first_counter`: Box–Muller
// on 53-bit uniforms in float64, rounded to float32 once. Returns the first unused counter. The caller never repeats a
// (key, stream id, counter).
std::uint64_t add_gaussian_noise(Stream& stream, double stddev, std::span<const std::uint8_t, 32> key,
                                 std::uint64_t stream_id, std::uint64_t first_counter, const Tensor& y);

}  // namespace trib::kernels
