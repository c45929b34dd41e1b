// Frozen weights in 8 or 4 bits: the storage for cards with little memory. Only storage: a product brings them back to
// bfloat16 and multiplies as if they had always been so.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/gemm.h"

namespace trib::kernels {

// The weights (out, in) of a linear layer. Weight (i, j) is its code times its scale, rounded to bfloat16.
// int8: codes −127 … 127, a float32 scale for each output: the largest magnitude of its weights over 127.
// int4: codes −8 … 7, a bfloat16 scale for each 64 neighbouring inputs of an output: the weight of largest magnitude
// over −8, so that it is met up to the scale's rounding.
struct QuantizedWeights {
  static constexpr std::int64_t group = 64;  // int4: inputs that share a scale; also what rows are padded to

  WeightFormat format = WeightFormat::int8;
  std::int64_t rows = 0, columns = 0;
  // A row after the other, each padded with codes of 0. int8: code + 128 in a byte; int4: code + 8 in four bits, the
  // even column in the low ones.
  std::vector<std::uint8_t> codes;
  std::vector<float> scales;  // int8: (rows); int4: (groups of a row, rows)

  std::int64_t padded_columns() const { return (columns + group - 1) / group * group; }
  std::int64_t row_bytes() const { return format == WeightFormat::int8 ? padded_columns() : padded_columns() / 2; }
};

// `weights` (rows, columns), finite. format is int8 or int4.
QuantizedWeights quantize_weights(std::span<const float> weights, std::int64_t rows, std::int64_t columns,
                                  WeightFormat format);
// (rows, columns), values of bfloat16.
std::vector<float> dequantize_weights(const QuantizedWeights& weights);

}  // namespace trib::kernels
