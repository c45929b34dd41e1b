// Sums on an integer grid, and the discrete Gaussian, on the device: the same integers as kernels/cpu gives
// (simd_grid.cpp and discrete_gaussian.h, which defines the sampler). Built without fused multiply-adds.
#include <cstring>
#include <map>
#include <mutex>

#include "kernels/cpu/discrete_gaussian.h"
#include "kernels/cuda/chacha.cuh"
#include "kernels/cuda/device_functions.cuh"
#include "kernels/cuda/operations.h"
#include "kernels/cuda/per_sample.cuh"

namespace trib::kernels::cuda {
namespace {

constexpr int threads = 128;
using Table = cpu::DiscreteGaussianTable;

// factors[i]/spacing, divided in float64 and rounded once.
__global__ void divide(const float* factors, int count, double spacing, float* to) {
  const int i = blockIdx.x * threads + threadIdx.x;
  if (i < count) to[i] = static_cast<float>(static_cast<double>(factors[i]) / spacing);
}

// A thread has four neighbouring elements of a materialized gradient, or of one row of an outer product, and passes
// over the samples. 256 rounded values of up to 2^22 fit 32 bits.
__global__ void __launch_bounds__(threads) rounded_sum(Gradients group, const float* factors, int samples) {
  const Gradient& g = group.tensors[blockIdx.y];
  const bool outer = g.values == nullptr;
  const int row_length = outer ? g.q : static_cast<int>(g.size);
  const int groups_a_row = (row_length + 3) / 4, rows = outer ? g.p : 1;
  const std::int64_t groups = static_cast<std::int64_t>(groups_a_row) * rows;
  for (std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x; at < groups;
       at += static_cast<std::int64_t>(gridDim.x) * threads) {
    const int row = static_cast<int>(at / groups_a_row), j = 4 * static_cast<int>(at % groups_a_row);
    const float* values = outer ? g.inputs : g.values;
    const bool aligned = row_length % 4 == 0 && reinterpret_cast<std::uintptr_t>(values) % 16 == 0;
    const Values from{const_cast<float*>(values)};
    std::int64_t* to = g.integers + static_cast<std::int64_t>(row) * row_length + j;
    long long total[4] = {};
    for (int top = 0; top < samples; top += 256) {
      const int bottom = min(samples, top + 256);
      int part[4] = {};
#pragma unroll 4
      for (int i = top; i < bottom; ++i) {
        float factor = factors[i];
        const float4 v = load4_of_row(from, static_cast<std::int64_t>(i) * row_length, j, row_length, aligned);
        // Not only a shortcut: a left-out sample may hold infinities.
        if (factor == 0) continue;
        if (outer) factor = __fmul_rn(factor, g.output_grads[static_cast<std::int64_t>(i) * g.p + row]);
        if (factor == 0) continue;
        part[0] += __float2int_rn(__fmul_rn(v.x, factor));
        part[1] += __float2int_rn(__fmul_rn(v.y, factor));
        part[2] += __float2int_rn(__fmul_rn(v.z, factor));
        part[3] += __float2int_rn(__fmul_rn(v.w, factor));
      }
      for (int e = 0; e < 4; ++e) total[e] += part[e];
    }
    for (int e = 0; e < 4 && j + e < row_length; ++e) to[e] += total[e];
  }
}

// exp(−x) for 0 ≤ x < 0.26, as on the CPU.
__device__ inline double exp_of_minus(double x) {
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

enum class Outcome { accepted, rejected, undecided };

// One attempt, from its first four words. Undecided: the tail, and where float64 does not tell.
__device__ inline Outcome attempt(const Table& table, int log2_stddev, double step, const std::uint32_t* w,
                                  std::int64_t& value) {
  const int offset_bits = log2_stddev - 5;
  const std::uint32_t offset_mask = (std::uint32_t{1} << offset_bits) - 1;
  const std::uint32_t slot = w[0] >> 24, low = w[0] & 0xffffff;
  const std::uint32_t cell = low < table.threshold[slot] ? slot : table.alias[slot];
  const std::uint32_t offset = w[1] & offset_mask;
  const double u = offset * step;
  const double acceptance = table.acceptance[cell] * exp_of_minus(u * (cell * 0.03125 + 0.5 * u));
  const double uniform = ((w[2] >> 6) * 134217728.0 + (w[3] >> 5)) * 0x1p-53;
  const std::int64_t magnitude = (static_cast<std::int64_t>(cell) << offset_bits) + offset;
  const bool negative = w[1] >> 31;
  if (cell == Table::cells - 1) return Outcome::rejected;
  if (cell == Table::cells - 2) return Outcome::undecided;
  if (magnitude == 0 && negative) return Outcome::rejected;
  value = negative ? -magnitude : magnitude;
  if (acceptance - uniform > 0x1p-40) return Outcome::accepted;
  return uniform - acceptance > 0x1p-40 ? Outcome::rejected : Outcome::undecided;
}

// A thread has four coordinates, whose first attempts are one block of the keystream. What the device cannot decide
// goes to the host: pending[0] counts it, its indices follow, in any order.
__global__ void __launch_bounds__(threads)
    add_discrete(const Table* table, int log2_stddev, ChaChaKey key, std::uint64_t stream_id,
                 std::uint64_t first_counter, std::int64_t* y, std::int64_t count, unsigned long long* pending,
                 std::int64_t most_pending) {
  const std::int64_t block = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (4 * block >= count) return;
  const double step = ldexp(1.0, -log2_stddev);
  std::uint32_t words[16];
  chacha20_block(key, first_counter + static_cast<std::uint64_t>(block), stream_id, words);
  for (int q = 0; q < 4; ++q) {
    const std::int64_t i = 4 * block + q;
    if (i >= count) return;
    std::int64_t value = 0;
    Outcome outcome = attempt(*table, log2_stddev, step, words + 4 * q, value);
    for (std::uint64_t r = 1; outcome == Outcome::rejected; ++r) {
      std::uint32_t more[16];
      chacha20_block(key, first_counter + static_cast<std::uint64_t>(i), stream_id + (r << 32), more);
      for (int a = 0; a < 4 && outcome == Outcome::rejected; ++a)
        outcome = attempt(*table, log2_stddev, step, more + 4 * a, value);
    }
    if (outcome == Outcome::accepted) {
      y[i] += value;
    } else {
      const unsigned long long at = atomicAdd(pending, 1ULL);
      if (at < static_cast<unsigned long long>(most_pending)) pending[1 + at] = static_cast<unsigned long long>(i);
    }
  }
}

__global__ void add_at(const std::int64_t* indices, const std::int64_t* values, int count, std::int64_t* y) {
  const int i = blockIdx.x * threads + threadIdx.x;
  if (i < count) y[indices[i]] += values[i];
}

template <typename T>
__global__ void scale_integers(double a, const std::int64_t* from, T* to, std::int64_t count) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (i < count) to[i] = static_cast<T>(a * static_cast<double>(from[i]));
}

// The sampler's table on the stream's device, uploaded once.
const Table* device_table(Stream& stream) {
  static std::mutex mutex;
  static auto& tables = *new std::map<Device*, Tensor>();
  const std::lock_guard lock(mutex);
  Tensor& table = tables[&stream.device()];
  if (!table.defined()) {
    table = Tensor(stream.device(), DType::u8, {static_cast<std::int64_t>(sizeof(Table))});
    stream.device().copy_from_host(stream, RawAccess::address(table), &cpu::discrete_gaussian_table(), sizeof(Table));
  }
  return reinterpret_cast<const Table*>(RawAccess::address(table));
}

}  // namespace

void add_rounded_sum(Stream& stream, const PerSampleGradients& gradients, const Tensor& factors, double spacing,
                     const std::vector<Tensor>& sums) {
  const int samples = static_cast<int>(gradients.sample_count);
  if (samples == 0) return;
  const Tensor scaled(stream.device(), DType::f32, {samples});
  divide<<<blocks_for(samples, threads), threads, 0, handle(stream)>>>(RawAccess::data<float>(factors), samples,
                                                                       spacing, RawAccess::data<float>(scaled));
  std::int64_t most = 0;
  for (const PerSampleGradient& g : gradients.tensors) most = std::max(most, element_count(g.shape));
  const unsigned blocks = std::min(blocks_for(most, 4 * threads), 4096u);
  in_groups(gradients, sums, [&](const Gradients& group, unsigned, unsigned count) {
    rounded_sum<<<dim3(blocks, count), threads, 0, handle(stream)>>>(group, RawAccess::data<float>(scaled), samples);
  });
  check_launch("add_rounded_sum");
}

void add_discrete_gaussian_noise(Stream& stream, int log2_stddev, std::span<const std::uint8_t, 32> key,
                                 std::uint64_t stream_id, std::uint64_t first_counter, const Tensor& y) {
  const std::int64_t count = y.element_count();
  if (count == 0) return;
  ChaChaKey words;
  std::memcpy(words.words, key.data(), sizeof words.words);
  constexpr std::int64_t most_pending = 1023;  // 2^−32 of the coordinates are undecided
  const Tensor pending = Tensor::zeros(stream, DType::i64, {1 + most_pending});
  add_discrete<<<blocks_for(count, 4 * threads), threads, 0, handle(stream)>>>(
      device_table(stream), log2_stddev, words, stream_id, first_counter, RawAccess::data<std::int64_t>(y), count,
      reinterpret_cast<unsigned long long*>(RawAccess::data<std::int64_t>(pending)), most_pending);
  explicit_bzero(&words, sizeof words);
  check_launch("add_discrete_gaussian_noise");
  const HostTensor host = pending.to_host(stream);
  const auto list = host.as<std::int64_t>();
  if (list[0] == 0) return;
  detail::require(list[0] <= most_pending, "add_discrete_gaussian_noise: more undecided coordinates than there can be");
  const std::vector<std::int64_t> indices(list.begin() + 1, list.begin() + 1 + list[0]);
  std::vector<std::int64_t> additions;
  for (std::int64_t i : indices)
    additions.push_back(
        cpu::discrete_gaussian(log2_stddev, key, stream_id, first_counter, static_cast<std::uint64_t>(i)));
  const Tensor at = Tensor::from_host(stream, std::span<const std::int64_t>(indices)),
               values = Tensor::from_host(stream, std::span<const std::int64_t>(additions));
  explicit_bzero(additions.data(), additions.size() * sizeof(std::int64_t));
  add_at<<<blocks_for(list[0], threads), threads, 0, handle(stream)>>>(
      RawAccess::data<std::int64_t>(at), RawAccess::data<std::int64_t>(values), static_cast<int>(list[0]),
      RawAccess::data<std::int64_t>(y));
  check_launch("add_discrete_gaussian_noise");
}

void scale_grid(Stream& stream, double a, const Tensor& grid, const Tensor& y) {
  const std::int64_t count = y.element_count();
  if (count == 0) return;
  const std::int64_t* from = RawAccess::data<std::int64_t>(grid);
  const unsigned blocks = blocks_for(count, threads);
  if (y.dtype() == DType::f64) {
    scale_integers<<<blocks, threads, 0, handle(stream)>>>(a, from, RawAccess::data<double>(y), count);
  } else {
    scale_integers<<<blocks, threads, 0, handle(stream)>>>(a, from, RawAccess::data<float>(y), count);
  }
  check_launch("scale_grid");
}

}  // namespace trib::kernels::cuda
