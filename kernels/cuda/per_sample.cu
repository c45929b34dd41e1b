// Per-sample gradients, and what DP-SGD does with them. Every sum has a fixed order, so the same inputs give the same
// bits.
#include "kernels/cuda/device_functions.cuh"
#include "kernels/cuda/operations.h"
#include "kernels/cuda/per_sample.cuh"

namespace trib::kernels::cuda {
namespace {

constexpr int threads = 128;

// ---- segment_products ------------------------------------------------------------------------------------------

constexpr int narrow_columns = 8, token_tile = 64;

struct Segments {
  Matrix wide, narrow;  // the factor with more columns, and the other
  int wide_columns, narrow_count;
  const std::int32_t *offsets, *rows;
  float* out;
  std::int64_t out_stride;
  std::int64_t wide_step, narrow_step;  // of an element of out, for the next column of each factor
  float alpha;
  bool pairs;  // two neighbouring columns of `wide` are one aligned load
};

// A thread has two columns of the wide factor and eight of the narrow one, and passes over the record's rows.
__global__ void __launch_bounds__(threads) segment_kernel(Segments a) {
  __shared__ float narrow[token_tile][narrow_columns];
  const int first_narrow = blockIdx.z * narrow_columns, column = 2 * (blockIdx.x * threads + threadIdx.x);
  const int begin = a.offsets[blockIdx.y], end = a.offsets[blockIdx.y + 1];
  float low[narrow_columns] = {}, high[narrow_columns] = {};
  for (int first = begin; first < end; first += token_tile) {
    const int count = min(token_tile, end - first);
    __syncthreads();
    for (int i = threadIdx.x; i < count * narrow_columns; i += threads) {
      const int c = first_narrow + i % narrow_columns;
      narrow[i / narrow_columns][i % narrow_columns] =
          c < a.narrow_count
              ? load(a.narrow.values, static_cast<std::int64_t>(first + i / narrow_columns) * a.narrow.stride + c)
              : 0.0f;
    }
    __syncthreads();
    if (column >= a.wide_columns) continue;
#pragma unroll 8
    for (int t = 0; t < count; ++t) {
      const std::int64_t at = static_cast<std::int64_t>(first + t) * a.wide.stride + column;
      float2 x = {};
      if (a.pairs) {
        if (a.wide.values.is_bf16) {
          x = unpack(
              *reinterpret_cast<const std::uint32_t*>(static_cast<const __nv_bfloat16*>(a.wide.values.data) + at));
        } else {
          x = *reinterpret_cast<const float2*>(static_cast<const float*>(a.wide.values.data) + at);
        }
      } else {
        x.x = load(a.wide.values, at);
        if (column + 1 < a.wide_columns) x.y = load(a.wide.values, at + 1);
      }
#pragma unroll
      for (int c = 0; c < narrow_columns; ++c) {
        low[c] = fmaf(x.x, narrow[t][c], low[c]);
        high[c] = fmaf(x.y, narrow[t][c], high[c]);
      }
    }
  }
  if (column >= a.wide_columns) return;
  float* to = a.out + a.rows[blockIdx.y] * a.out_stride + column * a.wide_step;
#pragma unroll
  for (int c = 0; c < narrow_columns; ++c) {
    if (first_narrow + c >= a.narrow_count) break;
    to[(first_narrow + c) * a.narrow_step] = a.alpha * low[c];
    if (column + 1 < a.wide_columns) to[(first_narrow + c) * a.narrow_step + a.wide_step] = a.alpha * high[c];
  }
}

// ---- norms and sums --------------------------------------------------------------------------------------------

// Squares are added in float32 by a thread over at most 256 values, and in float64 from there on.
__device__ double squared_norm_of(const float* x, std::int64_t count, double* shared) {
  double total = 0;
  const bool aligned = reinterpret_cast<std::uintptr_t>(x) % 16 == 0;
  const std::int64_t vectors = aligned ? count / 4 : 0;
  int pending = 0;
  float part = 0;
  for (std::int64_t i = threadIdx.x; i < vectors; i += blockDim.x) {
    const float4 v = reinterpret_cast<const float4*>(x)[i];
    part += (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
    if (++pending == 64) {
      total += static_cast<double>(part);
      part = 0;
      pending = 0;
    }
  }
  total += static_cast<double>(part);
  for (std::int64_t i = 4 * vectors + threadIdx.x; i < count; i += blockDim.x)
    total += static_cast<double>(x[i]) * x[i];
  return block_sum(total, shared);
}

// partial[tensor][sample]; a block for each.
__global__ void __launch_bounds__(threads) tensor_norms(Gradients group, int samples, int first, double* partial) {
  __shared__ double shared[32];
  const Gradient& g = group.tensors[blockIdx.y];
  const std::int64_t i = blockIdx.x;
  double total = 0;
  if (g.values != nullptr) {
    total = squared_norm_of(g.values + i * g.size, g.size, shared);
  } else {
    total = squared_norm_of(g.output_grads + i * g.p, g.p, shared);
    total *= squared_norm_of(g.inputs + i * g.q, g.q, shared);
  }
  if (threadIdx.x == 0) partial[(first + blockIdx.y) * static_cast<std::int64_t>(samples) + i] = total;
}

__global__ void add_partials(const double* partial, int samples, int tensors, float* to) {
  const int i = blockIdx.x * threads + threadIdx.x;
  if (i >= samples) return;
  double total = 0;
  for (int t = 0; t < tensors; ++t) total += partial[static_cast<std::int64_t>(t) * samples + i];
  to[i] = static_cast<float>(total);
}

__global__ void factor_kernel(const float* squared, int count, double bound, bool automatic, double stability,
                              float* factors) {
  const int i = blockIdx.x * threads + threadIdx.x;
  if (i >= count) return;
  const double norm = sqrt(static_cast<double>(squared[i]));
  double factor = 0;
  if (isfinite(norm)) factor = automatic ? bound / (norm + stability) : norm > bound ? bound / norm : 1.0;
  factors[i] = static_cast<float>(factor);
}

__global__ void __launch_bounds__(threads)
    count_below(const float* x, std::int64_t count, float limit, unsigned long long* to) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  const int below = __syncthreads_count(i < count && x[i] < limit);
  if (threadIdx.x == 0 && below > 0) atomicAdd(to, static_cast<unsigned long long>(below));
}

__global__ void __launch_bounds__(threads) add_all(const float* x, std::int64_t count, double* total) {
  __shared__ double shared[32];
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < count; i += threads) sum += static_cast<double>(x[i]);
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) *total += sum;
}

