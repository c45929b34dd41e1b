// Sums on an integer grid, and the discrete Gaussian, on the device: the same integers as kernels/cpu gives
// (simd_grid.cpp and discrete_gaussian.h, which defines the sampler). Built without fused multiply-adds.
//
// An attempt of the sampler that float64 leaves open, about one coordinate in 2^32, is decided by the thread that meets
// it, in integers of a fixed width (detail/scaled_exp.h). A way over the host would cost every call two copies and a
// host function in the stream, tens of microseconds a tensor, or a wait: for what almost never comes. The width ends
// where an event of probability 2^−128 an attempt would need more; the kernel then fails, and never gives another
// number.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>

#include "kernels/cpu/discrete_gaussian.h"
#include "kernels/cuda/chacha.cuh"
#include "kernels/cuda/device_functions.cuh"
#include "kernels/cuda/operations.h"
#include "kernels/cuda/per_sample.cuh"
#include "kernels/detail/scaled_exp.h"

namespace trib::kernels::cuda {
namespace {

constexpr int threads = 128;

// ---- sums ------------------------------------------------------------------------------------------------------

// factors[i]/spacing, divided in float64 and rounded once.
__global__ void divide(const float* factors, int count, double spacing, float* to) {
  const int i = blockIdx.x * threads + threadIdx.x;
  if (i < count) to[i] = static_cast<float>(static_cast<double>(factors[i]) / spacing);
}

// What samples [begin, end) add to elements j … j + 3 of a row: of a materialized gradient, or of row `row` of an outer
// product.
template <bool outer, bool aligned>
__device__ inline void add_rounded(const Gradient& g, const float* factors, int begin, int end, int row, int j,
                                   int row_length, long long (&total)[4]) {
  constexpr int most = 256;  // rounded values of up to 2^22 that fit 32 bits
  const Values from{const_cast<float*>(outer ? g.inputs : g.values)};
  for (int top = begin; top < end; top += most) {
    const int bottom = min(end, top + most);
    int part[4] = {};
#pragma unroll 8
    for (int i = top; i < bottom; ++i) {
      const float4 v = load4_of_row(from, static_cast<std::int64_t>(i) * row_length, j, row_length, aligned);
      float factor = factors[i];
      if (outer && factor != 0) factor = __fmul_rn(factor, g.output_grads[static_cast<std::int64_t>(i) * g.p + row]);
      // Not only a shortcut: a left-out sample may hold infinities.
      if (factor != 0) {
        part[0] += __float2int_rn(__fmul_rn(v.x, factor));
        part[1] += __float2int_rn(__fmul_rn(v.y, factor));
        part[2] += __float2int_rn(__fmul_rn(v.z, factor));
        part[3] += __float2int_rn(__fmul_rn(v.w, factor));
      }
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) total[e] += part[e];
  }
}

// A thread has four neighbouring elements and passes over a share of the samples, whose number is gridDim.z: integers
// give the same sum in any order.
__global__ void __launch_bounds__(threads)
    rounded_sum(const __grid_constant__ Gradients group, const float* factors, int samples) {
  const Gradient& g = group.tensors[blockIdx.y];
  const bool outer = g.values == nullptr;
  const int row_length = outer ? g.q : static_cast<int>(g.size);
  const int groups_a_row = (row_length + 3) / 4, rows = outer ? g.p : 1;
  const std::int64_t groups = static_cast<std::int64_t>(groups_a_row) * rows;
  const int share = (samples + gridDim.z - 1) / gridDim.z, begin = blockIdx.z * share,
            end = min(samples, begin + share);
  const bool aligned = row_length % 4 == 0 && reinterpret_cast<std::uintptr_t>(outer ? g.inputs : g.values) % 16 == 0;
  for (std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x; at < groups;
       at += static_cast<std::int64_t>(gridDim.x) * threads) {
    const int row = static_cast<int>(at / groups_a_row), j = 4 * static_cast<int>(at % groups_a_row);
    long long total[4] = {};
    if (outer) {
      aligned ? add_rounded<true, true>(g, factors, begin, end, row, j, row_length, total)
              : add_rounded<true, false>(g, factors, begin, end, row, j, row_length, total);
    } else {
      aligned ? add_rounded<false, true>(g, factors, begin, end, row, j, row_length, total)
              : add_rounded<false, false>(g, factors, begin, end, row, j, row_length, total);
    }
    std::int64_t* to = g.integers + static_cast<std::int64_t>(row) * row_length + j;
    for (int e = 0; e < 4 && j + e < row_length; ++e) {
      if (gridDim.z == 1) {
        to[e] += total[e];
      } else {
        atomicAdd(reinterpret_cast<unsigned long long*>(to + e), static_cast<unsigned long long>(total[e]));
      }
    }
  }
}

// ---- noise -----------------------------------------------------------------------------------------------------

using Table = cpu::DiscreteGaussianTable;
constexpr std::uint32_t tail = Table::cells - 2, again = Table::cells - 1;
constexpr std::uint32_t scale = 105'000'000;  // N of discrete_gaussian.h

struct Sampler {
  const Table* table;
  int log2_stddev;
  double step, margin;  // 2^−log2_stddev; what float64 does not decide
  ChaChaKey key;
  std::uint64_t stream_id, first_counter;
};

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

// The words of an attempt that go beyond its four.
class FurtherWords {
 public:
  __device__ FurtherWords(const Sampler& sampler, std::uint64_t index, std::uint64_t number)
      : sampler_(sampler),
        stream_id_(sampler.stream_id + (((std::uint64_t{1} << 31) + (number << 12)) << 32)),
        counter_(sampler.first_counter + index) {}
  __device__ std::uint32_t next() {
    if (used_ == 16) {
      chacha20_block(sampler_.key, counter_, stream_id_, block_);
      stream_id_ += std::uint64_t{1} << 32;
      used_ = 0;
    }
    return block_[used_++];
  }

