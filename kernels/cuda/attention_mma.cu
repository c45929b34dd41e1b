// Attention on the tensor cores (mma.m16n8k16, from Ampere on). A block of 8 warps has one head of one record; a warp
// has 16 of its rows, whose scores stay in registers. Sums have a fixed order: no atomics, the same bits every time.
#include "kernels/cuda/attention_mma.h"
#include "kernels/cuda/mma.cuh"

namespace trib::kernels::cuda {
namespace {

constexpr int warps = 8, threads = 32 * warps, warp_rows = 16;
constexpr int tile_rows = warps * warp_rows;  // rows that are in shared memory at once
constexpr float log2_e = 1.4426950408889634f;

// Row strides in shared memory: an odd number of 16-byte units, so that eight rows lie in different banks.
template <int size>
constexpr int stride_of = size + 8;
constexpr int square_stride = tile_rows + 8;  // of the matrix of probabilities or score gradients

struct Operand {
  Bf16* data;
  std::int64_t stride;
};

struct Arguments {
  Operand query, keys, values, output, d_output, d_query, d_keys, d_values;
  const std::int32_t *query_offsets, *key_offsets;
  float *log_sums, *weighted;  // (rows, heads); weighted: Σ P∘dP of each row
  int heads;
  float scale;
};

// Rows [first, first + tile_rows) of one head into shared memory; those from `count` on become zeros, and those from
// `needed` on are left as they are.
template <int size>
__device__ inline void stage(Bf16* to, const Operand& from, std::int64_t first, int count, int needed) {
  constexpr int units = size / 8;
  for (int i = threadIdx.x; i < needed * units; i += threads) {
    const int row = i / units, unit = i % units;
    const bool present = row < count;
    copy_async(to + row * stride_of<size> + 8 * unit,
               from.data + (present ? (first + row) * from.stride : 0) + blockIdx.y * size + 8 * unit, present);
  }
}

__device__ inline float exp2_of(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline int round_up_16(int n) {
  return (n + 15) / 16 * 16;
}

// Writes a warp's accumulators (16, size), rows [row, …) of a record that has `count`, times `factor`.
template <int size>
__device__ inline void write_rows(const Operand& to, std::int64_t first, int row, int count,
                                  const float (&c)[size / 8][4], float factor0, float factor1) {
  // Four lanes hold a row's part of two tiles, 16 columns. They exchange so that lane q has columns 4q … 4q + 3: one
  // store of 8 bytes each, 32 bytes together.
  const int lane = threadIdx.x % 32, q = lane % 4, source = lane - q + q % 2 * 2;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int r = row + lane / 4 + 8 * half;
    const float factor = half == 0 ? factor0 : factor1;
    Bf16* at = to.data + (first + r) * to.stride + blockIdx.y * size + 4 * q;
#pragma unroll
    for (int n = 0; n < size / 8; n += 2) {
      const std::uint32_t left = pack(c[n][2 * half] * factor, c[n][2 * half + 1] * factor),
                          right = pack(c[n + 1][2 * half] * factor, c[n + 1][2 * half + 1] * factor);
      const std::uint32_t left0 = __shfl_sync(0xffffffffu, left, source),
                          left1 = __shfl_sync(0xffffffffu, left, source + 1),
                          right0 = __shfl_sync(0xffffffffu, right, source),
                          right1 = __shfl_sync(0xffffffffu, right, source + 1);
      if (r < count) *reinterpret_cast<uint2*>(at + 8 * n) = q < 2 ? uint2{left0, left1} : uint2{right0, right1};
    }
  }
}

__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ inline float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// Any number of queries and keys. Scores are made for 64 keys at a time, with a running maximum.
template <int size>
__global__ void __launch_bounds__(threads, 2) forward(Arguments a) {
  extern __shared__ __align__(16) Bf16 shared[];
  constexpr int stride = stride_of<size>, key_step = 64;
  Bf16 *q = shared, *k = q + tile_rows * stride, *v = k + tile_rows * stride;
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * warp_rows;
  const int first_query = a.query_offsets[blockIdx.x], queries = a.query_offsets[blockIdx.x + 1] - first_query;
  const int first_key = a.key_offsets[blockIdx.x], keys = a.key_offsets[blockIdx.x + 1] - first_key;
  const float scale = a.scale * log2_e;

  for (int query = 0; query < queries; query += tile_rows) {
    const int rows = min(queries - query, tile_rows);
    float out[size / 8][4] = {}, peak[2] = {-INFINITY, -INFINITY}, total[2] = {};
    for (int key = 0; key < keys; key += tile_rows) {
      const int columns = min(keys - key, tile_rows);
      if (query > 0 || key > 0) __syncthreads();
      if (key == 0) stage<size>(q, a.query, first_query + query, rows, round_up_16(rows));
      stage<size>(k, a.keys, first_key + key, columns, round_up_16(columns));
      stage<size>(v, a.values, first_key + key, columns, round_up_16(columns));
      wait_for_copies();
      __syncthreads();
      if (row >= rows) continue;
      for (int step = 0; step < columns; step += key_step) {
        float s[key_step / 8][4] = {};
#pragma unroll
        for (int d = 0; d < size; d += 16) {
          std::uint32_t left[4];
          left_factor<stride>(left, q, row, d);
#pragma unroll
          for (int n = 0; n < key_step; n += 16) {
            if (step + n >= columns) continue;
            std::uint32_t right[4];
            right_factor_of_transposed<stride>(right, k, d, step + n);
            multiply_add(s[n / 8], left, right[0], right[1]);
            multiply_add(s[n / 8 + 1], left, right[2], right[3]);
          }
        }
        float most[2] = {peak[0], peak[1]};
#pragma unroll
        for (int n = 0; n < key_step / 8; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int column = step + 8 * n + lane % 4 * 2 + e % 2;
            s[n][e] = column < columns ? s[n][e] * scale : -INFINITY;
            most[e / 2] = fmaxf(most[e / 2], s[n][e]);
          }
        float shrink[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          most[half] = quad_max(most[half]);
          shrink[half] = exp2_of(peak[half] - most[half]);
          peak[half] = most[half];
          total[half] *= shrink[half];
        }
#pragma unroll
        for (int n = 0; n < size / 8; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) out[n][e] *= shrink[e / 2];
#pragma unroll
        for (int n = 0; n < key_step / 8; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            s[n][e] = exp2_of(s[n][e] - peak[e / 2]);
            total[e / 2] += s[n][e];
          }
#pragma unroll
        for (int n = 0; n < key_step; n += 16) {
          if (step + n >= columns) continue;
          const float(&s0)[4] = s[n / 8], (&s1)[4] = s[n / 8 + 1];
          const std::uint32_t left[4] = {pack(s0[0], s0[1]), pack(s0[2], s0[3]), pack(s1[0], s1[1]),
                                         pack(s1[2], s1[3])};
#pragma unroll
          for (int d = 0; d < size; d += 16) {
            std::uint32_t right[4];
            right_factor<stride>(right, v, step + n, d);
            multiply_add(out[d / 8], left, right[0], right[1]);
            multiply_add(out[d / 8 + 1], left, right[2], right[3]);
          }
        }
      }
    }
    if (row >= rows) continue;
    total[0] = quad_sum(total[0]);
    total[1] = quad_sum(total[1]);
    write_rows<size>(a.output, first_query + query, row, rows, out, 1.0f / total[0], 1.0f / total[1]);
    if (a.log_sums != nullptr && lane % 4 == 0) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int r = row + lane / 4 + 8 * half;
        if (r < rows)
          a.log_sums[static_cast<std::int64_t>(first_query + query + r) * a.heads + blockIdx.y] =
              (peak[half] + log2f(total[half])) / log2_e;
      }
    }
  }
}

