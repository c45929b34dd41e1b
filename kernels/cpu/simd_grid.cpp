// Sums on an integer grid, and the first attempt of the discrete Gaussian sampler. Built without fused multiply-adds,
// so that every instruction set rounds alike.
#include "kernels/cpu/simd_chacha.h"

namespace trib::kernels::cpu::TRIB_SIMD_NAMESPACE {
namespace {

void rounded_row_sum(const float* rows, int64_t stride, const float* factors, int64_t row_count, int64_t* y,
                     int64_t begin, int64_t end) {
  using UnsignedInts = VectorOf<uint32_t, width>::type;
  constexpr int64_t block = 1024;        // of y, whose 32-bit part stays in L1 while rows pass over it
  constexpr int64_t rows_at_once = 256;  // 256·2^22 < 2^31
  const float shifter = 12582912.0f;     // 1.5·2^23: adding it rounds to an integer, in the low bits
  const uint32_t shifter_bits = 0x4b400000;
  uint32_t part[block];
  for (int64_t first = begin; first < end; first += block) {
    const int64_t size = end - first < block ? end - first : block;
    for (int64_t top = 0; top < row_count; top += rows_at_once) {
      const int64_t bottom = row_count - top < rows_at_once ? row_count : top + rows_at_once;
      memset(part, 0, static_cast<size_t>(size) * sizeof(uint32_t));
      uint32_t shifters = 0;  // the shifter's bits, as often as they were added: modulo 2^32 like the sums
      for (int64_t i = top; i < bottom; ++i) {
        // Not only a shortcut: a left-out row may hold infinities.
        if (factors[i] == 0) continue;
        shifters += shifter_bits;
        const float* row = rows + i * stride + first;
        const Floats factor = splat(factors[i]);
        int64_t j = 0;
        for (; j + width <= size; j += width) {
          UnsignedInts* sum = reinterpret_cast<UnsignedInts*>(part + j);
          *sum += reinterpret_cast<UnsignedInts>(load(row + j) * factor + shifter);
        }
        for (; j < size; ++j) {
          float shifted = row[j] * factors[i] + shifter;
          uint32_t bits;
          memcpy(&bits, &shifted, sizeof bits);
          part[j] += bits;
        }
      }
      for (int64_t j = 0; j < size; ++j) y[first + j] += static_cast<int32_t>(part[j] - shifters);
    }
  }
  // The part is of one record where there is one.
  wipe(part, sizeof part);
}

// exp(−x) for 0 ≤ x < 0.26: the truncation is below 1e-16, the rounding below 1e-15.
TRIB_INLINE double exp_of_minus(double x) {
  double p = 1.0 / 39916800.0;
  p = 1.0 / 3628800.0 - x * p;
  p = 1.0 / 362880.0 - x * p;
  p = 1.0 / 40320.0 - x * p;
  p = 1.0 / 5040.0 - x * p;
  p = 1.0 / 720.0 - x * p;
  p = 1.0 / 120.0 - x * p;
  p = 1.0 / 24.0 - x * p;
  p = 1.0 / 6.0 - x * p;
  p = 0.5 - x * p;
  p = 1.0 - x * p;
  return 1.0 - x * p;
}

// discrete_gaussian.h says what an attempt is. Nothing here branches on what was drawn until all of it is decided, and
// then only on whether it is accepted, which tells nothing of the value.
int64_t discrete_gaussian(const DiscreteGaussianTable& table, int log2_stddev, const uint32_t key[8],
                          uint64_t stream_id, uint64_t first_counter, int64_t* y, int64_t begin, int64_t end,
                          int64_t* pending) {
  constexpr int attempts_per_block = 4;
  constexpr int64_t batch = blocks_at_once * attempts_per_block;
  const int offset_bits = log2_stddev - 5;
  const uint32_t offset_mask = (uint32_t{1} << offset_bits) - 1;
  double step = 1.0;  // 2^−log2_stddev
  for (int i = 0; i < log2_stddev; ++i) step *= 0.5;
  alignas(64) uint32_t words[16][blocks_at_once];
  alignas(64) int64_t values[batch];
  alignas(64) int32_t accepted[batch];
  alignas(64) uint32_t cells[blocks_at_once];
  int64_t pending_count = 0;
  for (int64_t i = begin; i < end; i += batch) {
    chacha20_blocks(key, first_counter + static_cast<uint64_t>(i) / attempts_per_block, stream_id, words);
    for (int q = 0; q < attempts_per_block; ++q) {
      const uint32_t(*w)[blocks_at_once] = words + 4 * q;
      for (int lane = 0; lane < blocks_at_once; ++lane) {
        uint32_t slot = w[0][lane] >> 24, low = w[0][lane] & 0xffffff;
        cells[lane] = low < table.threshold[slot] ? slot : table.alias[slot];
      }
      for (int lane = 0; lane < blocks_at_once; ++lane) {
        int32_t offset = static_cast<int32_t>(w[1][lane] & offset_mask);
        double u = offset * step, cell = static_cast<int32_t>(cells[lane]) * 0.03125;
        double acceptance = table.acceptance[cells[lane]] * exp_of_minus(u * (cell + 0.5 * u));
        // The first 53 of the 64 bits, in two parts that are exact as signed 32-bit integers, which every instruction
        // set converts.
        uint32_t high = w[2][lane] >> 1, rest = (w[2][lane] & 1) << 21 | w[3][lane] >> 11;
        double uniform = (static_cast<int32_t>(high) * 4194304.0 + static_cast<int32_t>(rest)) * 0x1p-53;
        int64_t magnitude = (static_cast<int64_t>(cells[lane]) << offset_bits) + offset;
        int64_t sign = -static_cast<int64_t>(w[1][lane] >> 31);  // 0 or −1
        values[attempts_per_block * lane + q] = (magnitude ^ sign) - sign;
        // False too for the tail, whose acceptance is not a number, and for a zero with a minus.
        accepted[attempts_per_block * lane + q] = (acceptance - uniform > 0x1p-40) & ((magnitude != 0) | (sign == 0));
      }
    }
    const int64_t count = end - i < batch ? end - i : batch;
    for (int64_t j = 0; j < count; ++j) {
      y[i + j] += values[j] & -static_cast<int64_t>(accepted[j]);
      pending[pending_count] = i + j;
      pending_count += 1 - accepted[j];
    }
  }
  wipe(words, sizeof words);
  wipe(values, sizeof values);
  wipe(cells, sizeof cells);
  return pending_count;
}

}  // namespace

void add_grid(SimdKernels& kernels) {
  kernels.rounded_row_sum = rounded_row_sum;
  kernels.discrete_gaussian = discrete_gaussian;
}

}  // namespace trib::kernels::cpu::TRIB_SIMD_NAMESPACE
