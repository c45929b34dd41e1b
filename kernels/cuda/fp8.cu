// Rounding rows to e4m3: a row in the registers of a warp or of a block, so that its largest magnitude and its codes
// take one pass over memory. Rows are taken from the last to the first: what the product before wrote last is still in
// the L2 cache.
#include "kernels/cuda/fp8.cuh"
#include "kernels/cuda/fp8.h"

namespace trib::kernels::cuda {
namespace {

constexpr int block = 128;

// Eight neighbours. `aligned` code takes bfloat16 whose rows allow vector loads: with the type known, all loads of a
// thread are in flight together.
struct Eight {
  float4 low, high;
};
template <bool aligned>
__device__ inline Eight load8(const Values& v, std::int64_t row, int i, int columns) {
  if constexpr (aligned) {
    const uint4 bits = *reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(v.data) + row + i);
    const float2 a = unpack(bits.x), b = unpack(bits.y), c = unpack(bits.z), d = unpack(bits.w);
    return {{a.x, a.y, b.x, b.y}, {c.x, c.y, d.x, d.y}};
  }
  return {load4_of_row(v, row, i, columns, false), load4_of_row(v, row, i + 4, columns, false)};
}
template <bool aligned>
__device__ inline void store8(const Values& v, std::int64_t row, int i, int columns, const Eight& x) {
  if constexpr (aligned) {
    *reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(v.data) + row + i) = {
        pack(x.low.x, x.low.y), pack(x.low.z, x.low.w), pack(x.high.x, x.high.y), pack(x.high.z, x.high.w)};
    return;
  }
  store4_of_row(v, row, i, columns, false, x.low);
  store4_of_row(v, row, i + 4, columns, false, x.high);
}
template <typename F>
__device__ inline Eight map(const Eight& a, F f) {
  return {{f(a.low.x), f(a.low.y), f(a.low.z), f(a.low.w)}, {f(a.high.x), f(a.high.y), f(a.high.z), f(a.high.w)}};
}
template <typename F>
__device__ inline Eight map(const Eight& a, const Eight& b, F f) {
  return {{f(a.low.x, b.low.x), f(a.low.y, b.low.y), f(a.low.z, b.low.z), f(a.low.w, b.low.w)},
          {f(a.high.x, b.high.x), f(a.high.y, b.high.y), f(a.high.z, b.high.z), f(a.high.w, b.high.w)}};
}

__device__ inline float tanh_of(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
constexpr float inner_slope = 0.79788456080286536f, cubic = 0.044715f;  // √(2/π)

// What a row is made of. load() gives eight of its values, and writes what is wanted beside their codes.
struct Plain {
  Values x;
  template <bool aligned>
  __device__ Eight load(std::int64_t row, int i, int columns) const {
    return load8<aligned>(x, row, i, columns);
  }
};
struct Gelu {
  Values x, y, kept;  // y may be none; kept none, or where x is
  template <bool aligned>
  __device__ Eight load(std::int64_t row, int i, int columns) const {
    const Eight v = load8<aligned>(x, row, i, columns);
    if (kept.data != nullptr) store8<aligned>(kept, row, i, columns, v);
    const Eight result = map(v, [](float u) {
      const float half = 0.5f * u;
      return half + half * tanh_of(inner_slope * u * (1.0f + cubic * u * u));
    });
    if (y.data != nullptr) store8<aligned>(y, row, i, columns, result);
    return result;
  }
};
struct GeluBackward {
  Values dy, kept, dx;  // dx may be none
  template <bool aligned>
  __device__ Eight load(std::int64_t row, int i, int columns) const {
    const Eight result =
        map(load8<aligned>(dy, row, i, columns), load8<aligned>(kept, row, i, columns), [](float g, float u) {
          const float t = tanh_of(inner_slope * u * (1.0f + cubic * u * u));
          const float slope = 0.5f * inner_slope * u * (1.0f + 3.0f * cubic * u * u);
          return g * (0.5f + 0.5f * t + slope * (1.0f - t * t));
        });
    if (dx.data != nullptr) store8<aligned>(dx, row, i, columns, result);
    return result;
  }
};

// `threads` a row, each with `chunks` groups of eight columns.
template <int threads, int chunks, bool aligned, typename Source>
__global__ void __launch_bounds__(block) quantize(Source source, CodeRows to, std::int64_t rows, int columns) {
  constexpr int rows_a_block = block / threads;
  const int thread = threadIdx.x % threads;
  const std::int64_t row =
      (static_cast<std::int64_t>(gridDim.x) - 1 - blockIdx.x) * rows_a_block + threadIdx.x / threads;
  if (threads == 32 && row >= rows) return;
  const std::int64_t start = row * columns;
  Eight v[chunks];
  float peak = 0;
#pragma unroll
  for (int c = 0; c < chunks; ++c) {
    const int i = 8 * (thread + threads * c);
    v[c] = {};
    if (i < columns) v[c] = source.template load<aligned>(start, i, columns);
    peak = largest(largest(peak, v[c].low), v[c].high);
  }
  peak = warp_max(peak);
  if constexpr (threads > 32) {
    __shared__ float peaks[block / 32];
    if (threadIdx.x % 32 == 0) peaks[threadIdx.x / 32] = peak;
    __syncthreads();
#pragma unroll
    for (int warp = 0; warp < block / 32; ++warp) peak = fmaxf(peak, peaks[warp]);
  }
  const float2 scale = e4m3_scale(peak);
  if (thread == 0) to.scales[row] = scale.y;
  if (to.norms != nullptr) {
    float sum = 0;
#pragma unroll
    for (int c = 0; c < chunks; ++c) sum = square_sum(square_sum(sum, v[c].low), v[c].high);
    sum = warp_sum(sum);
    if constexpr (threads > 32) {
      __shared__ float sums[block / 32];
      if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
      __syncthreads();
      sum = 0;
#pragma unroll
      for (int warp = 0; warp < block / 32; ++warp) sum += sums[warp];
    }
    if (thread == 0) to.norms[row] = sqrtf(sum);
  }

#pragma unroll
  for (int c = 0; c < chunks; ++c) {
    const int i = 8 * (thread + threads * c);
    if (i >= columns) continue;
    const uint2 codes = {e4m3_four(v[c].low, scale.x), e4m3_four(v[c].high, scale.x)};
    std::uint8_t* at = to.codes + start + i;
    if constexpr (aligned) {
      *reinterpret_cast<uint2*>(at) = codes;
    } else {
      for (int j = 0; j < 8 && i + j < columns; ++j)
        at[j] = static_cast<std::uint8_t>((j < 4 ? codes.x : codes.y) >> 8 * (j % 4));
    }
  }
}

template <typename Source>
void launch(Stream& stream, const Source& source, std::initializer_list<Values> all, const Fp8Rows& to) {
  const std::int64_t rows = to.codes.dim(0);
  const int columns = static_cast<int>(to.codes.dim(1));
  if (rows == 0 || columns == 0) return;
  const CodeRows target = code_rows(to);
  bool aligned = columns % 8 == 0 && reinterpret_cast<std::uintptr_t>(target.codes) % 8 == 0;
  for (const Values& v : all)
    aligned = aligned && (v.data == nullptr || v.is_bf16) && reinterpret_cast<std::uintptr_t>(v.data) % 16 == 0;
  auto start = [&](auto threads, auto chunks) {
    auto* const kernel = aligned ? quantize<threads.value, chunks.value, true, Source>
                                 : quantize<threads.value, chunks.value, false, Source>;
    kernel<<<blocks_for(rows, block / threads.value), block, 0, handle(stream)>>>(source, target, rows, columns);
    check_launch("a rounding to e4m3");
  };
  using std::integral_constant;
  if (columns <= 256) return start(integral_constant<int, 32>(), integral_constant<int, 1>());
  if (columns <= 1024) return start(integral_constant<int, 32>(), integral_constant<int, 4>());
  if (columns <= 4096) return start(integral_constant<int, block>(), integral_constant<int, 4>());
  detail::require(columns <= 16384, "FP8 rows of more than 16384 columns are not served on a GPU");
  start(integral_constant<int, block>(), integral_constant<int, 16>());
}

__global__ void dequantize(CodeRows from, float* y, std::int64_t count, int columns) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block + threadIdx.x;
  if (i >= count) return;
  const __half_raw half = __nv_cvt_fp8_to_halfraw(from.codes[i], __NV_E4M3);
  y[i] = from.scales[i / columns] * __half2float(__half(half));
}

