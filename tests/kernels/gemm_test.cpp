#include "kernels/gemm.h"

#include "kernels/lanes.h"
#include "tests/kernels/reference.h"

namespace trib::kernels {
namespace {

struct Sizes {
  std::int64_t m, n, k;
};
// Every tail that the register tiles have, LoRA's thin shapes, and empty sums.
constexpr Sizes cases[] = {{1, 1, 1},    {1, 8, 13},   {2, 16, 5},    {3, 7, 9},    {4, 4, 64},   {5, 33, 17},
                           {7, 64, 31},  {8, 32, 64},  {9, 40, 3},    {15, 12, 64}, {16, 48, 16}, {17, 5, 33},
                           {31, 100, 7}, {256, 8, 13}, {13, 16, 256}, {64, 3, 300}, {6, 24, 0},   {130, 70, 520}};

std::vector<double> reference_product(const std::vector<float>& a, bool transposed, const std::vector<float>& b,
                                      const std::vector<float>& c, Sizes s, double alpha, bool accumulate) {
  std::vector<double> result(static_cast<std::size_t>(s.m * s.n));
  for (std::int64_t i = 0; i < s.m; ++i)
    for (std::int64_t j = 0; j < s.n; ++j) {
      double total = 0;
      for (std::int64_t p = 0; p < s.k; ++p)
        total += static_cast<double>(a[static_cast<std::size_t>(transposed ? p * s.m + i : i * s.k + p)]) *
                 b[static_cast<std::size_t>(p * s.n + j)];
      const auto at = static_cast<std::size_t>(i * s.n + j);
      result[at] = alpha * total + (accumulate ? static_cast<double>(c[at]) : 0.0);
    }
  return result;
}

class Products : public EachInstructionSet {};

TEST_P(Products, AgreeWithFloat64ForEveryShape) {
  for (const Sizes& s : cases)
    for (bool transposed : {false, true})
      for (bool accumulate : {false, true}) {
        const auto a = random_floats(s.m * s.k, 1), b = random_floats(s.k * s.n, 2);
        auto c = random_floats(s.m * s.n, 3);
        const auto expected = reference_product(a, transposed, b, c, s, 0.5, accumulate);
        if (transposed) {
          simd().matmul_transposed(0.5f, a.data(), s.m, b.data(), s.n, c.data(), s.n, s.m, s.n, s.k, accumulate);
        } else {
          simd().matmul(0.5f, a.data(), s.k, b.data(), s.n, c.data(), s.n, s.m, s.n, s.k, accumulate);
        }
        EXPECT_LT(relative_error(c, expected), 2e-6)
            << s.m << "×" << s.n << "×" << s.k << (transposed ? " transposed" : "")
            << (accumulate ? " accumulated" : "");
      }
}

TEST_P(Products, LeaveWhatLiesBetweenTheRowsOfAViewAlone) {
  const std::int64_t m = 5, n = 9, k = 4, stride = 12;
  const auto a = random_floats(m * k, 1), b = random_floats(k * n, 2);
  std::vector<float> c(static_cast<std::size_t>(m * stride), 7.0f);
  simd().matmul(1.0f, a.data(), k, b.data(), n, c.data(), stride, m, n, k, false);
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t j = n; j < stride; ++j) EXPECT_EQ(c[static_cast<std::size_t>(i * stride + j)], 7.0f);
}

INSTANTIATE_TEST_SUITE_P(Cpu, Products, testing::ValuesIn(cpu::simd_levels()), instruction_set_name);

TEST(PackedProduct, AgreesWithFloat64ForBothLayoutsAndAnyNumberOfRows) {
  auto stream = cpu_device().make_stream();
  for (Sizes s : {Sizes{1, 64, 32}, Sizes{63, 48, 100}, Sizes{64, 16, 64}, Sizes{65, 33, 7}, Sizes{200, 192, 64}}) {
    const auto x = random_floats(s.m * s.k, 1), w = random_floats(s.k * s.n, 2), bias = random_floats(s.n, 3);
    const Tensor x_device = matrix(*stream, s.m, s.k, x), w_device = matrix(*stream, s.k, s.n, w);
    Tensor w_transposed(cpu_device(), DType::f32, {s.n, s.k});
    transpose(*stream, w_device, w_transposed);
    std::vector<float> rows_of_bias;
    for (std::int64_t i = 0; i < s.m; ++i) rows_of_bias.insert(rows_of_bias.end(), bias.begin(), bias.end());
    const auto with_bias = reference_product(x, false, w, rows_of_bias, s, 1.0, true);
    std::vector<double> twice(with_bias);
    const auto plain = reference_product(x, false, w, {}, s, 1.0, false);
    for (std::size_t i = 0; i < twice.size(); ++i) twice[i] += plain[i];

    for (bool transposed : {false, true}) {
      const PackedMatrix packed(*stream, transposed ? w_transposed : w_device, transposed, DType::f32);
      EXPECT_EQ(packed.input_size(), s.k);
      EXPECT_EQ(packed.output_size(), s.n);
      const Tensor y(cpu_device(), DType::f32, {s.m, s.n});
      packed_product(*stream, x_device, packed, matrix(*stream, 1, s.n, bias).reshape({s.n}), false, y);
      EXPECT_LT(relative_error(host(*stream, y), with_bias), 2e-6) << s.m << "×" << s.n << "×" << s.k;
      packed_product(*stream, x_device, packed, {}, true, y);
      EXPECT_LT(relative_error(host(*stream, y), twice), 2e-6) << s.m << "×" << s.n << "×" << s.k;
    }
  }
}

TEST(PackedProduct, ServesSeveralLanesAtOnce) {
  auto stream = cpu_device().make_stream();
  const Sizes s{150, 192, 64};
  const auto x = random_floats(s.m * s.k, 1), w = random_floats(s.k * s.n, 2);
  const Tensor x_device = matrix(*stream, s.m, s.k, x);
  const PackedMatrix packed(*stream, matrix(*stream, s.k, s.n, w), false, DType::f32);
  const auto expected = reference_product(x, false, w, {}, s, 1.0, false);
  std::vector<double> errors(64);
  for_each_lane(*stream, 64, [&](Stream& lane_stream, int lane) {
    const Tensor y(cpu_device(), DType::f32, {s.m, s.n});
    packed_product(lane_stream, x_device, packed, {}, false, y);
    errors[static_cast<std::size_t>(lane)] = relative_error(host(lane_stream, y), expected);
  });
  for (double error : errors) EXPECT_LT(error, 2e-6);
}

TEST(PackedProduct, RefusesATypeThatTheMachineCannotMultiply) {
  EXPECT_TRUE(supports_compute(cpu_device(), DType::f32).ok());
  EXPECT_EQ(supports_compute(cpu_device(), DType::i32).error().code, Errc::unsupported);
}

TEST(SegmentProducts, GiveEachRecordItsOwnProductInTheRowItAsksFor) {
  auto stream = cpu_device().make_stream();
  const std::vector<std::int32_t> offsets = {0, 3, 4, 20}, rows = {2, 0, 3};
  const std::int64_t m = 24, n = 8, t = 20;
  const auto a = random_floats(t * m, 1), b = random_floats(t * n, 2);
  const Tensor out = Tensor::zeros(*stream, DType::f32, {4, m * n});
  segment_products(*stream, 2.0f, matrix(*stream, t, m, a), matrix(*stream, t, n, b), indices(*stream, offsets),
                   indices(*stream, rows), out);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto first = static_cast<std::ptrdiff_t>(offsets[i]), last = static_cast<std::ptrdiff_t>(offsets[i + 1]);
    const auto expected =
        reference_product({a.begin() + first * m, a.begin() + last * m}, true,
                          {b.begin() + first * n, b.begin() + last * n}, {}, {m, n, last - first}, 2.0, false);
    EXPECT_LT(relative_error(host(*stream, out.rows(rows[i], 1)), expected), 2e-6);
  }
  for (float untouched : host(*stream, out.rows(1, 1))) EXPECT_EQ(untouched, 0.0f);
}

}  // namespace
}  // namespace trib::kernels
