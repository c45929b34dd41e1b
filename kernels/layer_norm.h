// Layer normalization with the residual addition before it.
#pragma once

#include "kernels/fp8.h"

namespace trib::kernels {

struct LayerNormWeights {
  Tensor gamma, beta;  // (d) float32
  float epsilon = 1e-5f;
};

// What the backward pass needs; both undefined where none follows.
struct LayerNormSaved {
  Tensor normalized;          // x̂ (t, d) float32, on a GPU also bfloat16
  Tensor inverse_deviations;  // (t) float32
};

// y (t, d) float32 = gamma·x̂ + beta, x̂ the normalized rows of x + residual (residual may be undefined). y may be x.
// `y_bf16` (t, d) receives y in bfloat16 unless it is undefined, `y_fp8` likewise in FP8. On a GPU x and
// residual may be bfloat16.
void layer_norm(Stream& stream, const Tensor& x, const Tensor& residual, const LayerNormWeights& weights,
                const Tensor& y, const Tensor& y_bf16, const LayerNormSaved& saved, const Fp8Rows& y_fp8 = {});

// dx: the gradient at x (and at the residual) for the gradient dy at y; gamma and beta are frozen. dx may be dy.
void layer_norm_backward(Stream& stream, const Tensor& dy, const LayerNormWeights& weights, const LayerNormSaved& saved,
                         const Tensor& dx, const Tensor& dx_bf16, const Fp8Rows& dx_fp8 = {});

}  // namespace trib::kernels
