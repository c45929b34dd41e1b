// Softmax cross-entropy.
#pragma once

#include "kernels/tensor.h"

namespace trib::kernels {

// losses[i] (n) float32 = −log softmax(logits_i)[labels[i]], in float64 inside; d_logits (n, classes) float32 =
// softmax(logits_i) − onehot(labels[i]): the gradient of the *sum* of the losses. labels (n) int32, in range, or
// -1 in a row that does not count: its loss and its gradient are 0.
void cross_entropy(Stream& stream, const Tensor& logits, const Tensor& labels, const Tensor& losses,
                   const Tensor& d_logits);

}  // namespace trib::kernels
