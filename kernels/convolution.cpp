#include "kernels/convolution.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/cpu/packed_matrix.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cuda/operations.h"
#include "kernels/detail/dispatch.h"
#include "kernels/detail/raw_access.h"

namespace trib::kernels {
namespace {

using detail::require;

// Rows of windows that are gathered and multiplied at once: what a core's cache holds beside the weights.
constexpr std::int64_t block_rows = 128;

// Is a window's content the input itself?
bool is_plain_product(const Windows& w) {
  return w.window == 1 && w.stride == 1 && w.padding == 0;
}

// Copies the windows of output rows [first, first + count) one below the other into `to`.
void gather_windows(const float* x, const Windows& w, std::int64_t first, std::int64_t count, float* to) {
  const std::int64_t across = w.output_width(), down = w.output_height(), line = w.window * w.channels;
  for (std::int64_t row = first; row < first + count; ++row) {
    const std::int64_t image = row / (across * down), in_image = row % (across * down);
    const std::int64_t top = in_image / across * w.stride - w.padding, left = in_image % across * w.stride - w.padding;
    const float* picture = x + image * w.height * w.width * w.channels;
    // Columns of the window that are inside of the picture.
    const std::int64_t begin = std::max<std::int64_t>(0, -left), end = std::min(w.window, w.width - left);
    for (std::int64_t y = top; y < top + w.window; ++y, to += line) {
      if (y < 0 || y >= w.height) {
        std::fill_n(to, line, 0.0f);
        continue;
      }
      std::fill_n(to, begin * w.channels, 0.0f);
      const float* from = picture + (y * w.width + left + begin) * w.channels;
      std::memcpy(to + begin * w.channels, from, static_cast<std::size_t>((end - begin) * w.channels) * sizeof(float));
      std::fill_n(to + end * w.channels, (w.window - end) * w.channels, 0.0f);
    }
  }
}

void convolution_on_cpu(const Tensor& x, const Windows& windows, const PackedMatrix& w, const Tensor& bias,
                        bool accumulate, bool rectified, const Tensor& y) {
  const auto& matrix = static_cast<const cpu::HostMatrix&>(w.impl());
  const float *from = RawAccess::data<float>(x), *added = bias.defined() ? RawAccess::data<float>(bias) : nullptr;
  float* to = RawAccess::data<float>(y);
  const std::int64_t size = windows.window_size(), outputs = w.output_size();
  const bool plain = is_plain_product(windows);
  cpu::parallel_for(windows.output_rows(), block_rows, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> gathered(plain ? 0 : static_cast<std::size_t>(block_rows * size));
    for (std::int64_t first = begin; first < end; first += block_rows) {
      const std::int64_t count = std::min(block_rows, end - first);
      if (!plain) gather_windows(from, windows, first, count, gathered.data());
      matrix.multiply(plain ? from + first * size : gathered.data(), added, accumulate, to + first * outputs, count);
      if (rectified) cpu::simd().rectify(to, first * outputs, (first + count) * outputs);
    }
  });
}

}  // namespace

std::int64_t pooled_size(std::int64_t size, std::int64_t window, std::int64_t stride) {
  return (size - window + stride - 1) / stride + 1;
}

