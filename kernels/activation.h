// Activations and conversions, elementwise.
#pragma once

#include "kernels/tensor.h"

namespace trib::kernels {

// y = x·Φ(x), the exact (erf) GELU. x float32; y float32 or bfloat16. `derivative` (float32 or bfloat16, or undefined)
// receives Φ(x) + x·φ(x), which is all the backward pass needs: x itself need not be kept.
void gelu(Stream& stream, const Tensor& x, const Tensor& y, const Tensor& derivative);
// dx = dy·derivative. dy float32; dx float32 (may be dy) or bfloat16.
void gelu_backward(Stream& stream, const Tensor& dy, const Tensor& derivative, const Tensor& dx);

// y = tanh x; y may be x. float32.
void tanh(Stream& stream, const Tensor& x, const Tensor& y);
// dx = dy·(1 − y²); dx may be dy.
void tanh_backward(Stream& stream, const Tensor& dy, const Tensor& y, const Tensor& dx);

// y (bfloat16) = x (float32), rounded to nearest even.
void to_bf16(Stream& stream, const Tensor& x, const Tensor& y);

}  // namespace trib::kernels