// c (16, size) += mᵀ[rows of this warp]·right over `count` rows of m and of right; m (·, tile_rows) row-major.
template <int size>
__device__ inline void add_transposed_product(float (&c)[size / 8][4], const Bf16* m, int row, const Bf16* right,
                                              int count) {
  for (int k = 0; k < count; k += 16) {
    std::uint32_t left[4];
    left_factor_of_transposed<square_stride>(left, m, row, k);
#pragma unroll
    for (int d = 0; d < size; d += 16) {
      std::uint32_t r[4];
      right_factor<stride_of<size>>(r, right, k, d);
      multiply_add(c[d / 8], left, r[0], r[1]);
      multiply_add(c[d / 8 + 1], left, r[2], r[3]);
    }
  }
}

// Sixteen rows of m, which stay in registers while all keys (or queries) pass: shared memory is what limits here.
template <int size>
__device__ inline void load_rows(std::uint32_t (&x)[size / 16][4], const Bf16* m, int row) {
#pragma unroll
  for (int d = 0; d < size; d += 16) left_factor<stride_of<size>>(x[d / 16], m, row, d);
}
// s (16, 16) += x·yᵀ for the rows in x and rows [n, n + 16) of y.
template <int size>
__device__ inline void add_scores(float (&s)[2][4], const std::uint32_t (&x)[size / 16][4], const Bf16* y, int n) {
#pragma unroll
  for (int d = 0; d < size; d += 16) {
    std::uint32_t right[4];
    right_factor_of_transposed<stride_of<size>>(right, y, d, n);
    multiply_add(s[0], x[d / 16], right[0], right[1]);
    multiply_add(s[1], x[d / 16], right[2], right[3]);
  }
}
// c (16, size) += p·m for p (16, 16) in two accumulator tiles and rows [k, k + 16) of m.
template <int size>
__device__ inline void add_product(float (&c)[size / 8][4], const std::uint32_t (&p)[4], const Bf16* m, int k) {
#pragma unroll
  for (int d = 0; d < size; d += 16) {
    std::uint32_t right[4];
    right_factor<stride_of<size>>(right, m, k, d);
    multiply_add(c[d / 8], p, right[0], right[1]);
    multiply_add(c[d / 8 + 1], p, right[2], right[3]);
  }
}
// Two accumulator tiles as a left factor.
__device__ inline void round_tiles(std::uint32_t (&p)[4], const float (&s)[2][4]) {
#pragma unroll
  for (int part = 0; part < 4; ++part) p[part] = pack(s[part / 2][part % 2 * 2], s[part / 2][part % 2 * 2 + 1]);
}