 private:
  const Sampler& sampler_;
  std::uint64_t stream_id_, counter_;
  std::uint32_t block_[16];
  int used_ = 16;
};

// Whether attempt `number` of coordinate `index` is accepted where that takes exact arithmetic. Gives the tail's
// magnitude too.
__device__ __noinline__ bool decide(const Sampler& sampler, std::uint64_t index, std::uint64_t number,
                                    std::uint32_t cell, std::uint32_t w2, std::uint32_t w3, std::int64_t& magnitude) {
  FurtherWords further(sampler, index, number);
  std::uint32_t denominator = sampler.table->weight[cell];
  int shift = 0;
  if (cell == tail) {
    int ones = 0, run;
    do {
      run = __clz(static_cast<int>(~further.next()));
      ones += run;
    } while (run == 32 && ones <= detail::ScaledExp::most_ones);
    if (ones > detail::ScaledExp::most_ones) __trap();
    const int offset_bits = sampler.log2_stddev - 5;
    const std::uint64_t high = further.next();
    const std::uint64_t offset = (high << 32 | further.next()) & ((std::uint64_t{1} << (offset_bits + 2)) - 1);
    magnitude = static_cast<std::int64_t>(((tail + 4 * static_cast<std::uint64_t>(ones)) << offset_bits) + offset);
    denominator = 1;
    shift = ones + 3;
  }
  const detail::ScaledExp bound(scale, shift, denominator, static_cast<std::uint64_t>(magnitude), sampler.log2_stddev);
  std::uint32_t digits[detail::ScaledExp::most_words] = {w2, w3};
  for (int count = 2; count <= detail::ScaledExp::most_words; ++count) {
    if (count > 2) digits[count - 1] = further.next();
    const detail::Comparison comparison = bound.compare(digits, count);
    if (comparison != detail::Comparison::undecided) return comparison == detail::Comparison::below;
  }
  __trap();
  return false;
}

// One attempt, from its first four words: whether it is accepted, and the value.
__device__ inline bool attempt(const Sampler& sampler, std::uint64_t index, std::uint64_t number,
                               const std::uint32_t* w, std::int64_t& value) {
  const Table& table = *sampler.table;
  const int offset_bits = sampler.log2_stddev - 5;
  const std::uint32_t slot = w[0] >> 24, low = w[0] & 0xffffff;
  const std::uint32_t cell = low < table.threshold[slot] ? slot : table.alias[slot];
  if (cell == again) return false;
  const std::uint32_t offset = w[1] & ((std::uint32_t{1} << offset_bits) - 1);
  std::int64_t magnitude = (static_cast<std::int64_t>(cell) << offset_bits) + offset;
  const bool negative = w[1] >> 31;
  if (magnitude == 0 && negative) return false;
  const double u = offset * sampler.step;
  const double acceptance = table.acceptance[cell] * exp_of_minus(u * (cell * 0.03125 + 0.5 * u));
  const double uniform = static_cast<double>((static_cast<std::uint64_t>(w[2]) << 32 | w[3]) >> 11) * 0x1p-53;
  const double difference = acceptance - uniform;  // not a number in the tail
  const bool accepted =
      fabs(difference) > sampler.margin ? difference > 0 : decide(sampler, index, number, cell, w[2], w[3], magnitude);
  value = negative ? -magnitude : magnitude;
  return accepted;
}

// A thread has four coordinates, whose first attempts are one block of the keystream. The 2 % of them that are rejected
// follow, one after the other, so that the threads of a warp do so together.
__global__ void __launch_bounds__(threads)
    add_discrete(const __grid_constant__ Sampler sampler, std::int64_t* y, std::int64_t count) {
  const std::int64_t block = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x, first = 4 * block;
  if (first >= count) return;
  std::uint32_t words[16];
  chacha20_block(sampler.key, sampler.first_counter + static_cast<std::uint64_t>(block), sampler.stream_id, words);
  unsigned rejected = 0;
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    std::int64_t value;
    if (first + q >= count) break;
    if (attempt(sampler, static_cast<std::uint64_t>(first + q), 0, words + 4 * q, value)) {
      y[first + q] += value;
    } else {
      rejected |= 1u << q;
    }
  }
  while (rejected != 0) {
    const auto index = static_cast<std::uint64_t>(first + __ffs(static_cast<int>(rejected)) - 1);
    rejected &= rejected - 1;
    std::int64_t value;
    bool accepted = false;
    for (std::uint64_t r = 1; !accepted; ++r) {
      chacha20_block(sampler.key, sampler.first_counter + index, sampler.stream_id + (r << 32), words);
#pragma unroll
      for (unsigned a = 0; a < 4; ++a) {
        if (!accepted) accepted = attempt(sampler, index, 4 * (r - 1) + a + 1, words + 4 * a, value);
      }
    }
    y[index] += value;
  }
}

// The sampler's table on the stream's device, uploaded once.
const Table* device_table(Stream& stream) {
  static std::mutex mutex;
  static auto& tables = *new std::map<Device*, Tensor>();
  const std::lock_guard lock(mutex);
  Tensor& table = tables[&stream.device()];
  if (!table.defined()) {
    Tensor fresh(stream.device(), DType::u8, {static_cast<std::int64_t>(sizeof(Table))});
    stream.device().copy_from_host(stream, RawAccess::address(fresh), &cpu::discrete_gaussian_table(), sizeof(Table));
    table = fresh;
  }
  return RawAccess::data<const Table>(table);
}

template <typename T>
__global__ void scale_integers(double a, const std::int64_t* from, T* to, std::int64_t count) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (i < count) to[i] = static_cast<T>(a * static_cast<double>(from[i]));
}

}  // namespace

