#include "kernels/cpu/discrete_gaussian.h"

#include <strings.h>

#include <array>
#include <bit>
#include <boost/multiprecision/cpp_int.hpp>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "common/random.h"

namespace trib::kernels::cpu {
namespace {

using Integer = boost::multiprecision::cpp_int;
using Table = DiscreteGaussianTable;

constexpr std::uint32_t scale = 105'000'000;  // N
constexpr std::uint32_t tail = Table::cells - 2, again = Table::cells - 1;
constexpr std::uint64_t slot_size = (std::uint64_t{1} << 32) / Table::cells;

struct Bounds {
  Integer low, high;
};

// low ≤ 2^bits·numerator/denominator·exp(−x) ≤ high, x = magnitude²/2^(2k+1), to about 2^−64 of the last bit.
Bounds scaled_exp(const Integer& numerator, const Integer& denominator, const Integer& magnitude, int log2_stddev,
                  unsigned bits) {
  // exp(x) by its series, whose terms are all positive. Each term is rounded down, by less than 1, and passes its error
  // on times x/(i+1): together less than terms·exp(x). The first term that rounds to 0 is below exp(x), and once
  // x/(i+1) is at most ½ all that follow it are together below that too.
  const Integer square = magnitude * magnitude;
  const unsigned shift = 2 * static_cast<unsigned>(log2_stddev) + 1;
  const unsigned ceiling = static_cast<unsigned>(square >> shift) + 1;  // ≥ x
  const unsigned fraction_bits = bits + 128 + 2 * ceiling;
  Integer term = Integer(1) << fraction_bits, sum = 0;
  unsigned terms = 0;
  for (; term != 0 || terms < 2 * ceiling; ++terms) {
    sum += term;
    term = (term * square >> shift) / (terms + 1);
  }
  const Integer slack = boost::multiprecision::pow(Integer(3), ceiling) * (terms + 2);  // e < 3
  const Integer dividend = numerator << (bits + fraction_bits);
  const Integer below = denominator * (sum + slack), above = denominator * sum;
  return {dividend / below, dividend / above + 1};
}

Table make_table() {
  Table table = {};
  constexpr int log2_stddev = 5;  // where a cell is one integer
  std::uint64_t rest = std::uint64_t{1} << 32;
  for (std::uint32_t cell = 0; cell < tail; ++cell) {
    constexpr unsigned bits = 64;
    const Integer bound = scaled_exp(scale, 1, cell, log2_stddev, bits).high;
    table.weight[cell] = static_cast<std::uint32_t>(bound >> bits) + 1;
    table.acceptance[cell] = std::ldexp(bound.convert_to<double>(), -static_cast<int>(bits)) / table.weight[cell];
    rest -= table.weight[cell];
  }
  table.weight[tail] = 1;
  table.acceptance[tail] = std::numeric_limits<double>::quiet_NaN();
  table.weight[again] = static_cast<std::uint32_t>(rest - 1);
  table.acceptance[again] = -1.0;

  // Walker's alias table (Vose's construction), in integers.
  std::array<std::uint64_t, Table::cells> left;
  std::vector<std::uint32_t> small, large;
  for (std::uint32_t cell = 0; cell < Table::cells; ++cell) {
    left[cell] = table.weight[cell];
    (left[cell] < slot_size ? small : large).push_back(cell);
  }
  while (!small.empty()) {
    const std::uint32_t filled = small.back(), filler = large.back();
    small.pop_back();
    table.threshold[filled] = static_cast<std::uint32_t>(left[filled]);
    table.alias[filled] = filler;
    left[filler] -= slot_size - left[filled];
    if (left[filler] < slot_size) {
      large.pop_back();
      small.push_back(filler);
    }
  }
  for (const std::uint32_t whole : large) {
    table.threshold[whole] = static_cast<std::uint32_t>(slot_size);
    table.alias[whole] = whole;
  }
  return table;
}

// The words of an attempt that go beyond its four.
class FurtherWords {
 public:
  FurtherWords(std::span<const std::uint8_t, 32> key, std::uint64_t stream_id, std::uint64_t counter)
      : key_(key), stream_id_(stream_id), counter_(counter) {}
  ~FurtherWords() { ::explicit_bzero(block_.data(), sizeof block_); }
  FurtherWords(const FurtherWords&) = delete;
  FurtherWords& operator=(const FurtherWords&) = delete;
  std::uint32_t next() {
    if (used_ == block_.size()) {
      chacha20_block(key_, counter_, stream_id_, block_);
      stream_id_ += std::uint64_t{1} << 32;
      used_ = 0;
    }
    return block_[used_++];
  }