void convolution(Stream& stream, Workspace& workspace, const Tensor& x, const Windows& windows, const PackedMatrix& w,
                 const Tensor& bias, bool accumulate, bool rectified, const Tensor& y) {
  require(windows.window >= 1 && windows.stride >= 1 && windows.padding >= 0 && windows.padding < windows.window &&
              windows.height + 2 * windows.padding >= windows.window &&
              windows.width + 2 * windows.padding >= windows.window,
          "convolution: the window does not fit into the picture");
  require(x.dtype() == DType::f32 && x.dim(0) == windows.input_rows() && x.dim(1) == windows.channels,
          "convolution: x does not fit");
  require(w.compute() == DType::f32 && w.format() == WeightFormat::dense && w.input_size() == windows.window_size(),
          "convolution: the weights do not fit");
  require(y.dtype() == DType::f32 && y.dim(0) == windows.output_rows() && y.dim(1) == w.output_size(),
          "convolution: y does not fit");
  require(!bias.defined() || (bias.dtype() == DType::f32 && bias.element_count() == w.output_size()),
          "convolution: bias does not fit");
  detail::dispatch(
      stream, [&] { convolution_on_cpu(x, windows, w, bias, accumulate, rectified, y); },
      [&] {
        if (is_plain_product(windows)) {
          packed_product(stream, x, w, bias, accumulate, y);
        } else {
          // Windows of as many rows at once as 256 MiB hold.
          const std::int64_t rows = windows.output_rows(), size = windows.window_size();
          const std::int64_t at_once = std::clamp<std::int64_t>((std::int64_t{1} << 26) / size, 1, rows);
          const Workspace::Scope scope(workspace);
          const Tensor gathered = workspace.take(DType::f32, {at_once, size});
          for (std::int64_t first = 0; first < rows; first += at_once) {
            const std::int64_t count = std::min(at_once, rows - first);
            cuda::gather_windows(stream, x, windows, first, gathered.rows(0, count));
            packed_product(stream, gathered.rows(0, count), w, bias, accumulate, y.rows(first, count));
          }
        }
        if (rectified) cuda::rectify(stream, y);
      });
}

void max_pool(Stream& stream, const Tensor& x, const Windows& windows, const Tensor& y) {
  const std::int64_t down = pooled_size(windows.height, windows.window, windows.stride),
                     across = pooled_size(windows.width, windows.window, windows.stride);
  require(windows.padding == 0 && windows.window >= 1 && windows.stride >= 1 && windows.stride <= windows.window &&
              windows.height >= windows.window && windows.width >= windows.window,
          "max_pool: the windows do not fit into the picture");
  require(x.dtype() == DType::f32 && x.dim(0) == windows.input_rows() && x.dim(1) == windows.channels,
          "max_pool: x does not fit");
  require(y.dtype() == DType::f32 && y.dim(0) == windows.images * down * across && y.dim(1) == windows.channels,
          "max_pool: y does not fit");
  detail::dispatch(
      stream,
      [&] {
        const float* from = RawAccess::data<float>(x);
        float* to = RawAccess::data<float>(y);
        const std::int64_t c = windows.channels;
        cpu::parallel_for(windows.images * down, 1, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t line = begin; line < end; ++line) {
            const std::int64_t image = line / down, top = line % down * windows.stride;
            const std::int64_t rows = std::min(windows.window, windows.height - top);
            for (std::int64_t column = 0; column < across; ++column) {
              const std::int64_t left = column * windows.stride, count = std::min(windows.window, windows.width - left);
              const float* corner = from + ((image * windows.height + top) * windows.width + left) * c;
              cpu::simd().largest(corner, c, count, windows.width * c, rows, to + (line * across + column) * c);
            }
          }
        });
      },
      [&] { cuda::max_pool(stream, x, windows, y); });
}

void mean_pool(Stream& stream, const Tensor& x, std::int64_t images, const MatrixView& y) {
  require(images > 0 && x.dtype() == DType::f32 && x.dim(0) % images == 0, "mean_pool: x does not fit");
  require(y.tensor.dtype() == DType::f32 && y.rows() == images && y.columns == x.dim(1), "mean_pool: y does not fit");
  const std::int64_t rows = x.dim(0) / images, c = x.dim(1);
  detail::dispatch(
      stream,
      [&] {
        const std::vector<float> weights(static_cast<std::size_t>(rows), 1.0f / static_cast<float>(rows));
        const float* from = RawAccess::data<float>(x);
        float* to = RawAccess::data<float>(y.tensor) + y.first_column;
        cpu::parallel_for(images, 1, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t i = begin; i < end; ++i)
            cpu::simd().matmul(1.0f, weights.data(), rows, from + i * rows * c, c, to + i * y.row_stride(), c, 1, c,
                               rows, false);
        });
      },
      [&] { cuda::mean_pool(stream, x, images, y); });
}

}  // namespace trib::kernels
