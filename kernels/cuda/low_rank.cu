// The thin products of LoRA on the tensor cores and at the speed of memory.
#include "kernels/cuda/low_rank.h"
#include "kernels/cuda/mma.cuh"

namespace trib::kernels::cuda {
namespace {

// ---- c += alpha·a·b with few columns of a ----------------------------------------------------------------------

constexpr int add_threads = 128, rows_a_block = 32;

struct Addition {
  Matrix a, b, c;
  std::int64_t rows;
  int columns;
  float alpha;
};

// A thread has four columns of c, whose part of b it holds in registers, and passes over rows_a_block rows.
template <int rank>
__global__ void __launch_bounds__(add_threads) add_product(Addition x) {
  __shared__ float a[rows_a_block][rank];
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * rows_a_block;
  const int count = static_cast<int>(min(static_cast<std::int64_t>(rows_a_block), x.rows - first));
  for (int i = threadIdx.x; i < count * rank; i += add_threads)
    a[i / rank][i % rank] = x.alpha * load(x.a.values, (first + i / rank) * x.a.stride + i % rank);
  const int column = 4 * (blockIdx.x * add_threads + threadIdx.x);
  float4 b[rank];
  if (column < x.columns) {
#pragma unroll
    for (int k = 0; k < rank; ++k) b[k] = load4(x.b.values, k * x.b.stride + column);
  }
  __syncthreads();
  if (column >= x.columns) return;
#pragma unroll 8
  for (int i = 0; i < count; ++i) {
    const std::int64_t at = (first + i) * x.c.stride + column;
    float4 sum = load4(x.c.values, at);
#pragma unroll
    for (int k = 0; k < rank; ++k) {
      const float factor = a[i][k];
      sum.x = fmaf(factor, b[k].x, sum.x);
      sum.y = fmaf(factor, b[k].y, sum.y);
      sum.z = fmaf(factor, b[k].z, sum.z);
      sum.w = fmaf(factor, b[k].w, sum.w);
    }
    store4(x.c.values, at, sum);
  }
}

bool aligned_by_four(const Matrix& m) {
  return m.stride % 4 == 0 && reinterpret_cast<std::uintptr_t>(m.values.data) % (m.values.is_bf16 ? 8 : 16) == 0;
}

// ---- c = alpha·a·b with few columns of c ------------------------------------------------------------------------

constexpr int reduce_threads = 128, reduce_rows = 32, reduce_k = 128, reduce_stages = 3;
constexpr int reduce_stride = reduce_k + 8;

struct Reduction {
  const Bf16 *a, *b;
  Bf16* c;
  std::int64_t rows, a_stride, b_stride, c_stride;
  int k;
  float alpha;
};

// A block has 32 rows and passes over a in tiles of 128 columns, two tiles ahead; warp w has 16 of the rows and one
// half of a tile's columns.
template <int columns>
__global__ void __launch_bounds__(reduce_threads) reduce_product(Reduction x) {
  constexpr int units = columns / 8;
  __shared__ __align__(16) Bf16 a[reduce_stages][reduce_rows * reduce_stride];
  __shared__ __align__(16) Bf16 b[reduce_stages][units][reduce_k * 8];
  __shared__ float halves[2][16 * columns];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, half = warp / 2;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * reduce_rows;
  const int tiles = x.k / reduce_k;
  auto stage = [&](int tile) {
    if (tile < tiles) {
      for (int i = threadIdx.x; i < reduce_rows * (reduce_k / 8); i += reduce_threads) {
        const int row = i / (reduce_k / 8), unit = i % (reduce_k / 8);
        const bool present = first + row < x.rows;
        copy_async(a[tile % reduce_stages] + row * reduce_stride + 8 * unit,
                   x.a + (present ? first + row : 0) * x.a_stride + tile * reduce_k + 8 * unit, present);
      }
      for (int i = threadIdx.x; i < reduce_k * units; i += reduce_threads)
        copy_async(b[tile % reduce_stages][i % units] + 8 * (i / units),
                   x.b + (tile * reduce_k + i / units) * x.b_stride + 8 * (i % units), true);
    }
    end_copy_group();
  };
  for (int tile = 0; tile < reduce_stages - 1; ++tile) stage(tile);
  float sum[units][4] = {};
  for (int tile = 0; tile < tiles; ++tile) {
    wait_for_copies<reduce_stages - 2>();
    __syncthreads();  // the tile is there, and the one before it is no longer read
    stage(tile + reduce_stages - 1);
#pragma unroll
    for (int k = 0; k < reduce_k / 2; k += 16) {
      std::uint32_t left[4];
      left_factor<reduce_stride>(left, a[tile % reduce_stages], 16 * (warp % 2), half * (reduce_k / 2) + k);
#pragma unroll
      for (int unit = 0; unit < units; ++unit) {
        std::uint32_t right[2];
        right_factor_of_eight(right, b[tile % reduce_stages][unit], half * (reduce_k / 2) + k);
        multiply_add(sum[unit], left, right[0], right[1]);
      }
    }
  }
  const int row = lane / 4, pair = lane % 4 * 2;
  float* const other = halves[warp % 2];
#pragma unroll
  for (int unit = 0; unit < units && half == 1; ++unit) {
#pragma unroll
    for (int e = 0; e < 4; ++e) other[(row + e / 2 * 8) * columns + 8 * unit + pair + e % 2] = sum[unit][e];
  }
  __syncthreads();
  if (half == 1) return;
#pragma unroll
  for (int unit = 0; unit < units; ++unit) {
#pragma unroll
    for (int e = 0; e < 4; e += 2) {
      const std::int64_t to = first + 16 * warp + row + e / 2 * 8;
      const float* const more = other + (row + e / 2 * 8) * columns + 8 * unit + pair;
      if (to < x.rows)
        *reinterpret_cast<std::uint32_t*>(x.c + to * x.c_stride + 8 * unit + pair) =
            pack(x.alpha * (sum[unit][e] + more[0]), x.alpha * (sum[unit][e + 1] + more[1]));
    }
  }
}

// ---- per-sample gradients and the gradient at u in one pass ----------------------------------------------------

constexpr int threads = 256, tile_tokens = 128, tile_columns = 64, rank = 8;
constexpr int g_stride = tile_columns + 8;

struct OneAdapter {
  const Bf16 *g, *u, *b;
  float* out;
  Bf16* du;
};
constexpr int most_adapters = 4;
struct Adapters {
  OneAdapter all[most_adapters];
  std::int64_t g_stride, u_stride, du_stride;
  const std::int32_t *offsets, *rows;
  int columns;
  float alpha;
};

struct Tiles {
  Bf16 g[2][tile_tokens * g_stride];
  Bf16 b[2][tile_columns * rank];
  Bf16 u[tile_tokens * rank];
  float halves[4][16 * rank];
};

// A block has one record and one adapter: out (columns, 8) = alpha·gᵀ·u and du (tokens, 8) = alpha·g·b. It passes over
// g in tiles of 128 tokens and 64 columns, one tile ahead. Warp w has columns 16(w%4) … of a tile's gradient, summed
// over one half of its tokens, and tokens 16w … of du.
__global__ void __launch_bounds__(threads) adapter_kernel(Adapters x) {
  extern __shared__ __align__(16) unsigned char memory[];
  Tiles& s = *reinterpret_cast<Tiles*>(memory);
  const OneAdapter adapter = x.all[blockIdx.y];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int begin = x.offsets[blockIdx.x], end = x.offsets[blockIdx.x + 1];
  float* const out = adapter.out + x.rows[blockIdx.x] * static_cast<std::int64_t>(x.columns) * rank;
  const int tiles = x.columns / tile_columns;
  if (begin == end)
    for (int i = threadIdx.x; i < x.columns * rank; i += threads) out[i] = 0;

  for (int first = begin; first < end; first += tile_tokens) {
    const int count = min(tile_tokens, end - first), padded = (count + 15) / 16 * 16;
    auto stage = [&](int tile) {
      constexpr int units = tile_columns / 8;
      Bf16* const g = s.g[tile % 2];
      for (int i = threadIdx.x; i < padded * units; i += threads) {
        const int token = i / units, unit = i % units;
        copy_async(g + token * g_stride + 8 * unit,
                   adapter.g + (token < count ? (first + token) * x.g_stride : 0) + tile * tile_columns + 8 * unit,
                   token < count);
      }
      if (threadIdx.x < tile_columns)
        copy_async(s.b[tile % 2] + 8 * threadIdx.x, adapter.b + (tile * tile_columns + threadIdx.x) * rank, true);
      end_copy_group();
    };
    __syncthreads();  // the tiles of the tokens before are no longer read
    for (int i = threadIdx.x; i < padded; i += threads)
      copy_async(s.u + 8 * i, adapter.u + (i < count ? (first + i) * x.u_stride : 0), i < count);
    stage(0);
    float du[4] = {};
    for (int tile = 0; tile < tiles; ++tile) {
      if (tile + 1 < tiles) {
        stage(tile + 1);
        wait_for_copies<1>();
      } else {
        wait_for_copies<0>();
      }
      __syncthreads();
      const Bf16 *g = s.g[tile % 2], *b = s.b[tile % 2];
      const int column = warp % 4 * 16, half = warp / 4 * (tile_tokens / 2);
      float gradient[4] = {};
#pragma unroll
      for (int k = 0; k < tile_tokens / 2; k += 16) {
        if (half + k >= padded) continue;
        std::uint32_t left[4], right[2];
        left_factor_of_transposed<g_stride>(left, g, column, half + k);
        right_factor_of_eight(right, s.u, half + k);
        multiply_add(gradient, left, right[0], right[1]);
      }
      if (16 * warp < padded) {
#pragma unroll
        for (int k = 0; k < tile_columns; k += 16) {
          std::uint32_t left[4], right[2];
          left_factor<g_stride>(left, g, 16 * warp, k);
          right_factor_of_eight(right, b, k);
          multiply_add(du, left, right[0], right[1]);
        }
      }
      const int row = lane / 4, pair = lane % 4 * 2;
      float* const other = s.halves[warp % 4];
      if (warp >= 4) {
        *reinterpret_cast<float2*>(other + row * rank + pair) = {gradient[0], gradient[1]};
        *reinterpret_cast<float2*>(other + (row + 8) * rank + pair) = {gradient[2], gradient[3]};
      }
      __syncthreads();
      if (warp < 4) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int r = row + 8 * e;
          const float2 more = *reinterpret_cast<const float2*>(other + r * rank + pair);
          float2* const to = reinterpret_cast<float2*>(out + (tile * tile_columns + column + r) * rank + pair);
          float2 sum = {x.alpha * (gradient[2 * e] + more.x), x.alpha * (gradient[2 * e + 1] + more.y)};
          if (first > begin) sum.x += to->x, sum.y += to->y;
          *to = sum;
        }
      }
    }
    if (adapter.du != nullptr) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int token = 16 * warp + lane / 4 + 8 * e;
        if (token < count)
          *reinterpret_cast<std::uint32_t*>(adapter.du + (first + token) * x.du_stride + lane % 4 * 2) =
              pack(x.alpha * du[2 * e], x.alpha * du[2 * e + 1]);
      }
    }
  }
}

