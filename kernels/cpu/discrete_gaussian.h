// An exact sampler of the discrete Gaussian N_Z(0, s²), P(y) ∝ exp(−y²/2s²) on the integers, for s = 2^k.
//
// A coordinate's value is a function of the ChaCha20 keystream alone, defined over the real numbers, so that every
// instruction set and every device gives the same one whatever its rounding: the outcome of the first attempt that
// accepts.
//   An attempt takes four words w0 … w3. w0 chooses a cell by an alias table of integer weights that sum to 2^32: cell
//   j stands for the magnitudes [j, j + 1)·2^(k−5), with weight n_j ≥ N·exp(−j²/2048), N = 105,000,000. The low k − 5
//   bits of w1 are the offset in the cell, its top bit is the sign; a zero with a minus is rejected. The magnitude y is
//   accepted if the uniform number U = 0.w2 w3 … is below N/n_j·exp(−y²/2s²): the law of accepted values is N_Z
//   exactly. The last but one "cell" is the tail beyond 254·2^(k−5) = 7.94 s: t leading ones of further words choose
//   the magnitudes [0, 1)·2^(k−3) above (254 + 4t)·2^(k−5), accepted below N·2^(t+3)·exp(−y²/2s²). The last is
//   rejected.
// U is compared by its first 53 bits with a double that is within 2^−46 of the bound; where they are within 2^−40 of
// each other (and in the tail) exact rational bounds of exp and as many further bits as it takes decide.
//
// An attempt is accepted with probability 0.98, independently of the value that comes out, so the time that sampling
// takes says nothing of the noise.
//
// Coordinate i's keystream: attempt 0 is words 4(i mod 4) … of block (first + i/4) of stream `stream_id`; attempts
// 4r − 3 … 4r, r ≥ 1, are block (first + i) of stream (stream_id + r·2^32); the further words of attempt a are blocks
// (first + i) of streams (stream_id + (2^31 + a·2^12 + e)·2^32), e = 0, 1, …. So no block is used twice.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "kernels/cpu/simd.h"

namespace trib::kernels::cpu {

const DiscreteGaussianTable& discrete_gaussian_table();

// The value of coordinate `index`: the definition above, one coordinate at a time.
std::int64_t discrete_gaussian(int log2_stddev, std::span<const std::uint8_t, 32> key, std::uint64_t stream_id,
                               std::uint64_t first_counter, std::uint64_t index);

// What follows is the definition's parts, for tests.

// One attempt: the value, or none where it is rejected. w[0 … 3] are its words, next_word() its further ones in turn.
std::optional<std::int64_t> discrete_gaussian_attempt(int log2_stddev, const std::uint32_t* w,
                                                      const std::function<std::uint32_t()>& next_word);

// Whether the number in [0, 1) whose binary digits are `first_bits` and then those of next_word(), … is below
// numerator/denominator·exp(−magnitude²/2s²), s = 2^log2_stddev. Exact.
bool is_below_scaled_exp(std::uint64_t first_bits, const std::function<std::uint32_t()>& next_word,
                         std::uint64_t numerator, unsigned numerator_shift, std::uint64_t denominator,
                         std::uint64_t magnitude, int log2_stddev);

}  // namespace trib::kernels::cpu
