// A warp a row, the row in registers: each value is read and written once.
#include "kernels/cuda/fp8.cuh"
#include "kernels/cuda/operations.h"

namespace trib::kernels::cuda {
namespace {

constexpr int warps = 4;

struct Forward {
  Values x, residual, gamma, beta, y, y_narrow, normalized;
  CodeRows y_codes;
  float* inverse_deviations;
  float epsilon;
  std::int64_t rows;
  int columns;
  bool aligned;
};

// Chunks first … first + count of a row. All loads come before the first use of one, so that they are in flight
// together: a type that is looked up for each of them would make every load wait for the one before.
template <int count>
__device__ inline void load_chunks(float4 (&to)[count], const Values& v, std::int64_t row, int first, int columns,
                                   bool aligned) {
  const int start = 4 * (threadIdx.x % 32) + 128 * first;
  if (!aligned) {
#pragma unroll
    for (int c = 0; c < count; ++c) to[c] = load4_of_row(v, row, start + 128 * c, columns, false);
  } else if (v.is_bf16) {
    const auto* const from = static_cast<const __nv_bfloat16*>(v.data) + row + start;
    uint2 bits[count];
#pragma unroll
    for (int c = 0; c < count; ++c)
      bits[c] = start + 128 * c < columns ? *reinterpret_cast<const uint2*>(from + 128 * c) : uint2{};
#pragma unroll
    for (int c = 0; c < count; ++c) {
      const float2 a = unpack(bits[c].x), b = unpack(bits[c].y);
      to[c] = {a.x, a.y, b.x, b.y};
    }
  } else {
    const auto* const from = static_cast<const float*>(v.data) + row + start;
#pragma unroll
    for (int c = 0; c < count; ++c)
      to[c] = start + 128 * c < columns ? *reinterpret_cast<const float4*>(from + 128 * c) : float4{};
  }
}
// As many chunks of gamma and beta at a time as registers allow beside the row.
template <int chunks>
constexpr int group_of = chunks < 4        ? chunks
                         : chunks % 4 == 0 ? 4
                                           : 2;

// A warp's row in e4m3, from its registers.
template <int chunks>
__device__ inline void write_codes(const CodeRows& to, const float4 (&row_values)[chunks], std::int64_t row,
                                   int columns, bool aligned) {
  const int lane = threadIdx.x % 32;
  float peak = 0;
#pragma unroll
  for (int c = 0; c < chunks; ++c) peak = largest(peak, row_values[c]);
  const float2 scale = e4m3_scale(warp_max(peak));
  if (lane == 0) to.scales[row] = scale.y;
  if (to.norms != nullptr) {
    float sum = 0;
#pragma unroll
    for (int c = 0; c < chunks; ++c) sum = square_sum(sum, row_values[c]);
    sum = warp_sum(sum);
    if (lane == 0) to.norms[row] = sqrtf(sum);
  }
#pragma unroll
  for (int c = 0; c < chunks; ++c) {
    const int i = 4 * lane + 128 * c;
    if (i >= columns) continue;
    const std::uint32_t codes = e4m3_four(row_values[c], scale.x);
    std::uint8_t* at = to.codes + row * columns + i;
    if (aligned) {
      *reinterpret_cast<std::uint32_t*>(at) = codes;
      continue;
    }
    for (int j = 0; j < 4 && i + j < columns; ++j) at[j] = static_cast<std::uint8_t>(codes >> 8 * j);
  }
}

// `chunks` groups of 4 columns a lane; lane l has columns 4l + 128c …
template <int chunks>
__global__ void __launch_bounds__(32 * warps) forward_rows(Forward a) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * warps + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (row >= a.rows) return;
  const std::int64_t start = row * a.columns;
  float4 h[chunks];
  float total = 0;
  load_chunks(h, a.x, start, 0, a.columns, a.aligned);
  if (a.residual.data != nullptr) {
    float4 r[chunks];
    load_chunks(r, a.residual, start, 0, a.columns, a.aligned);
#pragma unroll
    for (int c = 0; c < chunks; ++c) h[c].x += r[c].x, h[c].y += r[c].y, h[c].z += r[c].z, h[c].w += r[c].w;
  }
#pragma unroll
  for (int c = 0; c < chunks; ++c) total += (h[c].x + h[c].y) + (h[c].z + h[c].w);
  const float mean = warp_sum(total) / static_cast<float>(a.columns);
  float squares = 0;
#pragma unroll
  for (int c = 0; c < chunks; ++c) {
    const int left = a.columns - (4 * lane + 128 * c);
    const float4 d = {h[c].x - mean, h[c].y - mean, h[c].z - mean, h[c].w - mean};
    if (left > 0) squares += d.x * d.x;
    if (left > 1) squares += d.y * d.y;
    if (left > 2) squares += d.z * d.z;
    if (left > 3) squares += d.w * d.w;
  }
  const float variance = warp_sum(squares) / static_cast<float>(a.columns);
  const float inverse = 1.0f / sqrtf(variance + a.epsilon);
  if (a.inverse_deviations != nullptr && lane == 0) a.inverse_deviations[row] = inverse;
  constexpr int group = group_of<chunks>;
#pragma unroll
  for (int first = 0; first < chunks; first += group) {
    float4 g[group], b[group];
    load_chunks(g, a.gamma, 0, first, a.columns, a.aligned);
    load_chunks(b, a.beta, 0, first, a.columns, a.aligned);
#pragma unroll
    for (int c = 0; c < group; ++c) {
      const int i = 4 * lane + 128 * (first + c);
      float4& x = h[first + c];
      const float4 unit = {(x.x - mean) * inverse, (x.y - mean) * inverse, (x.z - mean) * inverse,
                           (x.w - mean) * inverse};
      if (a.normalized.data != nullptr) store4_of_row(a.normalized, start, i, a.columns, a.aligned, unit);
      const float4 y = {unit.x * g[c].x + b[c].x, unit.y * g[c].y + b[c].y, unit.z * g[c].z + b[c].z,
                        unit.w * g[c].w + b[c].w};
      x = i < a.columns ? y : float4{};
      if (a.y.data != nullptr) store4_of_row(a.y, start, i, a.columns, a.aligned, y);
      if (a.y_narrow.data != nullptr) store4_of_row(a.y_narrow, start, i, a.columns, a.aligned, y);
    }
  }
  if (a.y_codes.codes != nullptr) write_codes<chunks>(a.y_codes, h, row, a.columns, a.aligned);
}

struct Backward {
  Values dy, normalized, gamma, dx, dx_narrow;
  CodeRows dx_codes;
  const float* inverse_deviations;
  std::int64_t rows;
  int columns;
  bool aligned;
};

// With g = dy·gamma: dx = (g − mean g − x̂·mean(g·x̂))/deviation.
template <int chunks>
__global__ void __launch_bounds__(32 * warps) backward_rows(Backward a) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * warps + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (row >= a.rows) return;
  const std::int64_t start = row * a.columns;
  float4 g[chunks], unit[chunks];
  float total = 0, projected = 0;
  load_chunks(g, a.dy, start, 0, a.columns, a.aligned);
  load_chunks(unit, a.normalized, start, 0, a.columns, a.aligned);
  constexpr int group = group_of<chunks>;
#pragma unroll
  for (int first = 0; first < chunks; first += group) {
    float4 gammas[group];
    load_chunks(gammas, a.gamma, 0, first, a.columns, a.aligned);
#pragma unroll
    for (int i = 0; i < group; ++i) {
      const int c = first + i;
      const float4 gamma = gammas[i];
      g[c].x *= gamma.x, g[c].y *= gamma.y, g[c].z *= gamma.z, g[c].w *= gamma.w;
      total += (g[c].x + g[c].y) + (g[c].z + g[c].w);
      projected += (g[c].x * unit[c].x + g[c].y * unit[c].y) + (g[c].z * unit[c].z + g[c].w * unit[c].w);
    }
  }
  const float mean = warp_sum(total) / static_cast<float>(a.columns);
  const float slope = warp_sum(projected) / static_cast<float>(a.columns);
  const float inverse = a.inverse_deviations[row];
#pragma unroll
  for (int c = 0; c < chunks; ++c) {
    const int i = 4 * lane + 128 * c;
    const float4 dx = {(g[c].x - mean - unit[c].x * slope) * inverse, (g[c].y - mean - unit[c].y * slope) * inverse,
                       (g[c].z - mean - unit[c].z * slope) * inverse, (g[c].w - mean - unit[c].w * slope) * inverse};
    if (a.dx.data != nullptr) store4_of_row(a.dx, start, i, a.columns, a.aligned, dx);
    if (a.dx_narrow.data != nullptr) store4_of_row(a.dx_narrow, start, i, a.columns, a.aligned, dx);
    g[c] = i < a.columns ? dx : float4{};
  }
  if (a.dx_codes.codes != nullptr) write_codes<chunks>(a.dx_codes, g, row, a.columns, a.aligned);
}

