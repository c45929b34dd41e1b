// add_discrete_gaussian_noise with another margin between what float64 decides and what takes exact arithmetic, for
// tests of the latter on a GPU: at the usual one it comes once in 2^32 coordinates.
#pragma once

#include "kernels/grid.h"

namespace trib::kernels::detail {

// What float64 computes is within 2^−46 of the bound.
inline constexpr double discrete_gaussian_margin = 0x1p-40;

// The same numbers at every margin from that on. At 2 nothing is left to float64. The CPU does not read `margin`.
std::uint64_t add_discrete_gaussian_noise(Stream& stream, int log2_stddev, std::span<const std::uint8_t, 32> key,
                                          std::uint64_t stream_id, std::uint64_t first_counter, const Tensor& y,
                                          double margin);

}  // namespace trib::kernels::detail