void add_rounded_sum(Stream& stream, const PerSampleGradients& gradients, const Tensor& factors, double spacing,
                     const std::vector<Tensor>& sums) {
  const int samples = static_cast<int>(gradients.sample_count);
  if (samples == 0) return;
  const Tensor scaled(stream.device(), DType::f32, {samples});
  divide<<<blocks_for(samples, threads), threads, 0, handle(stream)>>>(RawAccess::data<float>(factors), samples,
                                                                       spacing, RawAccess::data<float>(scaled));
  std::int64_t most = 0, all = 0;
  for (const PerSampleGradient& g : gradients.tensors) {
    most = std::max(most, element_count(g.shape));
    all += element_count(g.shape);
  }
  if (all == 0) return;
  const unsigned blocks = std::min(blocks_for(most, 4 * threads), 4096u);
  // Few coordinates do not fill the device: then several threads share the samples of one, 32 or more each.
  const std::int64_t wanted = std::int64_t{multiprocessors(stream)} * 1024 * 4;
  const auto shares = static_cast<unsigned>(std::clamp<std::int64_t>(wanted / all, 1, (samples + 31) / 32));
  in_groups(gradients, sums, [&](const Gradients& group, unsigned, unsigned count) {
    rounded_sum<<<dim3(blocks, count, shares), threads, 0, handle(stream)>>>(group, RawAccess::data<float>(scaled),
                                                                             samples);
  });
  check_launch("add_rounded_sum");
}

void add_discrete_gaussian_noise(Stream& stream, int log2_stddev, std::span<const std::uint8_t, 32> key,
                                 std::uint64_t stream_id, std::uint64_t first_counter, const Tensor& y, double margin) {
  const std::int64_t count = y.element_count();
  if (count == 0) return;
  Sampler sampler{.table = device_table(stream),
                  .log2_stddev = log2_stddev,
                  .step = std::ldexp(1.0, -log2_stddev),
                  .margin = margin,
                  .key = {},
                  .stream_id = stream_id,
                  .first_counter = first_counter};
  std::memcpy(sampler.key.words, key.data(), sizeof sampler.key.words);  // little-endian words
  add_discrete<<<blocks_for(count, 4 * threads), threads, 0, handle(stream)>>>(sampler,
                                                                               RawAccess::data<std::int64_t>(y), count);
  explicit_bzero(&sampler, sizeof sampler);
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
