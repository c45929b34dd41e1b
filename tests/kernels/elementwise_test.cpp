#include "common/tensor_map.h"
#include "kernels/embedding.h"
#include "kernels/loss.h"
#include "tests/kernels/reference.h"

namespace trib::kernels {
namespace {

class Elementwise : public EachInstructionSet {};

std::vector<float> grid(double from, double to, std::size_t count) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i)
    values[i] = static_cast<float>(from + (to - from) * static_cast<double>(i) / static_cast<double>(count - 1));
  return values;
}

TEST_P(Elementwise, GeluAndItsDerivativeAgreeWithErf) {
  const auto x = grid(-12.0, 12.0, 100'003);
  std::vector<float> y(x.size()), derivative(x.size());
  simd().gelu(x.data(), {y.data()}, {derivative.data()}, 0, static_cast<std::int64_t>(x.size()));
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double v = x[i], cumulative = 0.5 * std::erfc(-v / std::sqrt(2.0));
    const double density = std::exp(-v * v / 2) / std::sqrt(2 * M_PI);
    ASSERT_NEAR(y[i], v * cumulative, 3e-7 * std::max(1.0, std::abs(v))) << "at " << v;
    ASSERT_NEAR(derivative[i], cumulative + v * density, 5e-7) << "at " << v;
  }
}

TEST_P(Elementwise, GeluKeepsItsRelativeAccuracyInTheLeftTail) {
  const auto x = grid(-8.0, -1.0, 10'000);
  std::vector<float> y(x.size());
  simd().gelu(x.data(), {y.data()}, {}, 0, static_cast<std::int64_t>(x.size()));
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double expected = x[i] * 0.5 * std::erfc(-static_cast<double>(x[i]) / std::sqrt(2.0));
    ASSERT_NEAR(y[i] / expected, 1.0, 1e-5) << "at " << x[i];
  }
}

