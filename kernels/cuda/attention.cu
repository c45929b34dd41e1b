// Attention in float32 arithmetic for any head size up to 128 and any length: what float32 models use, and bfloat16
// ones where attention_mma.cu does not serve. A block works on one head of one record; keys and values pass through
// shared memory in tiles, and scores are made again in the backward pass (FlashAttention, Dao et al. 2022).
#include "kernels/cuda/attention_mma.h"
#include "kernels/cuda/device_functions.cuh"
#include "kernels/cuda/operations.h"

namespace trib::kernels::cuda {
namespace {

constexpr int warps = 8, rows_per_warp = 4, tile = 32;
constexpr int row_block = warps * rows_per_warp;
constexpr int largest_head = 128, parts = largest_head / 32;  // of a head's columns that one lane holds

struct Arguments {
  Matrix query, keys, values, output, d_output, d_query, d_keys, d_values;
  const std::int32_t *query_offsets, *key_offsets;
  float *log_sums, *weighted;  // (rows, heads); weighted: Σ P∘dP of each row
  int heads, size;
  float scale;
};

struct Range {
  int first, count;
};
__device__ inline Range record_rows(const std::int32_t* offsets) {
  const int first = offsets[blockIdx.x];
  return {first, offsets[blockIdx.x + 1] - first};
}

// Rows [first, first + count) of one head into shared memory of row stride `stride`, zero up to `limit` rows.
__device__ inline void stage(const Matrix& from, int first, int count, int limit, int size, float* to, int stride) {
  const int column = blockIdx.y * size;
  for (int i = threadIdx.x; i < limit * size; i += blockDim.x) {
    const int r = i / size, d = i % size;
    to[r * stride + d] =
        r < count ? load(from.values, static_cast<std::int64_t>(first + r) * from.stride + column + d) : 0.0f;
  }
}

__device__ inline float dot(const float* a, const float* b, int size) {
  float total = 0;
  for (int d = 0; d < size; ++d) total = fmaf(a[d], b[d], total);
  return total;
}

// acc[p] += Σ_j weight_j·rows[j][lane + 32p], where lane j holds weight_j.
__device__ inline void add_weighted_rows(float weight, const float* rows, int stride, int size, float* acc) {
  const int lane = threadIdx.x % 32;
  for (int j = 0; j < tile; ++j) {
    const float w = __shfl_sync(0xffffffffu, weight, j);
#pragma unroll
    for (int p = 0; p < parts; ++p)
      if (lane + 32 * p < size) acc[p] = fmaf(w, rows[j * stride + lane + 32 * p], acc[p]);
  }
}

__device__ inline void write_row(const Matrix& to, int row, int size, const float* acc, float factor) {
  const int lane = threadIdx.x % 32;
  const std::int64_t start = static_cast<std::int64_t>(row) * to.stride + blockIdx.y * size;
#pragma unroll
  for (int p = 0; p < parts; ++p)
    if (lane + 32 * p < size) store(to.values, start + lane + 32 * p, acc[p] * factor);
}

__global__ void __launch_bounds__(32 * warps) forward(Arguments a) {
  extern __shared__ float shared[];
  const int stride = a.size + 1, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float *k = shared, *v = k + tile * stride, *q = v + tile * stride;
  const Range queries = record_rows(a.query_offsets), keys = record_rows(a.key_offsets);
  for (int first = 0; first < queries.count; first += row_block) {
    __syncthreads();
    stage(a.query, queries.first + first, queries.count - first, row_block, a.size, q, stride);
    float acc[rows_per_warp][parts] = {}, peak[rows_per_warp], total[rows_per_warp] = {};
    for (float& p : peak) p = -INFINITY;
    for (int key = 0; key < keys.count; key += tile) {
      __syncthreads();
      stage(a.keys, keys.first + key, keys.count - key, tile, a.size, k, stride);
      stage(a.values, keys.first + key, keys.count - key, tile, a.size, v, stride);
      __syncthreads();
#pragma unroll
      for (int r = 0; r < rows_per_warp; ++r) {
        const float score = key + lane < keys.count
                                ? a.scale * dot(q + (warp * rows_per_warp + r) * stride, k + lane * stride, a.size)
                                : -INFINITY;
        const float most = fmaxf(peak[r], warp_max(score)), shrink = expf(peak[r] - most), weight = expf(score - most);
        total[r] = total[r] * shrink + warp_sum(weight);
        peak[r] = most;
#pragma unroll
        for (int p = 0; p < parts; ++p) acc[r][p] *= shrink;
        add_weighted_rows(weight, v, stride, a.size, acc[r]);
      }
    }
#pragma unroll
    for (int r = 0; r < rows_per_warp; ++r) {
      const int row = first + warp * rows_per_warp + r;
      if (row >= queries.count) continue;
      write_row(a.output, queries.first + row, a.size, acc[r], 1.0f / total[r]);
      if (a.log_sums != nullptr && lane == 0)
        a.log_sums[static_cast<std::int64_t>(queries.first + row) * a.heads + blockIdx.y] = peak[r] + logf(total[r]);
    }
  }
}

// d_query, and Σ P∘dP of each row for the other kernel. Keys pass twice: the sum must be known before dS.
__global__ void __launch_bounds__(32 * warps) backward_queries(Arguments a) {
  extern __shared__ float shared[];
  const int stride = a.size + 1, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float *k = shared, *v = k + tile * stride, *q = v + tile * stride, *g = q + row_block * stride;
  const Range queries = record_rows(a.query_offsets), keys = record_rows(a.key_offsets);
  for (int first = 0; first < queries.count; first += row_block) {
    __syncthreads();
    stage(a.query, queries.first + first, queries.count - first, row_block, a.size, q, stride);
    stage(a.d_output, queries.first + first, queries.count - first, row_block, a.size, g, stride);
    float acc[rows_per_warp][parts] = {}, weighted[rows_per_warp] = {};
    for (int pass = 0; pass < 2; ++pass) {
      for (int key = 0; key < keys.count; key += tile) {
        __syncthreads();
        stage(a.keys, keys.first + key, keys.count - key, tile, a.size, k, stride);
        stage(a.values, keys.first + key, keys.count - key, tile, a.size, v, stride);
        __syncthreads();
#pragma unroll
        for (int r = 0; r < rows_per_warp; ++r) {
          const int local = warp * rows_per_warp + r;
          float p = 0, dp = 0;
          if (key + lane < keys.count && first + local < queries.count) {
            const float log_sum =
                a.log_sums[static_cast<std::int64_t>(queries.first + first + local) * a.heads + blockIdx.y];
            p = expf(a.scale * dot(q + local * stride, k + lane * stride, a.size) - log_sum);
            dp = dot(g + local * stride, v + lane * stride, a.size);
          }
          if (pass == 0) {
            weighted[r] += warp_sum(p * dp);
          } else {
            add_weighted_rows(p * (dp - weighted[r]), k, stride, a.size, acc[r]);
          }
        }
      }
    }
#pragma unroll
    for (int r = 0; r < rows_per_warp; ++r) {
      const int row = first + warp * rows_per_warp + r;
      if (row >= queries.count) continue;
      write_row(a.d_query, queries.first + row, a.size, acc[r], a.scale);
      if (lane == 0) a.weighted[static_cast<std::int64_t>(queries.first + row) * a.heads + blockIdx.y] = weighted[r];
    }
  }
}

// d_values and d_keys: the same with the roles of queries and keys exchanged; a lane is a query.
__global__ void __launch_bounds__(32 * warps) backward_keys(Arguments a) {
  extern __shared__ float shared[];
  const int stride = a.size + 1, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float *q = shared, *g = q + tile * stride, *k = g + tile * stride, *v = k + row_block * stride;
  const Range queries = record_rows(a.query_offsets), keys = record_rows(a.key_offsets);
  for (int first = 0; first < keys.count; first += row_block) {
    __syncthreads();
    stage(a.keys, keys.first + first, keys.count - first, row_block, a.size, k, stride);
    stage(a.values, keys.first + first, keys.count - first, row_block, a.size, v, stride);
    float dk[rows_per_warp][parts] = {}, dv[rows_per_warp][parts] = {};
    for (int query = 0; query < queries.count; query += tile) {
      __syncthreads();
      stage(a.query, queries.first + query, queries.count - query, tile, a.size, q, stride);
      stage(a.d_output, queries.first + query, queries.count - query, tile, a.size, g, stride);
      __syncthreads();
#pragma unroll
      for (int r = 0; r < rows_per_warp; ++r) {
        const int local = warp * rows_per_warp + r;
        float p = 0, ds = 0;
        if (query + lane < queries.count && first + local < keys.count) {
          const std::int64_t at = static_cast<std::int64_t>(queries.first + query + lane) * a.heads + blockIdx.y;
          p = expf(a.scale * dot(k + local * stride, q + lane * stride, a.size) - a.log_sums[at]);
          ds = p * (dot(v + local * stride, g + lane * stride, a.size) - a.weighted[at]);
        }
        add_weighted_rows(p, g, stride, a.size, dv[r]);
        if (a.d_keys.values.data != nullptr) add_weighted_rows(ds, q, stride, a.size, dk[r]);
      }
    }
#pragma unroll
    for (int r = 0; r < rows_per_warp; ++r) {
      const int row = first + warp * rows_per_warp + r;
      if (row >= keys.count) continue;
      write_row(a.d_values, keys.first + row, a.size, dv[r], 1.0f);
      if (a.d_keys.values.data != nullptr) write_row(a.d_keys, keys.first + row, a.size, dk[r], a.scale);
    }
  }
}

Arguments arguments(const AttentionInputs& in) {
  detail::require(in.head_size() <= largest_head, "attention: head sizes above 128 are not served on a GPU");
  Arguments a{};
  a.query = matrix(in.query);
  a.keys = matrix(in.keys);
  a.values = matrix(in.values);
  a.query_offsets = RawAccess::data<std::int32_t>(in.query_offsets);
  a.key_offsets = RawAccess::data<std::int32_t>(in.key_offsets);
  a.heads = static_cast<int>(in.heads);
  a.size = static_cast<int>(in.head_size());
  a.scale = 1.0f / std::sqrt(static_cast<float>(a.size));
  return a;
}

template <typename Kernel>
void launch(Stream& stream, Kernel kernel, const Arguments& a, const AttentionInputs& in, int rows_in_shared) {
  const auto records = static_cast<unsigned>(in.query_offsets.element_count() - 1);
  if (records == 0) return;
  const int bytes = rows_in_shared * (a.size + 1) * static_cast<int>(sizeof(float));
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "shared memory");
  kernel<<<dim3(records, static_cast<unsigned>(in.heads)), 32 * warps, static_cast<std::size_t>(bytes),
           handle(stream)>>>(a);
  check_launch("attention");
}

}  // namespace