// bfloat16 whose rows start at multiples of 16 bytes.
bool aligned_rows(const MatrixView& view) {
  return view.tensor.dtype() == DType::bf16 && view.row_stride() % 8 == 0 && view.first_column % 8 == 0 &&
         reinterpret_cast<std::uintptr_t>(RawAccess::address(view.tensor)) % 16 == 0;
}
Bf16* first_element(const MatrixView& view) {
  return RawAccess::data<Bf16>(view.tensor) + view.first_column;
}

}  // namespace

bool add_low_rank(Stream& stream, float alpha, const MatrixView& a, const MatrixView& b, const MatrixView& c) {
  const Addition x{matrix(a), matrix(b), matrix(c), c.rows(), static_cast<int>(c.columns), alpha};
  if (c.columns % 4 != 0 || !aligned_by_four(x.b) || !aligned_by_four(x.c)) return false;
  if (x.rows == 0) return true;
  auto launch = [&](auto kernel) {
    kernel<<<dim3(blocks_for(c.columns, 4 * add_threads), blocks_for(x.rows, rows_a_block)), add_threads, 0,
             handle(stream)>>>(x);
    check_launch("add_low_rank");
    return true;
  };
  switch (a.columns) {
    case 4:
      return launch(add_product<4>);
    case 8:
      return launch(add_product<8>);
    case 16:
      return launch(add_product<16>);
    default:
      return false;
  }
}