// Calls launch(std::integral_constant<int, chunks>) with the smallest number of chunks that holds a row.
template <typename Launch>
void with_chunks(int columns, Launch launch) {
  if (columns <= 128) return launch(std::integral_constant<int, 1>());
  if (columns <= 256) return launch(std::integral_constant<int, 2>());
  if (columns <= 512) return launch(std::integral_constant<int, 4>());
  if (columns <= 768) return launch(std::integral_constant<int, 6>());
  if (columns <= 1024) return launch(std::integral_constant<int, 8>());
  if (columns <= 2048) return launch(std::integral_constant<int, 16>());
  detail::require(columns <= 4096, "layer_norm: rows of more than 4096 columns are not served on a GPU");
  launch(std::integral_constant<int, 32>());
}

bool aligned_rows(std::initializer_list<Values> all, std::int64_t columns) {
  for (const Values& v : all)
    if (reinterpret_cast<std::uintptr_t>(v.data) % 16 != 0) return false;
  return columns % 4 == 0;
}

}  // namespace

void layer_norm(Stream& stream, const Tensor& x, const Tensor& residual, const LayerNormWeights& weights,
                const Tensor& y, const Tensor& y_bf16, const LayerNormSaved& saved, const Fp8Rows& y_fp8) {
  Forward a{.x = values(x),
            .residual = values(residual),
            .gamma = values(weights.gamma),
            .beta = values(weights.beta),
            .y = values(y),
            .y_narrow = values(y_bf16),
            .normalized = values(saved.normalized),
            .y_codes = code_rows(y_fp8),
            .inverse_deviations =
                saved.inverse_deviations.defined() ? RawAccess::data<float>(saved.inverse_deviations) : nullptr,
            .epsilon = weights.epsilon,
            .rows = x.element_count() / weights.gamma.element_count(),
            .columns = static_cast<int>(weights.gamma.element_count()),
            .aligned = false};
  detail::require(!y_fp8.defined() || a.columns % 4 == 0, "layer_norm: FP8 rows have a multiple of 4 columns");
  if (a.rows == 0) return;
  a.aligned = aligned_rows({a.x, a.residual, a.gamma, a.beta, a.y, a.y_narrow, a.normalized}, a.columns);
  with_chunks(a.columns, [&](auto chunks) {
    forward_rows<chunks.value><<<blocks_for(a.rows, warps), 32 * warps, 0, handle(stream)>>>(a);
  });
  check_launch("layer_norm");
}

