#include "kernels/per_sample.h"

#include "kernels/grid.h"
#include "tests/kernels/reference.h"

namespace trib::kernels {
namespace {

constexpr std::int64_t samples = 5;

PerSampleGradient materialized(const std::string& name, Shape shape, const Tensor& values) {
  PerSampleGradient gradient;
  gradient.name = name;
  gradient.shape = std::move(shape);
  gradient.values = values;
  return gradient;
}
PerSampleGradient outer_product(const std::string& name, const Tensor& output_grads, const Tensor& inputs) {
  PerSampleGradient gradient;
  gradient.name = name;
  gradient.shape = {output_grads.dim(1), inputs.dim(1)};
  gradient.output_grads = output_grads;
  gradient.inputs = inputs;
  return gradient;
}

// One materialized tensor (6, 8) and one outer product (3, 7), for 5 samples.
PerSampleGradients some_gradients(Stream& stream) {
  PerSampleGradients gradients;
  gradients.sample_count = samples;
  gradients.tensors.push_back(materialized("b", {6, 8}, matrix(stream, samples, 48, random_floats(samples * 48, 1))));
  gradients.tensors.push_back(outer_product("w", matrix(stream, samples, 3, random_floats(samples * 3, 2)),
                                            matrix(stream, samples, 7, random_floats(samples * 7, 3))));
  return gradients;
}

// All of one sample's gradient, materialized.
std::vector<double> sample_gradient(Stream& stream, const PerSampleGradients& gradients, std::int64_t sample) {
  std::vector<double> result;
  for (const PerSampleGradient& gradient : gradients.tensors) {
    if (!gradient.is_outer_product()) {
      for (float value : host(stream, gradient.values.rows(sample, 1))) result.push_back(value);
      continue;
    }
    for (float g : host(stream, gradient.output_grads.rows(sample, 1)))
      for (float x : host(stream, gradient.inputs.rows(sample, 1))) result.push_back(static_cast<double>(g) * x);
  }
  return result;
}

TEST(PerSample, NormsAreJointOverAllTensorsAndBothForms) {
  auto stream = cpu_device().make_stream();
  const PerSampleGradients gradients = some_gradients(*stream);
  const Tensor norms(cpu_device(), DType::f32, {samples});
  joint_squared_norms(*stream, gradients, norms);
  const auto actual = host(*stream, norms);
  for (std::int64_t i = 0; i < samples; ++i) {
    double expected = 0;
    for (double value : sample_gradient(*stream, gradients, i)) expected += value * value;
    EXPECT_NEAR(actual[static_cast<std::size_t>(i)] / expected, 1.0, 1e-6);
  }
}

TEST(PerSample, AClippedGradientIsNeverLongerThanTheClipNorm) {
  auto stream = cpu_device().make_stream();
  const PerSampleGradients gradients = some_gradients(*stream);
  for (double clip_norm : {1e-3, 0.5, 3.0, 1e3})
    for (ClippingRule rule : {ClippingRule::flat, ClippingRule::automatic}) {
      const Tensor norms(cpu_device(), DType::f32, {samples}), factors(cpu_device(), DType::f32, {samples});
      joint_squared_norms(*stream, gradients, norms);
      clip_factors(*stream, norms, clip_norm, rule, 0.01, factors);
      for (std::int64_t i = 0; i < samples; ++i) {
        // The sum over this sample alone is its clipped gradient, as it will be added.
        PerSampleGradients one;
        one.sample_count = 1;
        for (PerSampleGradient gradient : gradients.tensors) {
          for (Tensor* part : {&gradient.values, &gradient.output_grads, &gradient.inputs})
            if (part->defined()) *part = part->rows(i, 1);
          one.tensors.push_back(gradient);
        }
        const std::vector<Tensor> sums = {Tensor::zeros(*stream, DType::f32, {6, 8}),
                                          Tensor::zeros(*stream, DType::f32, {3, 7})};
        add_weighted_sum(*stream, one, factors.rows(i, 1), sums);
        EXPECT_LE(std::sqrt(squared_norm(*stream, sums)), clip_norm);
      }
    }
}

// Rows of a table (9, `columns`) for 4 samples: some, none, all, the last.
PerSampleGradient some_rows(Stream& stream, std::int64_t columns) {
  const std::vector<std::int32_t> rows = {1, 2, 7, 0, 1, 2, 3, 4, 5, 6, 7, 8, 8};
  const std::vector<std::int64_t> ends = {3, 3, 12, 13};
  PerSampleGradient gradient = materialized(
      "table", {9, columns}, matrix(stream, 13, columns, random_floats(13 * static_cast<unsigned>(columns), 5)));
  gradient.rows = Tensor::from_host(stream, std::span<const std::int32_t>(rows));
  gradient.row_ends = Tensor::from_host(stream, std::span<const std::int64_t>(ends));
  return gradient;
}

TEST(PerSample, RowsOfATableAreTheTableWithZerosElsewhere) {
  auto stream = cpu_device().make_stream();
  for (const std::int64_t columns : {64, 16, 3}) {
    PerSampleGradients rows{.sample_count = 4, .tensors = {}};
    rows.tensors.push_back(some_rows(*stream, columns));
    const PerSampleGradients whole = with_whole_tables(*stream, rows);
    ASSERT_FALSE(whole.tensors[0].is_rows());
    const auto values = host(*stream, rows.tensors[0].values), table = host(*stream, whole.tensors[0].values);
    const auto width = static_cast<std::size_t>(columns);
    ASSERT_EQ(table.size(), 4 * 9 * width);
    EXPECT_EQ(std::ranges::count(table, 0.0f), static_cast<std::ptrdiff_t>((4 * 9 - 13) * width));
    for (std::size_t j = 0; j < width; ++j) {
      EXPECT_EQ(table[7 * width + j], values[2 * width + j]);          // the first sample's row 7
      EXPECT_EQ(table[(18 + 4) * width + j], values[7 * width + j]);   // the third's row 4
      EXPECT_EQ(table[(27 + 8) * width + j], values[12 * width + j]);  // the last's row 8
    }

    const Tensor norms(cpu_device(), DType::f32, {4}), whole_norms(cpu_device(), DType::f32, {4});
    joint_squared_norms(*stream, rows, norms);
    joint_squared_norms(*stream, whole, whole_norms);
    const auto actual = host(*stream, norms), expected = host(*stream, whole_norms);
    for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(actual[i], expected[i], 1e-6 * expected[i]);
    if (columns == 64) {
      EXPECT_EQ(actual, expected);
    }

    const std::vector<float> factors = {0.5f, 2.0f, -1.0f, 0.25f};
    const Tensor factor = Tensor::from_host(*stream, std::span<const float>(factors));
    const std::vector<Tensor> sums = {Tensor::zeros(*stream, DType::f32, {9, columns})},
                              whole_sums = {Tensor::zeros(*stream, DType::f32, {9, columns})},
                              grid = {Tensor::zeros(*stream, DType::i64, {9, columns})},
                              whole_grid = {Tensor::zeros(*stream, DType::i64, {9, columns})};
    add_weighted_sum(*stream, rows, factor, sums);
    add_weighted_sum(*stream, whole, factor, whole_sums);
    EXPECT_EQ(host(*stream, sums[0]), host(*stream, whole_sums[0]));
    add_rounded_sum(*stream, rows, factor, 1e-4, grid);
    add_rounded_sum(*stream, whole, factor, 1e-4, whole_grid);
    EXPECT_TRUE(std::ranges::equal(grid[0].to_host(*stream).as<std::int64_t>(),
                                   whole_grid[0].to_host(*stream).as<std::int64_t>()));
  }
}

TEST(PerSample, RowsOutsideOfTheirTableOrOutOfOrderAreABug) {
  auto stream = cpu_device().make_stream();
  const Tensor norms(cpu_device(), DType::f32, {4});
  const auto refuses = [&](const std::vector<std::int32_t>& rows, const std::vector<std::int64_t>& ends) {
    PerSampleGradients gradients{.sample_count = 4, .tensors = {some_rows(*stream, 16)}};
    gradients.tensors[0].rows = Tensor::from_host(*stream, std::span<const std::int32_t>(rows));
    gradients.tensors[0].row_ends = Tensor::from_host(*stream, std::span<const std::int64_t>(ends));
    EXPECT_THROW(joint_squared_norms(*stream, gradients, norms), std::invalid_argument);
  };
  refuses({1, 2, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 8}, {3, 3, 12, 13});  // there are 9
  refuses({1, 2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 8}, {3, 3, 12, 13});
  refuses({1, 2, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8, 8}, {3, 3, 12, 13});  // twice
  refuses({1, 2, 7, 0, 1, 2, 3, 4, 5, 6, 7, 8, 8}, {3, 2, 12, 13});
  refuses({1, 2, 7, 0, 1, 2, 3, 4, 5, 6, 7, 8, 8}, {3, 3, 12, 14});
  refuses({1, 2, 7, 0, 1, 2, 3, 4, 5, 6, 7, 8, 8}, {3, 3, 12});
}

TEST(PerSample, AShortGradientIsLeftAsItIs) {
  auto stream = cpu_device().make_stream();
  const std::vector<float> norms = {0.0f, 0.25f, 4.0f};
  const Tensor factors(cpu_device(), DType::f32, {3});
  clip_factors(*stream, Tensor::from_host(*stream, std::span<const float>(norms)), 1.0, ClippingRule::flat, 0.0,
               factors);
  const auto actual = host(*stream, factors);
  EXPECT_EQ(actual[0], 1.0f);
  EXPECT_EQ(actual[1], 1.0f);
  EXPECT_NEAR(actual[2], 0.5, 1e-4);
}

TEST(PerSample, AutomaticClippingScalesEveryGradientByItsNorm) {
  auto stream = cpu_device().make_stream();
  const std::vector<float> norms = {0.0f, 0.25f, 4.0f};
  const Tensor factors(cpu_device(), DType::f32, {3});
  clip_factors(*stream, Tensor::from_host(*stream, std::span<const float>(norms)), 2.0, ClippingRule::automatic, 0.1,
               factors);
  const auto actual = host(*stream, factors);
  EXPECT_NEAR(actual[0], 2.0 / 0.1, 1e-3);
  EXPECT_NEAR(actual[1], 2.0 / 0.6, 1e-4);
  EXPECT_NEAR(actual[2], 2.0 / 2.1, 1e-4);
}

TEST(PerSample, ARecordWhoseNormIsNotFiniteIsLeftOut) {
  auto stream = cpu_device().make_stream();
  auto values = random_floats(3 * 48, 1);
  values[48 + 7] = NAN;
  values[96 + 3] = INFINITY;
  const std::vector<float> g = {1.0f, NAN, INFINITY}, x = {2.0f, 1.0f, NAN};
  PerSampleGradients gradients{.sample_count = 3, .tensors = {}};
  gradients.tensors.push_back(materialized("b", {6, 8}, matrix(*stream, 3, 48, values)));
  gradients.tensors.push_back(outer_product("w", matrix(*stream, 3, 1, g), matrix(*stream, 3, 1, x)));
  const Tensor factors(cpu_device(), DType::f32, {3});
  joint_squared_norms(*stream, gradients, factors);
  clip_factors(*stream, factors, 1.0, ClippingRule::flat, 0.0, factors);
  const auto actual = host(*stream, factors);
  EXPECT_GT(actual[0], 0.0f);
  EXPECT_EQ(actual[1], 0.0f);
  EXPECT_EQ(actual[2], 0.0f);
  const std::vector<Tensor> sums = {Tensor::zeros(*stream, DType::f32, {6, 8}),
                                    Tensor::zeros(*stream, DType::f32, {1, 1})};
  add_weighted_sum(*stream, gradients, factors, sums);
  EXPECT_TRUE(sums[0].to_host(*stream).all_finite());
  EXPECT_NEAR(host(*stream, sums[1])[0], 2.0 * actual[0], 1e-6);
}

TEST(PerSample, TheWeightedSumAddsToWhatIsThere) {
  auto stream = cpu_device().make_stream();
  const PerSampleGradients gradients = some_gradients(*stream);
  const std::vector<float> factors = {0.5f, 0.0f, 2.0f, -1.0f, 0.25f};
  std::vector<Tensor> sums = {matrix(*stream, 6, 8, std::vector<float>(48, 1.0f)),
                              matrix(*stream, 3, 7, std::vector<float>(21, 1.0f))};
  add_weighted_sum(*stream, gradients, Tensor::from_host(*stream, std::span<const float>(factors)), sums);
  std::vector<double> expected(48 + 21, 1.0);
  for (std::int64_t i = 0; i < samples; ++i) {
    const auto gradient = sample_gradient(*stream, gradients, i);
    for (std::size_t j = 0; j < expected.size(); ++j)
      expected[j] += static_cast<double>(factors[static_cast<std::size_t>(i)]) * gradient[j];
  }
  auto actual = host(*stream, sums[0]);
  const auto outer = host(*stream, sums[1]);
  actual.insert(actual.end(), outer.begin(), outer.end());
  EXPECT_LT(relative_error(actual, expected), 1e-6);
}

TEST(PerSample, VectorsAreAddedAndScaled) {
  auto stream = cpu_device().make_stream();
  const auto x = random_floats(40'000, 1), y = random_floats(40'000, 2);
  const Tensor a = Tensor::from_host(*stream, std::span<const float>(x)),
               b = Tensor::from_host(*stream, std::span<const float>(y));
  axpy(*stream, -0.5, a, b);
  scale(*stream, 2.0, b);
  std::vector<double> expected;
  double squares = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    expected.push_back(2.0 * (y[i] - 0.5 * x[i]));
    squares += expected.back() * expected.back() + static_cast<double>(x[i]) * x[i];
  }
  EXPECT_LT(relative_error(host(*stream, b), expected), 1e-6);
  EXPECT_NEAR(squared_norm(*stream, {a, b}) / squares, 1.0, 1e-6);
}

}  // namespace
}  // namespace trib::kernels