// Records of up to tile_rows queries and keys. Probabilities stay in registers, rounded as the products take them; the
// gradient at them is made twice, once for its mean and once for the scores' gradient, which spares its registers.
template <int size>
__global__ void __launch_bounds__(threads, 2) backward(Arguments a) {
  extern __shared__ __align__(16) Bf16 shared[];
  constexpr int stride = stride_of<size>, steps = tile_rows / 16;
  Bf16 *q = shared, *g = q + tile_rows * stride, *k = g + tile_rows * stride, *v = k + tile_rows * stride,
       *square = v + tile_rows * stride;  // probabilities, then the scores' gradient: (queries, keys)
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * warp_rows;
  const int first_query = a.query_offsets[blockIdx.x], queries = a.query_offsets[blockIdx.x + 1] - first_query;
  const int first_key = a.key_offsets[blockIdx.x], keys = a.key_offsets[blockIdx.x + 1] - first_key;
  const int query_end = round_up_16(queries), key_end = round_up_16(keys);
  stage<size>(q, a.query, first_query, queries, query_end);
  stage<size>(k, a.keys, first_key, keys, key_end);
  stage<size>(g, a.d_output, first_query, queries, query_end);
  stage<size>(v, a.values, first_key, keys, key_end);
  const float scale = a.scale * log2_e;
  float log_sum[2] = {INFINITY, INFINITY};  // rows beyond the record get probabilities of 0
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int r = row + lane / 4 + 8 * half;
    if (r < queries)
      log_sum[half] = a.log_sums[static_cast<std::int64_t>(first_query + r) * a.heads + blockIdx.y] * log2_e;
  }
  wait_for_copies();
  __syncthreads();

  auto write_square = [&](const std::uint32_t(&p)[4], int n) {
    Bf16* at = square + (row + lane / 4) * square_stride + n + lane % 4 * 2;
    *reinterpret_cast<std::uint32_t*>(at) = p[0];
    *reinterpret_cast<std::uint32_t*>(at + 8 * square_stride) = p[1];
    *reinterpret_cast<std::uint32_t*>(at + 8) = p[2];
    *reinterpret_cast<std::uint32_t*>(at + 8 * square_stride + 8) = p[3];
  };

  std::uint32_t probabilities[steps][4];
  float mean[2] = {};
  if (row < query_end) {
    std::uint32_t q_rows[size / 16][4], g_rows[size / 16][4];
    load_rows<size>(q_rows, q, row);
    load_rows<size>(g_rows, g, row);
#pragma unroll
    for (int step = 0; step < steps; ++step) {
      if (16 * step >= key_end) continue;
      float s[2][4] = {}, dp[2][4] = {};
      add_scores<size>(s, q_rows, k, 16 * step);
      add_scores<size>(dp, g_rows, v, 16 * step);
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int column = 16 * step + 8 * n + lane % 4 * 2 + e % 2;
          s[n][e] = column < keys ? exp2_of(s[n][e] * scale - log_sum[e / 2]) : 0.0f;
          mean[e / 2] += s[n][e] * dp[n][e];
        }
      round_tiles(probabilities[step], s);
      write_square(probabilities[step], 16 * step);
    }
    mean[0] = quad_sum(mean[0]);
    mean[1] = quad_sum(mean[1]);
  }
  __syncthreads();
  if (row < key_end) {
    float c[size / 8][4] = {};
    add_transposed_product<size>(c, square, row, g, query_end);
    write_rows<size>(a.d_values, first_key, row, keys, c, 1.0f, 1.0f);
  }
  __syncthreads();
  if (row < query_end) {
    std::uint32_t g_rows[size / 16][4];
    load_rows<size>(g_rows, g, row);
    float c[size / 8][4] = {};
#pragma unroll
    for (int step = 0; step < steps; ++step) {
      if (16 * step >= key_end) continue;
      float dp[2][4] = {};
      add_scores<size>(dp, g_rows, v, 16 * step);
      std::uint32_t ds[4];
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        const float2 p = unpack(probabilities[step][part]);
        const float m = mean[part % 2];
        ds[part] = pack(p.x * (dp[part / 2][part % 2 * 2] - m), p.y * (dp[part / 2][part % 2 * 2 + 1] - m));
      }
      write_square(ds, 16 * step);
      add_product<size>(c, ds, k, 16 * step);
    }
    write_rows<size>(a.d_query, first_query, row, queries, c, a.scale, a.scale);
  }
  if (a.d_keys.data == nullptr) return;
  __syncthreads();
  if (row < key_end) {
    float c[size / 8][4] = {};
    add_transposed_product<size>(c, square, row, q, query_end);
    write_rows<size>(a.d_keys, first_key, row, keys, c, a.scale, a.scale);
  }
}

