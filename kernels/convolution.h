// Convolution and pooling over pictures whose channels lie beside each other: a picture of height h and width w is h·w
// rows of a matrix, row by row of the picture, and its channels are the columns; a batch is its pictures one below the
// other. So a convolution is a packed_product() of windows, and one of 1×1 is a product as it stands.
#pragma once

#include "kernels/gemm.h"

namespace trib::kernels {

// Square windows of `window` pixels, `stride` apart, over `images` pictures with `padding` pixels of zeros around each.
struct Windows {
  std::int64_t images = 0, height = 0, width = 0, channels = 0;
  std::int64_t window = 1, stride = 1, padding = 0;

  std::int64_t output_height() const { return (height + 2 * padding - window) / stride + 1; }
  std::int64_t output_width() const { return (width + 2 * padding - window) / stride + 1; }
  std::int64_t input_rows() const { return images * height * width; }
  std::int64_t output_rows() const { return images * output_height() * output_width(); }
  std::int64_t window_size() const { return window * window * channels; }
};

// y (output rows, n) = x∗w + bias (n), with max(·, 0) of it if `rectified`. x (input rows, channels) float32. w has
// (window_size, n) weights in float32, those of one output in the order (y, x, channel). `workspace` lends scratch.
// With `accumulate` the sum is added to what y holds, and the bias is ignored.
void convolution(Stream& stream, Workspace& workspace, const Tensor& x, const Windows& windows, const PackedMatrix& w,
                 const Tensor& bias, bool accumulate, bool rectified, const Tensor& y);

// y (output rows of a picture that is rounded up, channels): the largest value of each window. No padding, but windows
// may end outside of the picture ("ceil mode"): y has ceil((height − window) / stride) + 1 rows a picture, and columns
// likewise.
void max_pool(Stream& stream, const Tensor& x, const Windows& windows, const Tensor& y);
std::int64_t pooled_size(std::int64_t size, std::int64_t window, std::int64_t stride);

// y (images, channels) = the mean of each picture's rows.
void mean_pool(Stream& stream, const Tensor& x, std::int64_t images, const MatrixView& y);

}  // namespace trib::kernels