 private:
  std::span<const std::uint8_t, 32> key_;
  std::uint64_t stream_id_, counter_;
  std::array<std::uint32_t, 16> block_{};
  std::size_t used_ = 16;
};

}  // namespace

const DiscreteGaussianTable& discrete_gaussian_table() {
  static const Table table = make_table();
  return table;
}

bool is_below_scaled_exp(std::uint64_t first_bits, const std::function<std::uint32_t()>& next_word,
                         std::uint64_t numerator, unsigned numerator_shift, std::uint64_t denominator,
                         std::uint64_t magnitude, int log2_stddev) {
  Integer digits = first_bits;
  for (unsigned bits = 64;; bits += 32) {
    const Bounds bounds = scaled_exp(Integer(numerator) << numerator_shift, denominator, magnitude, log2_stddev, bits);
    if (digits + 1 <= bounds.low) return true;
    if (digits >= bounds.high) return false;
    digits = (digits << 32) + next_word();
  }
}

std::optional<std::int64_t> discrete_gaussian_attempt(int log2_stddev, const std::uint32_t* w,
                                                      const std::function<std::uint32_t()>& next_word) {
  const Table& table = discrete_gaussian_table();
  const std::uint32_t slot = w[0] >> 24;
  const std::uint32_t cell = (w[0] & (slot_size - 1)) < table.threshold[slot] ? slot : table.alias[slot];
  if (cell == again) return std::nullopt;
  const int offset_bits = log2_stddev - 5;
  const bool is_negative = (w[1] >> 31) != 0;
  const std::uint64_t bits = std::uint64_t{w[2]} << 32 | w[3];
  std::uint64_t magnitude;
  if (cell == tail) {
    unsigned ones = 0;
    for (std::uint32_t word = next_word();; word = next_word()) {
      const auto run = static_cast<unsigned>(std::countl_one(word));
      ones += run;
      if (run < 32) break;
    }
    std::uint64_t offset = std::uint64_t{next_word()} << 32;
    offset = (offset | next_word()) & ((std::uint64_t{1} << (offset_bits + 2)) - 1);
    magnitude = ((std::uint64_t{tail} + 4 * std::uint64_t{ones}) << offset_bits) + offset;
    if (!is_below_scaled_exp(bits, next_word, scale, ones + 3, 1, magnitude, log2_stddev)) return std::nullopt;
  } else {
    const std::uint32_t offset = w[1] & ((std::uint32_t{1} << offset_bits) - 1);
    magnitude = (std::uint64_t{cell} << offset_bits) + offset;
    if (magnitude == 0 && is_negative) return std::nullopt;
    const double u = std::ldexp(offset, -log2_stddev), start = cell / 32.0;
    const double difference =
        table.acceptance[cell] * std::exp(-u * (start + 0.5 * u)) - std::ldexp(static_cast<double>(bits >> 11), -53);
    if (difference < -0x1p-40) return std::nullopt;
    if (!(difference > 0x1p-40) &&
        !is_below_scaled_exp(bits, next_word, scale, 0, table.weight[cell], magnitude, log2_stddev)) {
      return std::nullopt;
    }
  }
  return is_negative ? -static_cast<std::int64_t>(magnitude) : static_cast<std::int64_t>(magnitude);
}

std::int64_t discrete_gaussian(int log2_stddev, std::span<const std::uint8_t, 32> key, std::uint64_t stream_id,
                               std::uint64_t first_counter, std::uint64_t index) {
  constexpr std::uint64_t stream_step = std::uint64_t{1} << 32;
  std::array<std::uint32_t, 16> block;
  std::optional<std::int64_t> value;
  for (std::uint64_t number = 0; !value; ++number) {
    FurtherWords further(key, stream_id + ((std::uint64_t{1} << 31) + (number << 12)) * stream_step,
                         first_counter + index);
    const std::function<std::uint32_t()> next_word = [&further] { return further.next(); };
    if (number == 0) {
      chacha20_block(key, first_counter + index / 4, stream_id, block);
      value = discrete_gaussian_attempt(log2_stddev, &block[4 * (index % 4)], next_word);
      continue;
    }
    const std::uint64_t in_block = (number - 1) % 4;
    if (in_block == 0) {
      chacha20_block(key, first_counter + index, stream_id + (number + 3) / 4 * stream_step, block);
    }
    value = discrete_gaussian_attempt(log2_stddev, &block[4 * in_block], next_word);
  }
  ::explicit_bzero(block.data(), sizeof block);
  return *value;
}

}  // namespace trib::kernels::cpu