// Longer records, in two kernels. d_query: keys pass twice, for Σ P∘dP of each row, which the other kernel reads too,
// and for the scores' gradient.
template <int size>
__global__ void __launch_bounds__(threads, 2) backward_queries(Arguments a) {
  extern __shared__ __align__(16) Bf16 shared[];
  constexpr int stride = stride_of<size>;
  Bf16 *q = shared, *g = q + tile_rows * stride, *k = g + tile_rows * stride, *v = k + tile_rows * stride;
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * warp_rows;
  const int first_query = a.query_offsets[blockIdx.x], queries = a.query_offsets[blockIdx.x + 1] - first_query;
  const int first_key = a.key_offsets[blockIdx.x], keys = a.key_offsets[blockIdx.x + 1] - first_key;
  const float scale = a.scale * log2_e;
  for (int query = 0; query < queries; query += tile_rows) {
    const int rows = min(queries - query, tile_rows);
    auto at = [&](int half) {
      return static_cast<std::int64_t>(first_query + query + row + lane / 4 + 8 * half) * a.heads + blockIdx.y;
    };
    float log_sum[2] = {INFINITY, INFINITY}, mean[2] = {}, c[size / 8][4] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half)
      if (row + lane / 4 + 8 * half < rows) log_sum[half] = a.log_sums[at(half)] * log2_e;
    std::uint32_t q_rows[size / 16][4], g_rows[size / 16][4];
    for (int pass = 0; pass < 2; ++pass) {
      for (int key = 0; key < keys; key += tile_rows) {
        const int columns = min(keys - key, tile_rows);
        const bool is_first = pass == 0 && key == 0;
        __syncthreads();
        if (is_first) {
          stage<size>(q, a.query, first_query + query, rows, round_up_16(rows));
          stage<size>(g, a.d_output, first_query + query, rows, round_up_16(rows));
        }
        stage<size>(k, a.keys, first_key + key, columns, round_up_16(columns));
        stage<size>(v, a.values, first_key + key, columns, round_up_16(columns));
        wait_for_copies();
        __syncthreads();
        if (row >= rows) continue;
        if (is_first) {
          load_rows<size>(q_rows, q, row);
          load_rows<size>(g_rows, g, row);
        }
        for (int step = 0; step < columns; step += 16) {
          float s[2][4] = {}, dp[2][4] = {};
          add_scores<size>(s, q_rows, k, step);
          add_scores<size>(dp, g_rows, v, step);
#pragma unroll
          for (int n = 0; n < 2; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              const int column = step + 8 * n + lane % 4 * 2 + e % 2;
              const float p = column < columns ? exp2_of(s[n][e] * scale - log_sum[e / 2]) : 0.0f;
              if (pass == 0) mean[e / 2] += p * dp[n][e];
              s[n][e] = p * (dp[n][e] - mean[e / 2]);
            }
          if (pass == 0) continue;
          std::uint32_t ds[4];
          round_tiles(ds, s);
          add_product<size>(c, ds, k, step);
        }
      }
      if (pass == 0) mean[0] = quad_sum(mean[0]), mean[1] = quad_sum(mean[1]);
    }
    if (row >= rows) continue;
    write_rows<size>(a.d_query, first_query + query, row, rows, c, a.scale, a.scale);
#pragma unroll
    for (int half = 0; half < 2; ++half)
      if (lane % 4 == 0 && row + lane / 4 + 8 * half < rows) a.weighted[at(half)] = mean[half];
  }
}