TEST_P(Elementwise, TanhAgreesWithTheLibrary) {
  const auto x = grid(-20.0, 20.0, 50'001);
  std::vector<float> y(x.size());
  simd().tanh(x.data(), y.data(), 0, static_cast<std::int64_t>(x.size()));
  for (std::size_t i = 0; i < x.size(); ++i)
    ASSERT_NEAR(y[i], std::tanh(static_cast<double>(x[i])), 2e-7) << "at " << x[i];
}

TEST_P(Elementwise, TanhBackwardMultipliesByOneMinusTheSquare) {
  const auto y = random_floats(37, 1, 0.3f), dy = random_floats(37, 2);
  std::vector<float> dx(37);
  std::vector<double> expected(37);
  for (std::size_t i = 0; i < 37; ++i) expected[i] = dy[i] * (1.0 - static_cast<double>(y[i]) * y[i]);
  simd().tanh_backward(dy.data(), y.data(), dx.data(), 0, 37);
  EXPECT_LT(relative_error(dx, expected), 1e-6);
}

TEST_P(Elementwise, Bf16RoundsToNearestEvenAsTheHostDoes) {
  auto x = random_floats(1003, 1);
  x[0] = INFINITY;
  x[1] = -0.0f;
  x[2] = 1.0f + 0x1p-8f;            // a tie, to even: down
  x[3] = 1.0f + 0x1p-7f + 0x1p-8f;  // a tie, to even: up
  std::vector<std::uint16_t> y(x.size());
  simd().to_bf16(x.data(), y.data(), 0, static_cast<std::int64_t>(x.size()));
  for (std::size_t i = 0; i < x.size(); ++i) EXPECT_EQ(y[i], float_to_bfloat16(x[i])) << x[i];
  const float nan = NAN;
  std::uint16_t narrow = 0;
  simd().to_bf16(&nan, &narrow, 0, 1);
  EXPECT_TRUE(std::isnan(bfloat16_to_float(narrow)));
}

TEST_P(Elementwise, NarrowOutputsAreTheRoundedWideOnes) {
  const auto x = random_floats(77, 1), dy = random_floats(77, 2);
  std::vector<float> y(77), derivative(77), dx(77);
  std::vector<std::uint16_t> y_bf16(77), derivative_bf16(77), dx_bf16(77);
  simd().gelu(x.data(), {y.data()}, {derivative.data()}, 0, 77);
  simd().gelu(x.data(), {y_bf16.data(), true}, {derivative_bf16.data(), true}, 0, 77);
  simd().multiply(dy.data(), derivative_bf16.data(), true, {dx.data()}, 0, 77);
  simd().multiply(dy.data(), derivative_bf16.data(), true, {dx_bf16.data(), true}, 0, 77);
  for (std::size_t i = 0; i < 77; ++i) {
    EXPECT_EQ(y_bf16[i], float_to_bfloat16(y[i]));
    EXPECT_EQ(derivative_bf16[i], float_to_bfloat16(derivative[i]));
    EXPECT_EQ(dx[i], dy[i] * bfloat16_to_float(derivative_bf16[i]));
    EXPECT_EQ(dx_bf16[i], float_to_bfloat16(dx[i]));
  }
}

// ‖x‖², y += a·x and x *= a on lengths around the vector width.
TEST_P(Elementwise, SumsAndScalesEveryLength) {
  for (std::int64_t count : {1, 3, 15, 16, 17, 64, 100, 5000}) {
    auto x = random_floats(count, 1), y = random_floats(count, 2);
    double squares = 0;
    std::vector<double> sum, scaled;
    for (std::size_t i = 0; i < x.size(); ++i) {
      squares += static_cast<double>(x[i]) * x[i];
      sum.push_back(y[i] + 0.25 * x[i]);
      scaled.push_back(-3.0 * x[i]);
    }
    EXPECT_NEAR(simd().squared_norm(x.data(), 0, count) / squares, 1.0, 1e-6);
    simd().axpy(0.25f, x.data(), y.data(), 0, count);
    simd().scale(-3.0f, x.data(), 0, count);
    EXPECT_LT(relative_error(y, sum), 1e-6);
    EXPECT_LT(relative_error(x, scaled), 1e-6);
  }
}

struct NormReference {
  std::vector<double> y, normalized, inverse;
};
NormReference reference_norm(const std::vector<double>& h, const std::vector<float>& gamma,
                             const std::vector<float>& beta, std::size_t columns, double epsilon) {
  NormReference result;
  for (std::size_t row = 0; row * columns < h.size(); ++row) {
    double mean = 0, variance = 0;
    for (std::size_t j = 0; j < columns; ++j) mean += h[row * columns + j] / static_cast<double>(columns);
    for (std::size_t j = 0; j < columns; ++j)
      variance += std::pow(h[row * columns + j] - mean, 2) / static_cast<double>(columns);
    result.inverse.push_back(1 / std::sqrt(variance + epsilon));
    for (std::size_t j = 0; j < columns; ++j) {
      result.normalized.push_back((h[row * columns + j] - mean) * result.inverse.back());
      result.y.push_back(result.normalized.back() * gamma[j] + beta[j]);
    }
  }
  return result;
}

TEST_P(Elementwise, LayerNormAgreesWithFloat64) {
  for (std::int64_t columns : {8, 20, 64, 100, 256}) {
    const std::int64_t rows = 5;
    const auto x = random_floats(rows * columns, 1), residual = random_floats(rows * columns, 2);
    const auto gamma = random_floats(columns, 3), beta = random_floats(columns, 4);
    std::vector<double> h;
    for (std::size_t i = 0; i < x.size(); ++i) h.push_back(static_cast<double>(x[i]) + residual[i]);
    const NormReference expected = reference_norm(h, gamma, beta, static_cast<std::size_t>(columns), 1e-5);
    std::vector<float> y(x.size()), normalized(x.size()), inverse(static_cast<std::size_t>(rows));
    std::vector<std::uint16_t> narrow(x.size());
    simd().layer_norm({x.data(),
                       residual.data(),
                       gamma.data(),
                       beta.data(),
                       1e-5f,
                       y.data(),
                       {narrow.data(), true},
                       normalized.data(),
                       inverse.data(),
                       columns},
                      0, rows);
    EXPECT_LT(relative_error(y, expected.y), 2e-6);
    EXPECT_LT(relative_error(normalized, expected.normalized), 2e-6);
    EXPECT_LT(relative_error(inverse, expected.inverse), 2e-6);
    for (std::size_t i = 0; i < y.size(); ++i) EXPECT_EQ(narrow[i], float_to_bfloat16(y[i]));
  }
}

TEST_P(Elementwise, LayerNormBackwardAgreesWithFiniteDifferences) {
  const std::int64_t columns = 20;
  const auto x = random_floats(columns, 1), gamma = random_floats(columns, 2), dy = random_floats(columns, 3);
  const std::vector<float> beta(columns, 0.0f);
  const std::vector<double> h(x.begin(), x.end());
  const NormReference at = reference_norm(h, gamma, beta, columns, 1e-5);
  const std::vector<float> normalized(at.normalized.begin(), at.normalized.end()),
      inverse(at.inverse.begin(), at.inverse.end());
  std::vector<float> dx(columns);
  simd().layer_norm_backward({dy.data(), normalized.data(), inverse.data(), gamma.data(), dx.data(), {}, columns}, 0,
                             1);
  std::vector<double> expected(columns);
  const double step = 1e-6;
  for (std::size_t j = 0; j < columns; ++j) {
    for (double sign : {1.0, -1.0}) {
      std::vector<double> moved = h;
      moved[j] += sign * step;
      const NormReference there = reference_norm(moved, gamma, beta, columns, 1e-5);
      for (std::size_t i = 0; i < columns; ++i) expected[j] += sign * there.y[i] * dy[i] / (2 * step);
    }
  }
  EXPECT_LT(relative_error(dx, expected), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Cpu, Elementwise, testing::ValuesIn(cpu::simd_levels()), instruction_set_name);

TEST(CrossEntropy, GivesTheLossAndTheGradientOfTheSum) {
  auto stream = cpu_device().make_stream();
  const std::vector<float> logits = {1.0f,   -2.0f, 0.5f,
                                     200.0f, 0.0f,  -200.0f};  // the second row would overflow naively
  const Tensor losses(cpu_device(), DType::f32, {2}), gradient(cpu_device(), DType::f32, {2, 3});
  cross_entropy(*stream, matrix(*stream, 2, 3, logits), indices(*stream, {1, 1}), losses, gradient);
  const double total = std::exp(1.0) + std::exp(-2.0) + std::exp(0.5);
  const auto loss = host(*stream, losses), d = host(*stream, gradient);
  EXPECT_NEAR(loss[0], std::log(total) + 2.0, 1e-6);
  EXPECT_NEAR(loss[1], 200.0, 1e-4);
  EXPECT_NEAR(d[0], std::exp(1.0) / total, 1e-6);
  EXPECT_NEAR(d[1], std::exp(-2.0) / total - 1.0, 1e-6);
  EXPECT_NEAR(d[3], 1.0, 1e-6);
  EXPECT_NEAR(d[4], -1.0, 1e-6);
}

TEST(Rows, AreEmbeddedGatheredScatteredAndFilled) {
  auto stream = cpu_device().make_stream();
  const Tensor words = matrix(*stream, 3, 2, {0, 1, 10, 11, 20, 21}),
               places = matrix(*stream, 2, 2, {100, 100, 200, 200});
  const std::vector<float> shared = {0.5f, 0.25f};
  const Tensor y(cpu_device(), DType::f32, {2, 2});
  embed(*stream, indices(*stream, {2, 0}), words, indices(*stream, {0, 1}), places,
        Tensor::from_host(*stream, std::span<const float>(shared)), y);
  EXPECT_EQ(host(*stream, y), (std::vector<float>{120.5f, 121.25f, 200.5f, 201.25f}));

  const Tensor picked(cpu_device(), DType::f32, {2, 2});
  gather_rows(*stream, words, indices(*stream, {2, 1}), picked);
  EXPECT_EQ(host(*stream, picked), (std::vector<float>{20, 21, 10, 11}));
  const Tensor spread = Tensor::zeros(*stream, DType::f32, {3, 2});
  scatter_rows(*stream, picked, indices(*stream, {0, 2}), spread);
  scatter_add_rows(*stream, picked, indices(*stream, {2, 1}), spread);
  EXPECT_EQ(host(*stream, spread), (std::vector<float>{20, 21, 10, 11, 30, 32}));
  fill_rows(*stream, Tensor::from_host(*stream, std::span<const float>(shared)), picked);
  EXPECT_EQ(host(*stream, picked), (std::vector<float>{0.5f, 0.25f, 0.5f, 0.25f}));
}

}  // namespace
}  // namespace trib::kernels
