// What a convolution needs beside its product: windows gathered into rows, and pooling. One pass over memory each.
#include <cfloat>

#include "kernels/convolution.h"
#include "kernels/cuda/device_functions.cuh"
#include "kernels/cuda/operations.h"

namespace trib::kernels::cuda {
namespace {

constexpr int threads = 256;

struct Shape2 {
  std::int64_t height, width, channels, window, stride, padding, down, across;
};

Shape2 shape_of(const Windows& w, std::int64_t down, std::int64_t across) {
  return {w.height, w.width, w.channels, w.window, w.stride, w.padding, down, across};
}

// A block makes one row: the window of output row first + blockIdx.x. A line of a window is one piece of memory.
__global__ void __launch_bounds__(threads) gather_kernel(const float* x, Shape2 s, std::int64_t first, float* to) {
  const std::int64_t row = first + blockIdx.x;
  const std::int64_t image = row / (s.across * s.down), in_image = row % (s.across * s.down);
  const int top = static_cast<int>(in_image / s.across * s.stride - s.padding),
            left = static_cast<int>(in_image % s.across * s.stride - s.padding);
  const int line = static_cast<int>(s.window * s.channels), size = static_cast<int>(s.window) * line,
            channels = static_cast<int>(s.channels);
  const float* picture = x + image * s.height * s.width * s.channels;
  float* out = to + static_cast<std::int64_t>(blockIdx.x) * size;
  for (int i = threadIdx.x; i < size; i += threads) {
    const int y = top + i / line, in_line = i % line, column = left + in_line / channels;
    const bool inside = y >= 0 && y < s.height && column >= 0 && column < s.width;
    out[i] = inside ? picture[(y * s.width + left) * s.channels + in_line] : 0.0f;
  }
}

// A thread a value of y.
__global__ void __launch_bounds__(threads) max_kernel(const float* x, Shape2 s, std::int64_t count, float* y) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (i >= count) return;
  const std::int64_t channel = i % s.channels, row = i / s.channels;
  const std::int64_t column = row % s.across * s.stride, line = row / s.across % s.down * s.stride,
                     image = row / (s.across * s.down);
  const float* corner = x + ((image * s.height + line) * s.width + column) * s.channels + channel;
  const std::int64_t rows = min(s.window, s.height - line), columns = min(s.window, s.width - column);
  float best = -FLT_MAX;
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c) best = fmaxf(best, corner[(r * s.width + c) * s.channels]);
  y[i] = best;
}

// A warp sums 32 channels of a picture, each of its block's warps a share of the rows.
__global__ void __launch_bounds__(threads)
    mean_kernel(const float* x, int rows, int channels, float* y, std::int64_t stride) {
  __shared__ float sums[threads / 32][33];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, channel = blockIdx.y * 32 + lane;
  const float* picture = x + static_cast<std::int64_t>(blockIdx.x) * rows * channels;
  float sum = 0;
  if (channel < channels)
    for (int row = warp; row < rows; row += threads / 32)
      sum += picture[static_cast<std::int64_t>(row) * channels + channel];
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || channel >= channels) return;
  for (int other = 1; other < threads / 32; ++other) sum += sums[other][lane];
  y[blockIdx.x * stride + channel] = sum / static_cast<float>(rows);
}

__global__ void __launch_bounds__(threads) rectify_kernel(float* x, std::int64_t count) {
  const std::int64_t i = 4 * (static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x);
  if (i + 4 <= count) {
    float4& four = *reinterpret_cast<float4*>(x + i);
    four = {fmaxf(four.x, 0.0f), fmaxf(four.y, 0.0f), fmaxf(four.z, 0.0f), fmaxf(four.w, 0.0f)};
    return;
  }
  for (std::int64_t j = i; j < count; ++j) x[j] = fmaxf(x[j], 0.0f);
}

}  // namespace

void gather_windows(Stream& stream, const Tensor& x, const Windows& windows, std::int64_t first, const Tensor& to) {
  if (to.dim(0) == 0) return;
  gather_kernel<<<static_cast<unsigned>(to.dim(0)), threads, 0, handle(stream)>>>(
      RawAccess::data<float>(x), shape_of(windows, windows.output_height(), windows.output_width()), first,
      RawAccess::data<float>(to));
  check_launch("gather_windows");
}

void max_pool(Stream& stream, const Tensor& x, const Windows& windows, const Tensor& y) {
  const std::int64_t count = y.element_count();
  if (count == 0) return;
  max_kernel<<<blocks_for(count, threads), threads, 0, handle(stream)>>>(
      RawAccess::data<float>(x),
      shape_of(windows, pooled_size(windows.height, windows.window, windows.stride),
               pooled_size(windows.width, windows.window, windows.stride)),
      count, RawAccess::data<float>(y));
  check_launch("max_pool");
}

void mean_pool(Stream& stream, const Tensor& x, std::int64_t images, const MatrixView& y) {
  const dim3 grid(static_cast<unsigned>(images), blocks_for(x.dim(1), 32));
  mean_kernel<<<grid, threads, 0, handle(stream)>>>(RawAccess::data<float>(x), static_cast<int>(x.dim(0) / images),
                                                    static_cast<int>(x.dim(1)),
                                                    RawAccess::data<float>(y.tensor) + y.first_column, y.row_stride());
  check_launch("mean_pool");
}

void rectify(Stream& stream, const Tensor& x) {
  const std::int64_t count = x.element_count();
  if (count == 0) return;
  detail::require(reinterpret_cast<std::uintptr_t>(RawAccess::address(x)) % 16 == 0,
                  "rectify: a tensor that does not start at a multiple of 16 bytes");
  rectify_kernel<<<blocks_for(count, 4 * threads), threads, 0, handle(stream)>>>(RawAccess::data<float>(x), count);
  check_launch("rectify");
}

}  // namespace trib::kernels::cuda