// d_values and d_keys: a warp has 16 keys, and makes the transposed scores.
template <int size>
__global__ void __launch_bounds__(threads) backward_keys(Arguments a) {
  extern __shared__ __align__(16) Bf16 shared[];
  __shared__ float log_sums[tile_rows], weighted[tile_rows];
  constexpr int stride = stride_of<size>;
  Bf16 *q = shared, *g = q + tile_rows * stride, *k = g + tile_rows * stride, *v = k + tile_rows * stride;
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * warp_rows;
  const int first_query = a.query_offsets[blockIdx.x], queries = a.query_offsets[blockIdx.x + 1] - first_query;
  const int first_key = a.key_offsets[blockIdx.x], keys = a.key_offsets[blockIdx.x + 1] - first_key;
  const float scale = a.scale * log2_e;
  for (int key = 0; key < keys; key += tile_rows) {
    const int rows = min(keys - key, tile_rows);
    float dk[size / 8][4] = {}, dv[size / 8][4] = {};
    std::uint32_t k_rows[size / 16][4], v_rows[size / 16][4];
    for (int query = 0; query < queries; query += tile_rows) {
      const int columns = min(queries - query, tile_rows);
      __syncthreads();
      if (query == 0) {
        stage<size>(k, a.keys, first_key + key, rows, round_up_16(rows));
        stage<size>(v, a.values, first_key + key, rows, round_up_16(rows));
      }
      stage<size>(q, a.query, first_query + query, columns, round_up_16(columns));
      stage<size>(g, a.d_output, first_query + query, columns, round_up_16(columns));
      for (int i = threadIdx.x; i < tile_rows; i += threads) {
        const std::int64_t at = static_cast<std::int64_t>(first_query + query + i) * a.heads + blockIdx.y;
        log_sums[i] = i < columns ? a.log_sums[at] * log2_e : INFINITY;
        weighted[i] = i < columns ? a.weighted[at] : 0.0f;
      }
      wait_for_copies();
      __syncthreads();
      if (row >= rows) continue;
      if (query == 0) {
        load_rows<size>(k_rows, k, row);
        load_rows<size>(v_rows, v, row);
      }
      for (int step = 0; step < columns; step += 16) {
        float s[2][4] = {}, dp[2][4] = {};
        add_scores<size>(s, k_rows, q, step);
        add_scores<size>(dp, v_rows, g, step);
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int column = step + 8 * n + lane % 4 * 2 + e % 2;
            s[n][e] = exp2_of(s[n][e] * scale - log_sums[column]);
            dp[n][e] = s[n][e] * (dp[n][e] - weighted[column]);
          }
        std::uint32_t p[4], ds[4];
        round_tiles(p, s);
        round_tiles(ds, dp);
        add_product<size>(dv, p, g, step);
        add_product<size>(dk, ds, q, step);
      }
    }
    if (row >= rows) continue;
    write_rows<size>(a.d_values, first_key + key, row, rows, dv, 1.0f, 1.0f);
    if (a.d_keys.data != nullptr) write_rows<size>(a.d_keys, first_key + key, row, rows, dk, a.scale, a.scale);
  }
}