// A warp a row. Norms are not negative, so that their bits have their order.
__global__ void __launch_bounds__(block) row_norms(CodeRows x, std::int64_t rows, int columns, int* largest) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * (block / 32) + threadIdx.x / 32;
  if (row >= rows) return;
  float sum = 0;
  for (int i = threadIdx.x % 32; i < columns; i += 32) {
    const float value = __half2float(__half(__nv_cvt_fp8_to_halfraw(x.codes[row * columns + i], __NV_E4M3)));
    sum = fmaf(value, value, sum);
  }
  const float norm = x.scales[row] * sqrtf(warp_sum(sum));
  if (threadIdx.x % 32 == 0) atomicMax(largest, __float_as_int(norm));
}

}  // namespace

void largest_row_norm(Stream& stream, const Fp8Rows& x, const Tensor& largest) {
  largest.zero(stream);
  const std::int64_t rows = x.codes.dim(0);
  if (rows == 0) return;
  row_norms<<<blocks_for(rows, block / 32), block, 0, handle(stream)>>>(
      code_rows(x), rows, static_cast<int>(x.codes.dim(1)), reinterpret_cast<int*>(RawAccess::data<float>(largest)));
  check_launch("largest_row_norm");
}

void quantize_rows(Stream& stream, const Tensor& x, const Fp8Rows& y) {
  const Plain source{values(x)};
  launch(stream, source, {source.x}, y);
}

void dequantize_rows(Stream& stream, const Fp8Rows& x, const Tensor& y) {
  if (y.element_count() == 0) return;
  dequantize<<<blocks_for(y.element_count(), block), block, 0, handle(stream)>>>(
      code_rows(x), RawAccess::data<float>(y), y.element_count(), static_cast<int>(y.dim(1)));
  check_launch("dequantize_rows");
}

void gelu_fp8(Stream& stream, const Tensor& x, const Tensor& y, const Fp8Rows& rows, const Tensor& kept) {
  Gelu source{values(x), values(y), values(kept)};
  if (source.kept.data == source.x.data) source.kept = {};
  launch(stream, source, {source.x, source.y, source.kept}, rows);
}

void gelu_backward_fp8(Stream& stream, const Tensor& dy, const Tensor& kept, const Tensor& dx, const Fp8Rows& rows) {
  const GeluBackward source{values(dy), values(kept), values(dx)};
  launch(stream, source, {source.dy, source.kept, source.dx}, rows);
}

}  // namespace trib::kernels::cuda