void attention(Stream& stream, const AttentionInputs& in, const Tensor& output, const Tensor& log_sums) {
  if (mma_attention_serves(in, output)) return mma_attention(stream, in, output, log_sums);
  Arguments a = arguments(in);
  a.output = matrix(output);
  a.log_sums = log_sums.defined() ? RawAccess::data<float>(log_sums) : nullptr;
  launch(stream, forward, a, in, 2 * tile + row_block);
}

void attention_backward(Stream& stream, const AttentionInputs& in, const Tensor& log_sums, const Tensor& d_output,
                        const MatrixView& d_query, const MatrixView& d_keys, const MatrixView& d_values) {
  if (mma_attention_backward_serves(in, d_output, d_query, d_keys, d_values))
    return mma_attention_backward(stream, in, log_sums, d_output, d_query, d_keys, d_values);
  Arguments a = arguments(in);
  const Tensor weighted(stream.device(), DType::f32, log_sums.shape());
  a.d_output = matrix(d_output);
  a.d_query = matrix(d_query);
  a.d_keys = matrix(d_keys);
  a.d_values = matrix(d_values);
  a.log_sums = RawAccess::data<float>(log_sums);
  a.weighted = RawAccess::data<float>(weighted);
  launch(stream, backward_queries, a, in, 2 * tile + 2 * row_block);
  launch(stream, backward_keys, a, in, 2 * tile + 2 * row_block);
}

}  // namespace trib::kernels::cuda