void layer_norm_backward(Stream& stream, const Tensor& dy, const LayerNormWeights& weights, const LayerNormSaved& saved,
                         const Tensor& dx, const Tensor& dx_bf16, const Fp8Rows& dx_fp8) {
  Backward a{.dy = values(dy),
             .normalized = values(saved.normalized),
             .gamma = values(weights.gamma),
             .dx = values(dx),
             .dx_narrow = values(dx_bf16),
             .dx_codes = code_rows(dx_fp8),
             .inverse_deviations = RawAccess::data<float>(saved.inverse_deviations),
             .rows = dy.element_count() / weights.gamma.element_count(),
             .columns = static_cast<int>(weights.gamma.element_count()),
             .aligned = false};
  detail::require(!dx_fp8.defined() || a.columns % 4 == 0, "layer_norm: FP8 rows have a multiple of 4 columns");
  if (a.rows == 0) return;
  a.aligned = aligned_rows({a.dy, a.normalized, a.gamma, a.dx, a.dx_narrow}, a.columns);
  with_chunks(a.columns, [&](auto chunks) {
    backward_rows<chunks.value><<<blocks_for(a.rows, warps), 32 * warps, 0, handle(stream)>>>(a);
  });
  check_launch("layer_norm_backward");
}

}  // namespace trib::kernels::cuda