// sum += Σ_i factors[i]·gradient_i: a thread has four neighbouring elements of a materialized gradient, or of one row
// of an outer product, and passes over the samples.
__global__ void __launch_bounds__(threads) weighted_sum(Gradients group, const float* factors, int samples) {
  const Gradient& g = group.tensors[blockIdx.y];
  const bool outer = g.values == nullptr;
  const int row_length = outer ? g.q : static_cast<int>(g.size);
  const int groups_a_row = (row_length + 3) / 4, rows = outer ? g.p : 1;
  const std::int64_t groups = static_cast<std::int64_t>(groups_a_row) * rows;
  for (std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x; at < groups;
       at += static_cast<std::int64_t>(gridDim.x) * threads) {
    const int row = static_cast<int>(at / groups_a_row), j = 4 * static_cast<int>(at % groups_a_row);
    const float* values = outer ? g.inputs : g.values;
    const bool aligned = row_length % 4 == 0 && reinterpret_cast<std::uintptr_t>(values) % 16 == 0 &&
                         reinterpret_cast<std::uintptr_t>(g.sum) % 16 == 0;
    const Values from{const_cast<float*>(values)}, to{g.sum};
    float4 total = load4_of_row(to, static_cast<std::int64_t>(row) * row_length, j, row_length, aligned);
#pragma unroll 4
    for (int i = 0; i < samples; ++i) {
      float factor = factors[i];
      const float4 v = load4_of_row(from, static_cast<std::int64_t>(i) * row_length, j, row_length, aligned);
      if (outer) factor *= g.output_grads[static_cast<std::int64_t>(i) * g.p + row];
      // Not only a shortcut: a left-out sample may hold infinities.
      if (factors[i] == 0) continue;
      total.x = fmaf(factor, v.x, total.x);
      total.y = fmaf(factor, v.y, total.y);
      total.z = fmaf(factor, v.z, total.z);
      total.w = fmaf(factor, v.w, total.w);
    }
    store4_of_row(to, static_cast<std::int64_t>(row) * row_length, j, row_length, aligned, total);
  }
}

__global__ void __launch_bounds__(threads) one_norm(const float* x, std::int64_t count, double* to) {
  __shared__ double shared[32];
  const std::int64_t share = (count + gridDim.x - 1) / gridDim.x / 4 * 4 + 4, begin = blockIdx.x * share;
  const double total = begin < count ? squared_norm_of(x + begin, min(share, count - begin), shared) : 0.0;
  if (threadIdx.x == 0) to[blockIdx.x] = total;
}

}  // namespace

