#include "kernels/quantized_weights.h"

#include <cmath>

#include "tests/kernels/reference.h"

namespace trib::kernels {
namespace {

TEST(QuantizedWeights, OfEightBitsAreWithinHalfAStepOfTheirRowsLargest) {
  const std::int64_t rows = 9, columns = 130;
  auto weights = random_floats(rows * columns, 1);
  for (std::size_t j = 0; j < 130; ++j) weights[3 * 130 + j] = 0;
  const QuantizedWeights codes = quantize_weights(weights, rows, columns, WeightFormat::int8);
  const auto values = dequantize_weights(codes);
  ASSERT_EQ(values.size(), weights.size());
  EXPECT_EQ(codes.codes.size(), static_cast<std::size_t>(rows * 192));
  for (std::size_t i = 0; i < 9; ++i) {
    float peak = 0;
    for (std::size_t j = 0; j < 130; ++j) peak = std::max(peak, std::abs(weights[i * 130 + j]));
    EXPECT_EQ(codes.scales[i], peak / 127);
    for (std::size_t j = 0; j < 130; ++j)
      EXPECT_LE(std::abs(values[i * 130 + j] - weights[i * 130 + j]),
                0.501f * peak / 127 + 0x1p-8f * std::abs(weights[i * 130 + j]));
  }
}

TEST(QuantizedWeights, OfFourBitsMeetTheLargestOfEachGroupAndAreWithinAStepOfTheOthers) {
  const std::int64_t rows = 5, columns = 150;  // groups of 64, 64 and 22
  const auto weights = random_floats(rows * columns, 1);
  const QuantizedWeights codes = quantize_weights(weights, rows, columns, WeightFormat::int4);
  EXPECT_EQ(codes.scales.size(), 15u);
  const auto values = dequantize_weights(codes);
  for (std::size_t i = 0; i < 5; ++i)
    for (std::size_t g = 0; g < 3; ++g) {
      const std::size_t first = 64 * g, last = std::min<std::size_t>(150, first + 64);
      float extreme = 0;
      for (std::size_t j = first; j < last; ++j)
        if (std::abs(weights[i * 150 + j]) > std::abs(extreme)) extreme = weights[i * 150 + j];
      const float step = std::abs(extreme) / 8;
      for (std::size_t j = first; j < last; ++j) {
        const float weight = weights[i * 150 + j], error = std::abs(values[i * 150 + j] - weight);
        // There are eight codes on the extreme's side and seven on the other.
        const bool beyond = weight / extreme < -7.0f / 8;
        EXPECT_LE(error, (beyond ? 1.0f : 0.5f) * step + 0x1p-7f * std::abs(extreme)) << weight << " of " << extreme;
        if (weight == extreme) {
          EXPECT_LE(error, 0x1p-8f * std::abs(extreme));
        }
      }
    }
}

TEST(QuantizedWeights, AreLaidOutAsTheHeaderSays) {
  const QuantizedWeights narrow = quantize_weights(std::vector<float>{-8, 7, 1, 0, -3}, 1, 5, WeightFormat::int4);
  EXPECT_EQ(narrow.scales, std::vector<float>{1});
  EXPECT_EQ(narrow.row_bytes(), 32);
  EXPECT_EQ(narrow.codes[0], 0xf0);  // −8 + 8, 7 + 8
  EXPECT_EQ(narrow.codes[1], 0x89);  // 1 + 8, 0 + 8
  EXPECT_EQ(narrow.codes[2], 0x85);  // −3 + 8, and a zero beyond the row
  const QuantizedWeights wide = quantize_weights(std::vector<float>{-127, 64, 0}, 1, 3, WeightFormat::int8);
  EXPECT_EQ(wide.codes[0], 1);
  EXPECT_EQ(wide.codes[1], 192);
  EXPECT_EQ(wide.codes[2], 128);
  EXPECT_EQ(wide.codes[3], 128);
}

TEST(QuantizedWeights, ServeBothDirectionsAsTheirBfloat16ValuesDo) {
  auto stream = cpu_device().make_stream();
  const std::int64_t t = 33, in = 72, out = 40;
  const auto weights = random_floats(out * in, 1);
  const Tensor w = matrix(*stream, out, in, weights), x = matrix(*stream, t, in, random_floats(t * in, 2)),
               dy = matrix(*stream, t, out, random_floats(t * out, 3));
  for (const WeightFormat format : {WeightFormat::int8, WeightFormat::int4}) {
    const auto [forward, backward] = PackedMatrix::both_ways(*stream, w, DType::f32, format);
    EXPECT_EQ(forward.format(), format);
    const auto values = dequantize_weights(quantize_weights(weights, out, in, format));
    for (const float value : values) EXPECT_EQ(value, bfloat16_to_float(float_to_bfloat16(value)));
    const PackedMatrix plain(*stream, matrix(*stream, out, in, values), true, DType::f32),
        plain_backward(*stream, matrix(*stream, out, in, values), false, DType::f32);
    const Tensor y(cpu_device(), DType::f32, {t, out}), expected(cpu_device(), DType::f32, {t, out}),
        dx(cpu_device(), DType::f32, {t, in}), expected_dx(cpu_device(), DType::f32, {t, in});
    packed_product(*stream, x, forward, {}, false, y);
    packed_product(*stream, x, plain, {}, false, expected);
    EXPECT_EQ(host(*stream, y), host(*stream, expected));
    packed_product(*stream, dy, backward, {}, false, dx);
    packed_product(*stream, dy, plain_backward, {}, false, expected_dx);
    EXPECT_EQ(host(*stream, dx), host(*stream, expected_dx));
  }
}

}  // namespace
}  // namespace trib::kernels