bool reduce_to_low_rank(Stream& stream, float alpha, const MatrixView& a, const MatrixView& b, const MatrixView& c) {
  if (!aligned_rows(a) || !aligned_rows(b) || !aligned_rows(c) || a.columns % reduce_k != 0) return false;
  if (c.rows() == 0) return true;
  const Reduction x{.a = first_element(a),
                    .b = first_element(b),
                    .c = first_element(c),
                    .rows = c.rows(),
                    .a_stride = a.row_stride(),
                    .b_stride = b.row_stride(),
                    .c_stride = c.row_stride(),
                    .k = static_cast<int>(a.columns),
                    .alpha = alpha};
  const auto launch = [&](auto kernel) {
    kernel<<<blocks_for(x.rows, reduce_rows), reduce_threads, 0, handle(stream)>>>(x);
    check_launch("reduce_to_low_rank");
    return true;
  };
  switch (c.columns) {
    case 8:
      return launch(reduce_product<8>);
    case 16:
      return launch(reduce_product<16>);
    default:
      return false;
  }
}

bool adapter_gradients(Stream& stream, float alpha, const std::vector<AdapterGradient>& adapters, const Tensor& offsets,
                       const Tensor& rows) {
  if (adapters.empty() || adapters.size() > most_adapters) return false;
  const AdapterGradient& one = adapters.front();
  Adapters x{};
  x.g_stride = one.dy.row_stride();
  x.u_stride = one.u.row_stride();
  x.du_stride = one.du.defined() ? one.du.row_stride() : 0;
  x.offsets = RawAccess::data<std::int32_t>(offsets);
  x.rows = RawAccess::data<std::int32_t>(rows);
  x.columns = static_cast<int>(one.dy.columns);
  x.alpha = alpha;
  for (std::size_t i = 0; i < adapters.size(); ++i) {
    const AdapterGradient& adapter = adapters[i];
    const bool fits = adapter.u.columns == rank && adapter.dy.columns == one.dy.columns &&
                      adapter.dy.columns % tile_columns == 0 && adapter.dy.row_stride() == x.g_stride &&
                      adapter.u.row_stride() == x.u_stride && aligned_rows(adapter.dy) && aligned_rows(adapter.u) &&
                      aligned_rows(adapter.b) && adapter.du.defined() == one.du.defined() &&
                      (!adapter.du.defined() || (aligned_rows(adapter.du) && adapter.du.row_stride() == x.du_stride));
    if (!fits) return false;
    x.all[i] = {first_element(adapter.dy), first_element(adapter.u), RawAccess::data<Bf16>(adapter.b),
                RawAccess::data<float>(adapter.out), adapter.du.defined() ? first_element(adapter.du) : nullptr};
  }
  if (rows.element_count() == 0) return true;
  check(cudaFuncSetAttribute(adapter_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Tiles)),
        "shared memory");
  adapter_kernel<<<dim3(static_cast<unsigned>(rows.element_count()), static_cast<unsigned>(adapters.size())), threads,
                   sizeof(Tiles), handle(stream)>>>(x);
  check_launch("adapter_gradients");
  return true;
}

}  // namespace trib::kernels::cuda
