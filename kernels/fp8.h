// Products of frozen weights in FP8: both factors in e4m3 with a float32 scale for each row of tokens and each output
// channel, sums in float32. Activations are quantized where they are made.
//
// A GPU runs them on its FP8 tensor cores (supports_format() says whether it has them); the CPU computes the same
// function in float32 from the same rounded numbers, at the speed of fp32 at best: it is the oracle for tests, and lets
// a machine without a GPU take part in a job in FP8.
#pragma once

#include "kernels/gemm.h"

namespace trib::kernels {

// A matrix in e4m3: element (i, j) is scales[i]·codes[i][j]. A row's scale is its largest magnitude over 448.
struct Fp8Rows {
  Tensor codes;   // (t, k) u8
  Tensor scales;  // (t) float32
  Tensor norms;   // (t) float32 or undefined: of each row before it was rounded, for a nearer bound of its products

  Fp8Rows() = default;
  Fp8Rows(Tensor row_codes, Tensor row_scales) : codes(std::move(row_codes)), scales(std::move(row_scales)) {}
  Fp8Rows(Device& device, std::int64_t rows, std::int64_t columns)
      : codes(device, DType::u8, {rows, columns}), scales(device, DType::f32, {rows}) {}
  static Fp8Rows take(Workspace& workspace, std::int64_t rows, std::int64_t columns, bool with_norms = false) {
    Fp8Rows taken(workspace.take(DType::u8, {rows, columns}), workspace.take(DType::f32, {rows}));
    if (with_norms) taken.norms = workspace.take(DType::f32, {rows});
    return taken;
  }
  bool defined() const { return codes.defined(); }
};

// The type of tensors beside Fp8Rows: what fp8_product() gives and what is rounded to e4m3. float32 on the CPU,
// bfloat16 on a GPU.
DType fp8_companion_type(Device& device);

// y = x (t, k), float32 (on a GPU also bfloat16). A NaN stays one; an infinity makes
// NaNs of its row.
void quantize_rows(Stream& stream, const Tensor& x, const Fp8Rows& y);
// y (t, k) float32 = x.
void dequantize_rows(Stream& stream, const Fp8Rows& x, const Tensor& y);

// gelu() and gelu_backward() (activation.h) whose result is wanted in FP8: `rows` receives it beside y or dx, which may
// be undefined, and may be x and dy. On a GPU it is the tanh form, at most 1e-3 from the erf form, a sixtieth of an
// e4m3 step at 1. Where gelu_keeps_input(), `kept` may be x.
void gelu_fp8(Stream& stream, const Tensor& x, const Tensor& y, const Fp8Rows& rows, const Tensor& kept);
void gelu_backward_fp8(Stream& stream, const Tensor& dy, const Tensor& kept, const Tensor& dx, const Fp8Rows& rows);

// y (t, n) = x·w + bias, or y += x·w if `accumulate`. w in WeightFormat::fp8; y in the companion type or float32; bias
// (n) of y's type may be undefined and is ignored with `accumulate`.
void fp8_product(Stream& stream, const Fp8Rows& x, const PackedMatrix& w, const Tensor& bias, bool accumulate,
                 const Tensor& y);

// rows (t, n) = gelu(x·w + bias) in FP8; `kept` as in gelu(), or undefined. And the way back: rows = (dy·w)·gelu'(x), w
// the matrix behind the gelu. `before` (t, n) of the companion type is scratch; forward, where gelu_keeps_input(), it
// may be `kept`. A GPU of compute capability 9.0 does each in one kernel, with scales that bound a row instead of its
// largest magnitude over 448: what is left of them is as far from what it stands for, down to about 2^-8 of the row's
// largest.
void fp8_product_gelu(Stream& stream, const Fp8Rows& x, const PackedMatrix& w, const Tensor& bias, const Tensor& before,
                      const Fp8Rows& rows, const Tensor& kept);
void fp8_product_gelu_backward(Stream& stream, const Fp8Rows& dy, const PackedMatrix& w, const Tensor& kept,
                               const Tensor& before, const Fp8Rows& rows);

}  // namespace trib::kernels
