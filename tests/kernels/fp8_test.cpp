// FP8 on the CPU, the oracle of the GPU's: e4m3 against its definition over all 256 codes, rows against their bounds,
// products against float64.
#include "kernels/fp8.h"

#include <array>
#include <cmath>
#include <limits>

#include "kernels/activation.h"
#include "kernels/detail/e4m3.h"
#include "tests/kernels/reference.h"

namespace trib::kernels {
namespace {

using detail::e4m3_to_float;
using detail::float_to_e4m3;

// The definition (Micikevicius et al. 2022, table 1): bias 7, subnormals at exponent 0, NaN at S.1111.111.
double definition(int code) {
  const double sign = code >= 128 ? -1 : 1;
  const int exponent = code / 8 % 16, mantissa = code % 8;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<double>::quiet_NaN();
  return exponent == 0 ? sign * mantissa / 8.0 * std::pow(2.0, -6)
                       : sign * (1 + mantissa / 8.0) * std::pow(2.0, exponent - 7);
}

TEST(E4m3, AllCodesHaveTheValuesOfTheDefinitionAndComeBack) {
  for (int code = 0; code < 256; ++code) {
    const float value = e4m3_to_float(static_cast<std::uint8_t>(code));
    if (std::isnan(definition(code))) {
      EXPECT_TRUE(std::isnan(value)) << code;
    } else {
      EXPECT_EQ(value, definition(code)) << code;
    }
    EXPECT_EQ(float_to_e4m3(value), code);
  }
}

TEST(E4m3, EveryGapRoundsToTheNearerEndAndItsMiddleToTheEvenCode) {
  for (int code = 0; code < 0x7e; ++code)
    for (const int sign : {0, 0x80}) {
      const auto low = static_cast<std::uint8_t>(code | sign), high = static_cast<std::uint8_t>((code + 1) | sign);
      const float a = e4m3_to_float(low), b = e4m3_to_float(high), middle = (a + b) / 2;
      EXPECT_EQ(float_to_e4m3(middle), code % 2 == 0 ? low : high) << "the middle of " << a << " and " << b;
      EXPECT_EQ(float_to_e4m3(std::nextafter(middle, a)), low);
      EXPECT_EQ(float_to_e4m3(std::nextafter(middle, b)), high);
    }
}

TEST(E4m3, SaturatesAndKeepsNanAndTheSignOfZero) {
  for (const float beyond : {448.0f, 464.0f, 480.0f, 1e6f, std::numeric_limits<float>::max(), INFINITY}) {
    EXPECT_EQ(float_to_e4m3(beyond), 0x7e) << beyond;
    EXPECT_EQ(float_to_e4m3(-beyond), 0xfe) << beyond;
  }
  EXPECT_EQ(float_to_e4m3(NAN) & 0x7f, 0x7f);
  EXPECT_EQ(float_to_e4m3(0.0f), 0);
  EXPECT_EQ(float_to_e4m3(-0.0f), 0x80);
  EXPECT_EQ(float_to_e4m3(std::numeric_limits<float>::denorm_min()), 0);
}

Tensor dequantized(Stream& stream, const Fp8Rows& rows) {
  const Tensor values(stream.device(), DType::f32, rows.codes.shape());
  dequantize_rows(stream, rows, values);
  return values;
}

TEST(Fp8Rows, MeetTheLargestAndStayWithinASixteenthOfEachValue) {
  auto stream = cpu_device().make_stream();
  const std::int64_t rows = 70, columns = 301;
  auto values = random_floats(rows * columns, 1);
  for (std::int64_t i = 0; i < rows; ++i)  // rows of very different sizes
    for (std::int64_t j = 0; j < columns; ++j)
      values[static_cast<std::size_t>(i * columns + j)] *= std::ldexp(1.0f, static_cast<int>(i) - 35);
  const Fp8Rows rounded(cpu_device(), rows, columns);
  quantize_rows(*stream, matrix(*stream, rows, columns, values), rounded);
  const auto result = host(*stream, dequantized(*stream, rounded));
  for (std::int64_t i = 0; i < rows; ++i) {
    float peak = 0, found = 0;
    for (std::int64_t j = 0; j < columns; ++j) {
      peak = std::max(peak, std::abs(values[static_cast<std::size_t>(i * columns + j)]));
      found = std::max(found, std::abs(result[static_cast<std::size_t>(i * columns + j)]));
    }
    EXPECT_NEAR(found / peak, 1.0f, 1e-6f) << "row " << i;
    for (std::int64_t j = 0; j < columns; ++j) {
      const auto at = static_cast<std::size_t>(i * columns + j);
      // Half a step: 2^−4 of a value, or of the smallest normal number.
      EXPECT_LE(std::abs(result[at] - values[at]),
                1.0001f * std::max(std::abs(values[at]) / 16, peak / 448 * 0x1p-10f));
    }
  }
}

TEST(Fp8Rows, OfZerosAreZerosAndWhatIsNotFiniteShows) {
  auto stream = cpu_device().make_stream();
  const Fp8Rows rounded(cpu_device(), 4, 2);
  quantize_rows(*stream, matrix(*stream, 4, 2, {0, -0.0f, NAN, 3, INFINITY, 1, 1e-40f, 1e-42f}), rounded);
  const auto result = host(*stream, dequantized(*stream, rounded));
  EXPECT_EQ(result[0], 0);
  EXPECT_EQ(result[1], 0);
  EXPECT_TRUE(std::isnan(result[2]));
  EXPECT_NEAR(result[3], 3, 1e-6);
  EXPECT_TRUE(std::isnan(result[4]));
  EXPECT_EQ(result[6], 0);
}

TEST(Fp8Rows, OfAGeluAreItsResultRounded) {
  auto stream = cpu_device().make_stream();
  const Tensor x = matrix(*stream, 9, 40, random_floats(360, 1)), dy = matrix(*stream, 9, 40, random_floats(360, 2));
  const Tensor y(cpu_device(), DType::f32, {9, 40}), kept(cpu_device(), DType::f32, {9, 40}),
      dx(cpu_device(), DType::f32, {9, 40}), same_y(cpu_device(), DType::f32, {9, 40}),
      same_kept(cpu_device(), DType::f32, {9, 40}), same_dx(cpu_device(), DType::f32, {9, 40});
  const Fp8Rows rows(cpu_device(), 9, 40), d_rows(cpu_device(), 9, 40), expected(cpu_device(), 9, 40);
  gelu(*stream, x, y, kept);
  gelu_backward(*stream, dy, kept, dx);
  gelu_fp8(*stream, x, same_y, rows, same_kept);
  gelu_backward_fp8(*stream, dy, same_kept, same_dx, d_rows);
  EXPECT_EQ(host(*stream, same_y), host(*stream, y));
  EXPECT_EQ(host(*stream, same_kept), host(*stream, kept));
  EXPECT_EQ(host(*stream, same_dx), host(*stream, dx));
  quantize_rows(*stream, y, expected);
  EXPECT_EQ(rows.codes.to_host(*stream), expected.codes.to_host(*stream));
  EXPECT_EQ(rows.scales.to_host(*stream), expected.scales.to_host(*stream));
  quantize_rows(*stream, dx, expected);
  EXPECT_EQ(d_rows.codes.to_host(*stream), expected.codes.to_host(*stream));
}

// What FP8 products are: of the rounded factors, exactly; and close to what they stand for.
TEST(Fp8Product, MultipliesTheRoundedFactorsInBothDirections) {
  auto stream = cpu_device().make_stream();
  const std::int64_t t = 67, in = 48, out = 96;
  const auto weights = random_floats(out * in, 1), bias = random_floats(out, 2);
  const Tensor w = matrix(*stream, out, in, weights), x = matrix(*stream, t, in, random_floats(t * in, 3)),
               dy = matrix(*stream, t, out, random_floats(t * out, 4)),
               start = matrix(*stream, t, in, random_floats(t * in, 5));
  const auto [forward, backward] = PackedMatrix::both_ways(*stream, w, DType::f32, WeightFormat::fp8);
  EXPECT_EQ(forward.format(), WeightFormat::fp8);
  EXPECT_EQ(backward.input_size(), out);
  const Fp8Rows x_rows(cpu_device(), t, in), dy_rows(cpu_device(), t, out), w_rows(cpu_device(), out, in),
      w_columns(cpu_device(), in, out);
  quantize_rows(*stream, x, x_rows);
  quantize_rows(*stream, dy, dy_rows);
  quantize_rows(*stream, w, w_rows);
  const Tensor turned(cpu_device(), DType::f32, {in, out});
  transpose(*stream, w, turned);
  quantize_rows(*stream, turned, w_columns);

  // a·bᵀ in float64
  const auto product = [&](const Fp8Rows& a, const Fp8Rows& b) {
    const auto left = host(*stream, dequantized(*stream, a)), right = host(*stream, dequantized(*stream, b));
    const std::int64_t m = a.codes.dim(0), n = b.codes.dim(0), k = a.codes.dim(1);
    std::vector<double> result(static_cast<std::size_t>(m * n));
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t j = 0; j < n; ++j)
        for (std::int64_t p = 0; p < k; ++p)
          result[static_cast<std::size_t>(i * n + j)] +=
              static_cast<double>(left[static_cast<std::size_t>(i * k + p)]) *
              right[static_cast<std::size_t>(j * k + p)];
    return result;
  };
  const Tensor y(cpu_device(), DType::f32, {t, out}), dx(cpu_device(), DType::f32, {t, in});
  fp8_product(*stream, x_rows, forward, matrix(*stream, 1, out, bias).reshape({out}), false, y);
  auto expected = product(x_rows, w_rows);
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += bias[i % static_cast<std::size_t>(out)];
  EXPECT_LT(relative_error(host(*stream, y), expected), 2e-6);
  dx.copy_from(*stream, start);
  fp8_product(*stream, dy_rows, backward, {}, true, dx);
  expected = product(dy_rows, w_columns);
  const auto before = host(*stream, start);
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += before[i];
  EXPECT_LT(relative_error(host(*stream, dx), expected), 2e-6);