void segment_products(Stream& stream, float alpha, const MatrixView& a, const MatrixView& b, const Tensor& offsets,
                      const Tensor& rows, const Tensor& out) {
  const std::int64_t count = rows.element_count();
  if (count == 0 || out.dim(1) == 0) return;
  const bool a_is_wide = a.columns >= b.columns;
  const MatrixView &wide = a_is_wide ? a : b, &narrow = a_is_wide ? b : a;
  Segments s{.wide = matrix(wide),
             .narrow = matrix(narrow),
             .wide_columns = static_cast<int>(wide.columns),
             .narrow_count = static_cast<int>(narrow.columns),
             .offsets = RawAccess::data<std::int32_t>(offsets),
             .rows = RawAccess::data<std::int32_t>(rows),
             .out = RawAccess::data<float>(out),
             .out_stride = out.dim(1),
             .wide_step = a_is_wide ? b.columns : 1,
             .narrow_step = a_is_wide ? 1 : b.columns,
             .alpha = alpha,
             .pairs = false};
  s.pairs = wide.columns % 2 == 0 && s.wide.stride % 2 == 0 &&
            reinterpret_cast<std::uintptr_t>(s.wide.values.data) % (s.wide.values.is_bf16 ? 4 : 8) == 0;
  const dim3 grid(blocks_for(wide.columns, 2 * threads), static_cast<unsigned>(count),
                  blocks_for(narrow.columns, narrow_columns));
  segment_kernel<<<grid, threads, 0, handle(stream)>>>(s);
  check_launch("segment_products");
}

void joint_squared_norms(Stream& stream, const PerSampleGradients& gradients, const Tensor& squared_norms) {
  const int samples = static_cast<int>(gradients.sample_count);
  if (samples == 0) return;
  const auto tensors = static_cast<std::int64_t>(gradients.tensors.size());
  const Tensor partial(stream.device(), DType::f64, {tensors * samples});
  const cudaStream_t raw = handle(stream);
  in_groups(gradients, {}, [&](const Gradients& group, unsigned first, unsigned count) {
    tensor_norms<<<dim3(static_cast<unsigned>(samples), count), threads, 0, raw>>>(group, samples, first,
                                                                                   RawAccess::data<double>(partial));
  });
  add_partials<<<blocks_for(samples, threads), threads, 0, raw>>>(
      RawAccess::data<double>(partial), samples, static_cast<int>(tensors), RawAccess::data<float>(squared_norms));
  check_launch("joint_squared_norms");
}

void clip_factors(Stream& stream, const Tensor& squared_norms, double bound, ClippingRule rule, double stability,
                  const Tensor& factors) {
  const int count = static_cast<int>(factors.element_count());
  if (count == 0) return;
  factor_kernel<<<blocks_for(count, threads), threads, 0, handle(stream)>>>(
      RawAccess::data<float>(squared_norms), count, bound, rule == ClippingRule::automatic, stability,
      RawAccess::data<float>(factors));
  check_launch("clip_factors");
}

void add_count_below(Stream& stream, const Tensor& x, float limit, const Tensor& count) {
  if (x.element_count() == 0) return;
  count_below<<<blocks_for(x.element_count(), threads), threads, 0, handle(stream)>>>(
      RawAccess::data<float>(x), x.element_count(), limit, RawAccess::data<unsigned long long>(count));
  check_launch("add_count_below");
}

void add_sum(Stream& stream, const Tensor& x, const Tensor& total) {
  if (x.element_count() == 0) return;
  add_all<<<1, threads, 0, handle(stream)>>>(RawAccess::data<float>(x), x.element_count(),
                                             RawAccess::data<double>(total));
  check_launch("add_sum");
}

void add_weighted_sum(Stream& stream, const PerSampleGradients& gradients, const Tensor& factors,
                      const std::vector<Tensor>& sums) {
  const int samples = static_cast<int>(gradients.sample_count);
  if (samples == 0) return;
  std::int64_t most = 0;
  for (const PerSampleGradient& g : gradients.tensors) most = std::max(most, element_count(g.shape));
  const unsigned blocks = std::min(blocks_for(most, 4 * threads), 4096u);
  in_groups(gradients, sums, [&](const Gradients& group, unsigned, unsigned count) {
    weighted_sum<<<dim3(blocks, count), threads, 0, handle(stream)>>>(group, RawAccess::data<float>(factors), samples);
  });
  check_launch("add_weighted_sum");
}

double squared_norm(Stream& stream, const std::vector<Tensor>& tensors) {
  constexpr std::int64_t blocks = 256;
  const Tensor partial = Tensor::zeros(stream, DType::f64, {static_cast<std::int64_t>(tensors.size()), blocks});
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    detail::require(tensors[t].dtype() == DType::f32, "squared_norm: float32 tensors are needed");
    if (tensors[t].element_count() == 0) continue;
    one_norm<<<blocks, threads, 0, handle(stream)>>>(
        RawAccess::data<float>(tensors[t]), tensors[t].element_count(),
        RawAccess::data<double>(partial) + static_cast<std::int64_t>(t) * blocks);
  }
  check_launch("squared_norm");
  const HostTensor host = partial.to_host(stream);
  double total = 0;
  for (double part : host.as<double>()) total += part;
  return total;
}

}  // namespace trib::kernels::cuda
