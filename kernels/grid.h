// Sums on an integer grid, and the noise that is added to them: what makes DP-SGD safe in floating point.
//
// A clipped record becomes the integers nearest to its gradient over the grid's spacing. They are summed in 64 bits,
// without rounding, so a record moves the sum by exactly its own integers whatever else is in it, and the noise is
// drawn on the same grid from the discrete Gaussian itself: no result has low bits that tell how it was made.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/per_sample.h"

namespace trib::kernels {

// The largest magnitude that one record's coordinate may have on the grid. An int64 sum holds 2^40 such records with
// room for the noise.
inline constexpr std::int64_t max_grid_coordinate = std::int64_t{1} << 22;
inline constexpr int min_log2_grid_stddev = 5, max_log2_grid_stddev = 36;

// sums[t] += Σ_i round(factors[i]/spacing · gradient_i of tensor t): integers, sums[t] int64 of tensors[t].shape. The
// products are float32, rounded to the nearest integer, ties to even; every device gives the same sums. The caller's
// factors and spacing keep |factors[i]·gradient_i| ≤ spacing·max_grid_coordinate. Factor 0 leaves a record out.
void add_rounded_sum(Stream& stream, const PerSampleGradients& gradients, const Tensor& factors, double spacing,
                     const std::vector<Tensor>& sums);

// y += N_Z(0, 2^(2·log2_stddev)) in every coordinate: an exact sampler (kernels/cpu/discrete_gaussian.h is its
// definition, the same numbers on every device) of the ChaCha20 keystreams (key, stream id + n·2^32). `stream_id` below
// 2^32. y: int64. Returns the first unused counter, first_counter + the number of coordinates. The caller never repeats
// a (key, stream id, counter).
std::uint64_t add_discrete_gaussian_noise(Stream& stream, int log2_stddev, std::span<const std::uint8_t, 32> key,
                                          std::uint64_t stream_id, std::uint64_t first_counter, const Tensor& y);

// y = a·grid, computed in float64: grid int64; y float32 or float64 of as many elements.
void scale_grid(Stream& stream, double a, const Tensor& grid, const Tensor& y);

}  // namespace trib::kernels
