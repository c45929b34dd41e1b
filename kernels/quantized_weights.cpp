#include "kernels/quantized_weights.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/thread_pool.h"
#include "kernels/detail/dispatch.h"

namespace trib::kernels {
namespace {

float rounded_to_bf16(float value) {
  return bfloat16_to_float(float_to_bfloat16(value));
}

// The weight of largest magnitude, with its sign.
float extreme(std::span<const float> weights) {
  float found = 0;
  for (const float weight : weights)
    if (std::abs(weight) > std::abs(found)) found = weight;
  return found;
}

int nearest_code(float weight, float scale, int smallest, int largest) {
  if (scale == 0) return 0;
  return std::clamp(static_cast<int>(std::lrint(weight / scale)), smallest, largest);
}

// Rows that are worth a thread.
constexpr std::int64_t row_grain = 64;

}  // namespace

QuantizedWeights quantize_weights(std::span<const float> weights, std::int64_t rows, std::int64_t columns,
                                  WeightFormat format) {
  detail::require(format == WeightFormat::int8 || format == WeightFormat::int4,
                  "quantize_weights: the format must be int8 or int4");
  detail::require(static_cast<std::int64_t>(weights.size()) == rows * columns, "quantize_weights: sizes differ");
  QuantizedWeights result{.format = format, .rows = rows, .columns = columns, .codes = {}, .scales = {}};
  const bool is_int8 = format == WeightFormat::int8;
  const std::int64_t group = is_int8 ? columns : QuantizedWeights::group;
  const std::int64_t groups = is_int8 ? 1 : result.padded_columns() / group;
  result.codes.assign(static_cast<std::size_t>(rows * result.row_bytes()), is_int8 ? 0x80 : 0x88);
  result.scales.resize(static_cast<std::size_t>(groups * rows));
  cpu::parallel_for(rows, row_grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      std::uint8_t* const codes = result.codes.data() + i * result.row_bytes();
      for (std::int64_t g = 0; g < groups; ++g) {
        const std::int64_t first = g * group, count = std::min(group, columns - first);
        const auto part =
            weights.subspan(static_cast<std::size_t>(i * columns + first), static_cast<std::size_t>(count));
        const float scale = is_int8 ? std::abs(extreme(part)) / 127.0f : rounded_to_bf16(extreme(part) / -8.0f);
        result.scales[static_cast<std::size_t>(g * rows + i)] = scale;
        for (std::int64_t j = 0; j < count; ++j) {
          const float weight = part[static_cast<std::size_t>(j)];
          if (is_int8) {
            codes[first + j] = static_cast<std::uint8_t>(nearest_code(weight, scale, -127, 127) + 128);
            continue;
          }
          const int code = nearest_code(weight, scale, -8, 7) + 8, shift = j % 2 == 0 ? 0 : 4;
          std::uint8_t& pair = codes[(first + j) / 2];
          pair = static_cast<std::uint8_t>((pair & ~(0xf << shift)) | code << shift);
        }
      }
    }
  });
  return result;
}

std::vector<float> dequantize_weights(const QuantizedWeights& weights) {
  std::vector<float> result(static_cast<std::size_t>(weights.rows * weights.columns));
  const bool is_int8 = weights.format == WeightFormat::int8;
  cpu::parallel_for(weights.rows, row_grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::uint8_t* const codes = weights.codes.data() + i * weights.row_bytes();
      for (std::int64_t j = 0; j < weights.columns; ++j) {
        const int code = is_int8 ? codes[j] - 128 : (codes[j / 2] >> (j % 2 == 0 ? 0 : 4) & 0xf) - 8;
        const std::int64_t group = is_int8 ? 0 : j / QuantizedWeights::group;
        result[static_cast<std::size_t>(i * weights.columns + j)] = rounded_to_bf16(
            static_cast<float>(code) * weights.scales[static_cast<std::size_t>(group * weights.rows + i)]);
      }
    }
  });
  return result;
}

}  // namespace trib::kernels