Operand operand(const MatrixView& view) {
  if (!view.defined()) return {};
  return {RawAccess::data<Bf16>(view.tensor) + view.first_column, view.row_stride()};
}

// bfloat16 whose rows start at multiples of 16 bytes.
bool fits(const MatrixView& view) {
  if (!view.defined()) return true;
  return view.tensor.dtype() == DType::bf16 && view.row_stride() % 8 == 0 && view.first_column % 8 == 0 &&
         reinterpret_cast<std::uintptr_t>(RawAccess::address(view.tensor)) % 16 == 0;
}

bool inputs_fit(const AttentionInputs& in) {
  return (in.head_size() == 64 || in.head_size() == 32) && fits(in.query) && fits(in.keys) && fits(in.values);
}

Arguments arguments(const AttentionInputs& in, const Tensor& log_sums) {
  Arguments a{};
  a.query = operand(in.query);
  a.keys = operand(in.keys);
  a.values = operand(in.values);
  a.query_offsets = RawAccess::data<std::int32_t>(in.query_offsets);
  a.key_offsets = RawAccess::data<std::int32_t>(in.key_offsets);
  a.log_sums = log_sums.defined() ? RawAccess::data<float>(log_sums) : nullptr;
  a.heads = static_cast<int>(in.heads);
  a.scale = 1.0f / std::sqrt(static_cast<float>(in.head_size()));
  return a;
}

template <typename Kernel>
void launch(Stream& stream, Kernel kernel, const Arguments& a, const AttentionInputs& in, std::int64_t elements) {
  const auto records = static_cast<unsigned>(in.query_offsets.element_count() - 1);
  if (records == 0) return;
  const auto bytes = static_cast<std::size_t>(elements) * sizeof(Bf16);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "shared memory");
  kernel<<<dim3(records, static_cast<unsigned>(in.heads)), threads, bytes, handle(stream)>>>(a);
  check_launch("attention");
}

}  // namespace

bool mma_attention_serves(const AttentionInputs& in, const Tensor& output) {
  return inputs_fit(in) && fits(output);
}

void mma_attention(Stream& stream, const AttentionInputs& in, const Tensor& output, const Tensor& log_sums) {
  Arguments a = arguments(in, log_sums);
  a.output = operand(output);
  if (in.head_size() == 64) {
    launch(stream, forward<64>, a, in, 3 * tile_rows * stride_of<64>);
  } else {
    launch(stream, forward<32>, a, in, 3 * tile_rows * stride_of<32>);
  }
}

bool mma_attention_backward_serves(const AttentionInputs& in, const Tensor& d_output, const MatrixView& d_query,
                                   const MatrixView& d_keys, const MatrixView& d_values) {
  return inputs_fit(in) && fits(d_output) && fits(d_query) && fits(d_keys) && fits(d_values);
}

void mma_attention_backward(Stream& stream, const AttentionInputs& in, const Tensor& log_sums, const Tensor& d_output,
                            const MatrixView& d_query, const MatrixView& d_keys, const MatrixView& d_values) {
  Arguments a = arguments(in, log_sums);
  a.d_output = operand(d_output);
  a.d_query = operand(d_query);
  a.d_keys = operand(d_keys);
  a.d_values = operand(d_values);
  auto serve = [&](auto head_size) {
    constexpr int size = head_size.value;
    constexpr std::int64_t tiles = 4 * tile_rows * stride_of<size>;
    if (in.longest > 0 && in.longest <= tile_rows)
      return launch(stream, backward<size>, a, in, tiles + tile_rows * square_stride);
    const Tensor weighted(stream.device(), DType::f32, log_sums.shape());
    a.weighted = RawAccess::data<float>(weighted);
    launch(stream, backward_queries<size>, a, in, tiles);
    launch(stream, backward_keys<size>, a, in, tiles);
  };
  in.head_size() == 64 ? serve(std::integral_constant<int, 64>()) : serve(std::integral_constant<int, 32>());
}

}  // namespace trib::kernels::cuda
