// Activations and conversions, elementwise.
#pragma once

#include "kernels/tensor.h"

namespace trib::kernels {

// y = x·Φ(x), the exact (erf) GELU. x float32 (on a GPU also bfloat16, and y may be x); y float32 or bfloat16. `kept`
// (float32 or bfloat16, or undefined) receives what gelu_backward() needs, and x need not be kept: the derivative
// Φ(x) + x·φ(x) on the CPU; x on a GPU, which is quicker at making the derivative again than at reading it in float32.
void gelu(Stream& stream, const Tensor& x, const Tensor& y, const Tensor& kept);
// Whether `kept` is x itself on this device, so that one tensor may be both.
bool gelu_keeps_input(Device& device);
// dx = dy·(Φ(x) + x·φ(x)). dy float32 (on a GPU also bfloat16); dx float32 (may be dy) or bfloat16.
void gelu_backward(Stream& stream, const Tensor& dy, const Tensor& kept, const Tensor& dx);

// y = tanh x; y may be x. float32.
void tanh(Stream& stream, const Tensor& x, const Tensor& y);
// dx = dy·(1 − y²); dx may be dy.
void tanh_backward(Stream& stream, const Tensor& dy, const Tensor& y, const Tensor& dx);

// y (bfloat16) = x (float32), rounded to nearest even.
void to_bf16(Stream& stream, const Tensor& x, const Tensor& y);

}  // namespace trib::kernels
