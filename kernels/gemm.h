// Matrix products: large ones with frozen weights, and small or thin ones.
#pragma once

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "kernels/matrix_view.h"

namespace trib::kernels {

// How a frozen matrix is stored. `fp8`: e4m3 with a scale for each output, for fp8_product() (fp8.h). `int8` and
// `int4`: quantized_weights.h, brought back to bfloat16 inside the product.
enum class WeightFormat { dense, fp8, int8, int4 };
// How float32 factors are multiplied: as they are, or rounded to tf32 (10 bits behind the point) for tensor cores, with
// sums in float32, where the device has such (supports_tf32); elsewhere that is `exact`.
enum class Float32Products { exact, tf32 };
bool supports_tf32(Device& device);

// A frozen matrix in the form that the device's fastest product wants. Cheap to copy (shared).
class PackedMatrix {
 public:
  PackedMatrix() = default;
  // Packs the (k, n) matrix `weights`, or its transpose if `transposed` ((n, k) given), float32. `compute` is f32, or
  // bf16: factors rounded to bfloat16, products added in float32. supports_compute() says whether this machine can.
  PackedMatrix(Stream& stream, const Tensor& weights, bool transposed, DType compute,
               Float32Products products = Float32Products::exact);
  // For x·weightsᵀ and for dy·weights, weights (out, in): a linear layer's forward and backward products. One copy
  // serves both where the device allows; in FP8, whose products want both factors along the sum, each has its own, with
  // scales of its own outputs. supports_format() says whether this machine can. `products` counts for dense matrices
  // in f32 alone.
  static std::pair<PackedMatrix, PackedMatrix> both_ways(Stream& stream, const Tensor& weights, DType compute,
                                                         WeightFormat format = WeightFormat::dense,
                                                         Float32Products products = Float32Products::exact);

  bool defined() const { return impl_ != nullptr; }
  std::int64_t input_size() const;   // k
  std::int64_t output_size() const;  // n
  DType compute() const;
  WeightFormat format() const;

  struct Impl;
  const Impl& impl() const { return *impl_; }

 private:
  static PackedMatrix fp8(Stream& stream, const Tensor& weights, bool reversed);
  static std::pair<PackedMatrix, PackedMatrix> quantized(Stream& stream, const Tensor& weights, DType compute,
                                                         WeightFormat format);

  std::shared_ptr<const Impl> impl_;
};

// Ok, or why products in `compute` cannot run here.
Status supports_compute(Device& device, DType compute);
// Ok, or why this device has no products with weights in `format`, and what to set instead.
Status supports_format(Device& device, WeightFormat format);

// y (t, n) = x·w + bias, or y += x·w if `accumulate`. x (t, k) has w's compute type; y is float32 or what
// activation_types() calls products. bias (n) in y's type may be undefined, and is ignored with `accumulate`.
void packed_product(Stream& stream, const Tensor& x, const PackedMatrix& w, const Tensor& bias, bool accumulate,
                    const Tensor& y);

// y (t, n) = gelu(x·w + bias); `kept` as in gelu(). `before` (t, n) float32 is scratch for devices that need the sum in
// memory, and undefined where activation_types() has narrow products. There, in bfloat16, the product's own epilogue
// makes gelu's tanh form: at most 5e-4 from the erf form, an eighth of bfloat16's step at that place.
void packed_product_gelu(Stream& stream, const Tensor& x, const PackedMatrix& w, const Tensor& bias,
                         const Tensor& before, const Tensor& y, const Tensor& kept);
// dx (t, k) = (dy·w)·gelu'(x), w the matrix behind the activation and `kept` from packed_product_gelu(). `before` as
// there.
void packed_product_gelu_backward(Stream& stream, const Tensor& dy, const PackedMatrix& w, const Tensor& kept,
                                  const Tensor& before, const Tensor& dx);

// c (m, n) = alpha·a·b, or += if `accumulate`; float32, on a GPU also bfloat16 (a and b of one type). For thin factors
// such as LoRA's.
void matmul(Stream& stream, float alpha, const MatrixView& a, const MatrixView& b, bool accumulate,
            const MatrixView& c);
// c (m, n) = alpha·aᵀ·b, a (t, m), b (t, n).
void matmul_transposed(Stream& stream, float alpha, const MatrixView& a, const MatrixView& b, bool accumulate,
                       const MatrixView& c);

// Row rows[i] of out (an m×n matrix, flattened) = alpha·a_iᵀ·b_i, where a_i and b_i are the rows offsets[i] …
// offsets[i+1] of a (t, m) and b (t, n): the per-sample gradient of a linear layer. offsets (count + 1) and rows
// (count, distinct) int32; out (·, m·n) float32.
void segment_products(Stream& stream, float alpha, const MatrixView& a, const MatrixView& b, const Tensor& offsets,
                      const Tensor& rows, const Tensor& out);

// What the backward pass of one adapter y = alpha·u·bᵀ needs of dy (t, m): the per-sample gradients of b, and the
// gradient at u.
struct AdapterGradient {
  MatrixView dy, u;  // (t, m), (t, r)
  Tensor b;          // (m, r), of dy's type
  Tensor out;        // (·, m·r) float32: row rows[i] = alpha·dy_iᵀ·u_i, as segment_products() gives it
  MatrixView du;     // (t, r) = alpha·dy·b, or undefined
};
// For several adapters of one layer in one pass over dy. offsets and rows as in segment_products().
void adapter_gradients(Stream& stream, float alpha, const std::vector<AdapterGradient>& adapters, const Tensor& offsets,
                       const Tensor& rows);

// Forms of a small float32 matrix `from` (m, n) that products take: transposed (n, m), and, where it is defined, a copy
// (m, n). On a GPU they may be bfloat16.
struct MatrixForms {
  Tensor from, transposed, copy;
};
// Brings the forms of all of them up to date at once.
void make_forms(Stream& stream, std::span<const MatrixForms> matrices);

// to (n, m) = fromᵀ, from (m, n) float32; on a GPU `to` may be bfloat16.
void transpose(Stream& stream, const Tensor& from, const MatrixView& to);

}  // namespace trib::kernels
