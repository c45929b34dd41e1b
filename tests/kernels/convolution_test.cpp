// Convolution and pooling against their definitions, in float64.
#include "kernels/convolution.h"

#include "tests/kernels/reference.h"

namespace trib::kernels {
namespace {

// The sum over a window, written out: picture i, output pixel (y, x), output channel o.
std::vector<double> naive_convolution(const std::vector<float>& x, const Windows& w, const std::vector<float>& weights,
                                      std::int64_t outputs) {
  std::vector<double> y;
  for (std::int64_t image = 0; image < w.images; ++image)
    for (std::int64_t top = -w.padding; top + w.window <= w.height + w.padding; top += w.stride)
      for (std::int64_t left = -w.padding; left + w.window <= w.width + w.padding; left += w.stride)
        for (std::int64_t o = 0; o < outputs; ++o) {
          double sum = 0;
          for (std::int64_t r = 0; r < w.window; ++r)
            for (std::int64_t c = 0; c < w.window; ++c)
              for (std::int64_t k = 0; k < w.channels; ++k) {
                const std::int64_t row = top + r, column = left + c;
                if (row < 0 || row >= w.height || column < 0 || column >= w.width) continue;
                const auto pixel = ((image * w.height + row) * w.width + column) * w.channels + k;
                const auto weight = ((r * w.window + c) * w.channels + k) * outputs + o;
                sum += double{x[static_cast<std::size_t>(pixel)]} * weights[static_cast<std::size_t>(weight)];
              }
          y.push_back(sum);
        }
  return y;
}

class Convolution : public testing::TestWithParam<Windows> {
 protected:
  std::unique_ptr<Stream> stream = cpu_device().make_stream();
};

TEST_P(Convolution, IsTheSumOverEachWindow) {
  const Windows& w = GetParam();
  const std::int64_t outputs = 5;
  const std::vector<float> x = random_floats(w.input_rows() * w.channels, 1),
                           weights = random_floats(w.window_size() * outputs, 2), bias = random_floats(outputs, 3);
  std::vector<double> expected = naive_convolution(x, w, weights, outputs);
  ASSERT_EQ(expected.size(), static_cast<std::size_t>(w.output_rows() * outputs));
  Workspace workspace(cpu_device());
  const Tensor y(cpu_device(), DType::f32, {w.output_rows(), outputs});
  const PackedMatrix packed(*stream, matrix(*stream, w.window_size(), outputs, weights), false, DType::f32);
  const Tensor input = matrix(*stream, w.input_rows(), w.channels, x),
               added = Tensor::from_host(*stream, std::span<const float>(bias));

  convolution(*stream, workspace, input, w, packed, {}, false, false, y);
  EXPECT_LT(relative_error(host(*stream, y), expected), 2e-6);

  convolution(*stream, workspace, input, w, packed, added, false, true, y);
  std::vector<double> rectified = expected;
  for (std::size_t i = 0; i < rectified.size(); ++i)
    rectified[i] = std::max(0.0, rectified[i] + bias[i % static_cast<std::size_t>(outputs)]);
  EXPECT_LT(relative_error(host(*stream, y), rectified), 2e-6);

  convolution(*stream, workspace, input, w, packed, added, true, false, y);
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += rectified[i];
  EXPECT_LT(relative_error(host(*stream, y), expected), 2e-6);
}

TEST_P(Convolution, IsFollowedByPoolsOfEachWindowAndPicture) {
  Windows w = GetParam();
  w.padding = 0;
  w.window = std::min<std::int64_t>({w.window, w.height, w.width});
  w.stride = std::min(w.stride, w.window);
  const std::vector<float> x = random_floats(w.input_rows() * w.channels, 4);
  const auto value = [&](std::int64_t image, std::int64_t row, std::int64_t column, std::int64_t channel) {
    return x[static_cast<std::size_t>(((image * w.height + row) * w.width + column) * w.channels + channel)];
  };
  std::vector<double> largest, mean;
  for (std::int64_t image = 0; image < w.images; ++image) {
    // A window starts inside of the picture, and the last one reaches its end.
    for (std::int64_t top = 0; top == 0 || top - w.stride + w.window < w.height; top += w.stride)
      for (std::int64_t left = 0; left == 0 || left - w.stride + w.window < w.width; left += w.stride)
        for (std::int64_t k = 0; k < w.channels; ++k) {
          double best = -1e30;
          for (std::int64_t r = top; r < std::min(top + w.window, w.height); ++r)
            for (std::int64_t c = left; c < std::min(left + w.window, w.width); ++c)
              best = std::max(best, double{value(image, r, c, k)});
          largest.push_back(best);
        }
    for (std::int64_t k = 0; k < w.channels; ++k) {
      double sum = 0;
      for (std::int64_t r = 0; r < w.height; ++r)
        for (std::int64_t c = 0; c < w.width; ++c) sum += value(image, r, c, k);
      mean.push_back(sum / static_cast<double>(w.height * w.width));
    }
  }
  const std::int64_t rows =
      w.images * pooled_size(w.height, w.window, w.stride) * pooled_size(w.width, w.window, w.stride);
  ASSERT_EQ(largest.size(), static_cast<std::size_t>(rows * w.channels));
  const Tensor input = matrix(*stream, w.input_rows(), w.channels, x),
               pooled(cpu_device(), DType::f32, {rows, w.channels}),
               means(cpu_device(), DType::f32, {w.images, w.channels});
  max_pool(*stream, input, w, pooled);
  EXPECT_EQ(relative_error(host(*stream, pooled), largest), 0.0);
  mean_pool(*stream, input, w.images, means);
  EXPECT_LT(relative_error(host(*stream, means), mean), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Of, Convolution,
                         testing::Values(Windows{2, 9, 7, 3, 3, 1, 1}, Windows{1, 23, 19, 3, 7, 2, 0},
                                         Windows{3, 8, 8, 16, 1, 1, 0}, Windows{1, 1, 1, 5, 1, 1, 0},
                                         Windows{2, 16, 16, 3, 8, 8, 0}, Windows{1, 5, 4, 33, 3, 2, 2},
                                         Windows{2, 20, 21, 17, 3, 1, 1}, Windows{1, 6, 7, 2, 3, 2, 0}),
                         [](const auto& info) {
                           const Windows& w = info.param;
                           return std::to_string(w.height) + "x" + std::to_string(w.width) + "x" +
                                  std::to_string(w.channels) + "By" + std::to_string(w.window) + "Step" +
                                  std::to_string(w.stride) + "Padding" + std::to_string(w.padding);
                         });

TEST(ConvolutionContracts, RefuseWhatDoesNotFit) {
  const auto stream = cpu_device().make_stream();
  Workspace workspace(cpu_device());
  const Windows w{1, 4, 4, 2, 3, 1, 1};
  const PackedMatrix weights(*stream, matrix(*stream, 18, 3, random_floats(54, 1)), false, DType::f32);
  const Tensor x(cpu_device(), DType::f32, {16, 2}), y(cpu_device(), DType::f32, {16, 3});
  const Tensor short_y(cpu_device(), DType::f32, {15, 3}), wide_x(cpu_device(), DType::f32, {16, 3});
  EXPECT_THROW(convolution(*stream, workspace, wide_x, w, weights, {}, false, false, y), std::invalid_argument);
  EXPECT_THROW(convolution(*stream, workspace, x, w, weights, {}, false, false, short_y), std::invalid_argument);
  Windows too_large = w;
  too_large.window = 7;
  EXPECT_THROW(convolution(*stream, workspace, x, too_large, weights, {}, false, false, y), std::invalid_argument);
  EXPECT_THROW(max_pool(*stream, x, w, y), std::invalid_argument);
}

}  // namespace
}  // namespace trib::kernels
