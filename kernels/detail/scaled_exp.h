// numerator/denominator·exp(−x) between exact bounds, in integers of a fixed width: what decides, on a GPU, an attempt
// of the discrete Gaussian sampler that float64 leaves open. kernels/cpu/discrete_gaussian.cpp decides the same
// question in integers without a limit; a comparison of real numbers has one answer, so the two agree.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define TRIB_HOST_DEVICE __host__ __device__
#else
#define TRIB_HOST_DEVICE
#endif

namespace trib::kernels::detail {

// An unsigned integer below 2^736, little-endian. ScaledExp says why that is enough.
struct WideInteger {
  static constexpr int limbs = 23;
  std::uint32_t limb[limbs];

  TRIB_HOST_DEVICE WideInteger() {
    for (std::uint32_t& part : limb) part = 0;
  }
  TRIB_HOST_DEVICE bool is_zero() const {
    std::uint32_t any = 0;
    for (const std::uint32_t part : limb) any |= part;
    return any == 0;
  }
  TRIB_HOST_DEVICE bool is_at_most(const WideInteger& other) const {
    for (int i = limbs - 1; i > 0; --i) {
      if (limb[i] != other.limb[i]) return limb[i] < other.limb[i];
    }
    return limb[0] <= other.limb[0];
  }
  // += value·2^bits
  TRIB_HOST_DEVICE void add_shifted(std::uint32_t value, int bits) {
    const int first = bits / 32;
    std::uint64_t carry = std::uint64_t{value} << (bits % 32);
    for (int i = first; i < limbs && carry != 0; ++i) {
      carry += limb[i];
      limb[i] = static_cast<std::uint32_t>(carry);
      carry >>= 32;
    }
  }
  // += other·factor
  TRIB_HOST_DEVICE void add_product(const WideInteger& other, std::uint32_t factor) {
    std::uint64_t carry = 0;
    for (int i = 0; i < limbs; ++i) {
      carry += std::uint64_t{other.limb[i]} * factor + limb[i];
      limb[i] = static_cast<std::uint32_t>(carry);
      carry >>= 32;
    }
  }
  TRIB_HOST_DEVICE void multiply(std::uint32_t factor) {
    std::uint64_t carry = 0;
    for (std::uint32_t& part : limb) {
      carry += std::uint64_t{part} * factor;
      part = static_cast<std::uint32_t>(carry);
      carry >>= 32;
    }
  }
  // Divides, rounding down.
  TRIB_HOST_DEVICE void divide(std::uint32_t by) {
    std::uint64_t rest = 0;
    for (int i = limbs - 1; i >= 0; --i) {
      rest = rest << 32 | limb[i];
      limb[i] = static_cast<std::uint32_t>(rest / by);
      rest %= by;
    }
  }
  TRIB_HOST_DEVICE void shift_left_a_limb() {
    for (int i = limbs - 1; i > 0; --i) limb[i] = limb[i - 1];
    limb[0] = 0;
  }
  TRIB_HOST_DEVICE void shift_right(int bits) {
    const int whole = bits / 32, part = bits % 32;
    for (int i = 0; i < limbs; ++i) {
      const std::uint64_t low = i + whole < limbs ? limb[i + whole] : 0,
                          high = i + whole + 1 < limbs ? limb[i + whole + 1] : 0;
      limb[i] = static_cast<std::uint32_t>((high << 32 | low) >> part);
    }
  }
};

enum class Comparison { below, not_below, undecided };

// The bound 2^numerator_shift·numerator/denominator·exp(−x), x = magnitude²/2^(2·log2_stddev + 1), for x ≤ 200,
// denominator·exp(x) ≤ 2^290, log2_stddev ≤ 36 and numerator_shift ≤ 99.
class ScaledExp {
 public:
  // The digits of a number that compare() takes: with 160 bits one number in 2^160 is undecided.
  static constexpr int most_words = 5;
  // The longest run of ones in the sampler's tail for which x stays in range.
  static constexpr int most_ones = 96;

  TRIB_HOST_DEVICE ScaledExp(std::uint32_t numerator, int numerator_shift, std::uint32_t denominator,
                             std::uint64_t magnitude, int log2_stddev)
      : numerator_(numerator), shift_(numerator_shift), denominator_(denominator) {
    // exp(x) by its series, in units of 2^−fraction_bits. discrete_gaussian.cpp says why the true sum is below
    // sum + 3^ceiling·(terms + 2). The largest product, (term below 2^544)·magnitude², is below 2^626.
    std::uint32_t square[3];
    const std::uint64_t low = magnitude & 0xffffffff, high = magnitude >> 32;
    std::uint64_t carry = low * low;
    square[0] = static_cast<std::uint32_t>(carry);
    carry = (carry >> 32) + 2 * (low * high);  // high is below 2^9
    square[1] = static_cast<std::uint32_t>(carry);
    square[2] = static_cast<std::uint32_t>((carry >> 32) + high * high);
    const int x_shift = 2 * log2_stddev + 1;
    WideInteger term, product;
    for (int i = 0; i < 3; ++i) term.add_shifted(square[i], 32 * i);
    term.shift_right(x_shift);
    const std::uint32_t ceiling = term.limb[0] + 1;  // ≥ x
    term = WideInteger();
    term.add_shifted(1, fraction_bits);
    std::uint32_t terms = 0;
    for (; terms < 2 * ceiling || !term.is_zero(); ++terms) {
      sum_.add_product(term, 1);
      product = WideInteger();
      for (int i = 2; i >= 0; --i) {
        product.shift_left_a_limb();
        product.add_product(term, square[i]);
      }
      product.shift_right(x_shift);
      product.divide(terms + 1);
      term = product;
    }
    high_.add_shifted(terms + 2, 0);
    for (std::uint32_t i = 0; i < ceiling; ++i) high_.multiply(3);
    high_.add_product(sum_, 1);
  }

  // Is the number with the binary digits 0.words[0] words[1] … words[count − 1] and unknown further ones below the
  // bound? count ≤ most_words.
  TRIB_HOST_DEVICE Comparison compare(const std::uint32_t* words, int count) const {
    // digits/2^n < numerator·2^shift/(denominator·exp(x)), multiplied out; the largest product is below 2^706.
    WideInteger bound;
    bound.add_shifted(numerator_, shift_ + 32 * count + fraction_bits);
    if (bound.is_at_most(times_digits(sum_, words, count, false))) return Comparison::not_below;
    return times_digits(high_, words, count, true).is_at_most(bound) ? Comparison::below : Comparison::undecided;
  }

 private:
  static constexpr int fraction_bits = 256;

  // denominator·exp_x·digits, or digits + 1
  TRIB_HOST_DEVICE WideInteger times_digits(const WideInteger& exp_x, const std::uint32_t* words, int count,
                                            bool and_one) const {
    WideInteger product;
    for (int i = 0; i < count; ++i) {
      product.shift_left_a_limb();
      product.add_product(exp_x, words[i]);
    }
    if (and_one) product.add_product(exp_x, 1);
    product.multiply(denominator_);
    return product;
  }

  WideInteger sum_, high_;  // sum_ ≤ 2^fraction_bits·exp(x) ≤ high_
  std::uint32_t numerator_;
  int shift_;
  std::uint32_t denominator_;
};

}  // namespace trib::kernels::detail