  // Rounding to three bits of mantissa: terms are off by up to an eighth each way, and errors cancel.
  const PackedMatrix unrounded(*stream, w, true, DType::f32);
  const Tensor full(cpu_device(), DType::f32, {t, out});
  packed_product(*stream, x, unrounded, matrix(*stream, 1, out, bias).reshape({out}), false, full);
  const auto reference = host(*stream, full);
  EXPECT_LT(relative_error(host(*stream, y), std::vector<double>(reference.begin(), reference.end())), 0.05);
}

// A GPU's scales come from a bound of a row: each value must still be as near as e4m3's three bits allow. Tiles that
// end within the matrices; rows of very different sizes.
TEST(Fp8ProductGelu, OnAGpuIsEachValueOfTheCpuRoundedOnce) {
  Result<Device*> device = open_device("cuda");
  if (!device) GTEST_SKIP() << device.error().message;
  if (const Status served = supports_format(**device, WeightFormat::fp8); !served)
    GTEST_SKIP() << served.error().message;
  const auto gpu = (*device)->make_stream(), cpu = cpu_device().make_stream();
  for (const auto& [t, d, wide] :
       {std::array<std::int64_t, 3>{1, 16, 16}, {129, 144, 272}, {300, 256, 1024}, {40, 1024, 256}, {700, 400, 2064}}) {
    const auto weights = random_floats(wide * d, 1, 1.0f / std::sqrt(static_cast<float>(d))),
               back_weights = random_floats(d * wide, 2), bias = random_floats(wide, 3);
    auto x = random_floats(t * d, 4), dy = random_floats(t * d, 5);
    for (std::int64_t i = 0; i < t; ++i)
      for (std::int64_t j = 0; j < d; ++j)
        dy[static_cast<std::size_t>(i * d + j)] *= std::ldexp(1.0f, static_cast<int>(i % 60) - 40);
    const auto run = [&](Stream& stream, bool with_norms, std::vector<float>& scales) {
      Device& at = stream.device();
      const DType type = fp8_companion_type(at);
      const auto rows_of = [&](const std::vector<float>& values) {
        Fp8Rows rows(at, t, d);
        if (with_norms) rows.norms = Tensor(at, DType::f32, {t});

        quantize_rows(stream, matrix(stream, t, d, values), rows);
        return rows;
      };
      const PackedMatrix up =
          PackedMatrix::both_ways(stream, matrix(stream, wide, d, weights), type, WeightFormat::fp8).first;
      const PackedMatrix down =
          PackedMatrix::both_ways(stream, matrix(stream, d, wide, back_weights), type, WeightFormat::fp8).second;
      Tensor b = matrix(stream, 1, wide, bias).reshape({wide});
      if (type == DType::bf16) {
        const Tensor narrow(at, type, {wide});
        to_bf16(stream, b, narrow);
        b = narrow;
      }
      const Tensor before(at, type, {t, wide}), kept(at, type, {t, wide}), scratch(at, type, {t, wide});
      const Fp8Rows y(at, t, wide), dx(at, t, wide);
      fp8_product_gelu(stream, rows_of(x), up, b, before, y, kept);
      fp8_product_gelu_backward(stream, rows_of(dy), down, kept, scratch, dx);
      scales = host(stream, y.scales);
      const auto more = host(stream, dx.scales);
      scales.insert(scales.end(), more.begin(), more.end());
      const Tensor y_seen(at, DType::f32, {t, wide}), dx_seen(at, DType::f32, {t, wide});
      dequantize_rows(stream, y, y_seen);
      dequantize_rows(stream, dx, dx_seen);
      return std::pair(host(stream, y_seen), host(stream, dx_seen));
    };
    std::vector<float> near, wide_bound, unused;
    const auto with_norms = run(*gpu, true, near), without = run(*gpu, false, wide_bound);
    for (std::size_t i = 0; i < near.size(); ++i) EXPECT_LE(near[i], 1.07f * wide_bound[i]);
    // The CPU's own rounding is no oracle: what it rounds is.
    const auto rounded = run(*cpu, false, unused);
    const auto exact = [&] {
      const auto w = [&](const std::vector<float>& from, bool back) {
        const auto both = PackedMatrix::both_ways(*cpu, matrix(*cpu, back ? d : wide, back ? wide : d, from),
                                                  DType::f32, WeightFormat::fp8);
        return back ? both.second : both.first;
      };
      const Fp8Rows x_rows(cpu_device(), t, d), dy_rows(cpu_device(), t, d);
      quantize_rows(*cpu, matrix(*cpu, t, d, x), x_rows);
      quantize_rows(*cpu, matrix(*cpu, t, d, dy), dy_rows);
      const Tensor u(cpu_device(), DType::f32, {t, wide}), kept(cpu_device(), DType::f32, {t, wide}),
          g(cpu_device(), DType::f32, {t, wide});
      fp8_product(*cpu, x_rows, w(weights, false), matrix(*cpu, 1, wide, bias).reshape({wide}), false, u);
      gelu(*cpu, u, u, kept);
      fp8_product(*cpu, dy_rows, w(back_weights, true), {}, false, g);
      gelu_backward(*cpu, g, kept, g);
      return std::pair(host(*cpu, u), host(*cpu, g));
    }();
    for (const auto& [found_both, scales] : {std::pair(&with_norms, &near), std::pair(&without, &wide_bound)})
      for (const bool back : {false, true}) {
        const auto &expected = back ? exact.second : exact.first,
                   &found = back ? found_both->second : found_both->first,
                   &once = back ? rounded.second : rounded.first;
        for (std::int64_t i = 0; i < t; ++i) {
          const float scale = (*scales)[static_cast<std::size_t>(back ? t + i : i)];
          float peak = 0;
          for (std::int64_t j = 0; j < wide; ++j)
            peak = std::max(peak, std::abs(expected[static_cast<std::size_t>(i * wide + j)]));
          EXPECT_GE(448 * scale, 0.99f * peak);
          EXPECT_LE(448 * scale, 600 * peak) << "row " << i << " of " << t << " by " << d << " by " << wide;
          for (std::int64_t j = 0; j < wide; ++j) {
            const auto at = static_cast<std::size_t>(i * wide + j);
            // Half a step, of the value or of the smallest normal number; the gelu's tanh form and its input in
            // bfloat16, and sums in the tensor cores.
            const float allowed = std::abs(expected[at]) / 16 + scale * 0x1p-10f + 0.006f * peak;
            ASSERT_NEAR(found[at], expected[at], allowed)
                << (back ? "back, " : "") << "row " << i << ", column " << j << " of " << t << " by " << d << " by "
                << wide << "; the CPU's " << once[at];
          }
        }
      }
  }
}

}  // namespace
}  // namespace trib::kernels
