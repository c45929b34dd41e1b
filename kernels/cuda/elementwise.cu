// Activations, conversions, embedding, rows, and the loss: one pass over memory each.
#include <algorithm>

#include "kernels/cuda/device_functions.cuh"
#include "kernels/cuda/operations.h"

namespace trib::kernels::cuda {
namespace {

constexpr int threads = 256;

// Calls body(i, count) for groups of four elements; count < 4 in the last one.
template <typename Body>
__global__ void for_each_four(std::int64_t count, Body body) {
  const std::int64_t i = 4 * (static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x);
  if (i < count) body(i, static_cast<int>(count - i < 4 ? count - i : 4));
}

template <typename Body>
void each_four(Stream& stream, std::int64_t count, const Body& body) {
  if (count == 0) return;
  for_each_four<<<blocks_for(count, 4 * threads), threads, 0, handle(stream)>>>(count, body);
  check_launch("an elementwise kernel");
}

__device__ inline float4 load_some(const Values& v, std::int64_t i, int count) {
  if (count == 4) return load4(v, i);
  float4 x = {};
  x.x = load(v, i);
  if (count > 1) x.y = load(v, i + 1);
  if (count > 2) x.z = load(v, i + 2);
  return x;
}
__device__ inline void store_some(const Values& v, std::int64_t i, int count, float4 x) {
  if (count == 4) return store4(v, i, x);
  store(v, i, x.x);
  if (count > 1) store(v, i + 1, x.y);
  if (count > 2) store(v, i + 2, x.z);
}
template <typename F>
__device__ inline float4 map(float4 a, F f) {
  return {f(a.x), f(a.y), f(a.z), f(a.w)};
}
template <typename F>
__device__ inline float4 map(float4 a, float4 b, F f) {
  return {f(a.x, b.x), f(a.y, b.y), f(a.z, b.z), f(a.w, b.w)};
}

constexpr float sqrt_half = 0.70710678118654752f, normal_density_at_0 = 0.39894228040143268f;

// Φ(x) with full relative accuracy in the left tail.
__device__ inline float normal_cumulative(float x) {
  return 0.5f * erfcf(-x * sqrt_half);
}

// Where rows start and end at multiples of four elements that are aligned for vector loads.
bool aligned(const Tensor& tensor, std::int64_t columns) {
  return columns % 4 == 0 && reinterpret_cast<std::uintptr_t>(RawAccess::address(tensor)) % 16 == 0;
}
// Elementwise kernels need base addresses that allow vector loads; tensors of a workspace and whole tensors have them.
void require_aligned(std::initializer_list<const Tensor*> tensors) {
  for (const Tensor* tensor : tensors)
    detail::require(!tensor->defined() || reinterpret_cast<std::uintptr_t>(RawAccess::address(*tensor)) % 16 == 0,
                    "an elementwise operation on a tensor that does not start at a multiple of 16 bytes");
}

__global__ void embed_rows(const std::int32_t* tokens, const float* words, const std::int32_t* positions,
                           const float* places, const float* constant, Values y, int columns, bool aligned) {
  const std::int64_t row = blockIdx.x;
  const std::int64_t word = static_cast<std::int64_t>(tokens[row]) * columns,
                     place = static_cast<std::int64_t>(positions[row]) * columns;
  const Values w{const_cast<float*>(words)}, p{const_cast<float*>(places)}, c{const_cast<float*>(constant)};
  for (int i = 4 * threadIdx.x; i < columns; i += 4 * blockDim.x) {
    const float4 a = load4_of_row(w, word, i, columns, aligned), b = load4_of_row(p, place, i, columns, aligned),
                 e = load4_of_row(c, 0, i, columns, aligned);
    store4_of_row(y, row * columns, i, columns, aligned,
                  {a.x + e.x + b.x, a.y + e.y + b.y, a.z + e.z + b.z, a.w + e.w + b.w});
  }
}

// to[to_row] = from[from_row] in units of T; one of the two rows is looked up.
template <typename T, bool gather>
__global__ void move_rows(const T* from, const std::int32_t* rows, T* to, int columns) {
  const std::int64_t i = blockIdx.x, other = rows[i];
  const T* source = from + (gather ? other : i) * columns;
  T* destination = to + (gather ? i : other) * columns;
  for (int j = threadIdx.x; j < columns; j += blockDim.x) destination[j] = source[j];
}

template <bool gather>
void move(Stream& stream, const Tensor& x, const Tensor& rows, const Tensor& y) {
  const std::int64_t count = rows.element_count();
  const std::size_t row_bytes = size_of(x.dtype()) * static_cast<std::size_t>(x.dim(1));
  if (count == 0 || row_bytes == 0) return;
  const std::int32_t* row = RawAccess::data<std::int32_t>(rows);
  auto launch = [&](auto unit) {
    using T = decltype(unit);
    const int columns = static_cast<int>(row_bytes / sizeof(T));
    auto* const kernel = move_rows<T, gather>;
    const unsigned threads_a_row = columns < 128 ? 32 : 128;
    kernel<<<static_cast<unsigned>(count), threads_a_row, 0, handle(stream)>>>(RawAccess::data<T>(x), row,
                                                                               RawAccess::data<T>(y), columns);
  };
  const bool wide = row_bytes % 16 == 0 && reinterpret_cast<std::uintptr_t>(RawAccess::address(x)) % 16 == 0 &&
                    reinterpret_cast<std::uintptr_t>(RawAccess::address(y)) % 16 == 0;
  wide ? launch(uint4{}) : row_bytes % 4 == 0 ? launch(std::uint32_t{}) : launch(std::uint16_t{});
  check_launch("move_rows");
}

__global__ void add_rows(Values x, const std::int32_t* rows, Values y, int columns) {
  const std::int64_t from = static_cast<std::int64_t>(blockIdx.x) * columns,
                     to = static_cast<std::int64_t>(rows[blockIdx.x]) * columns;
  for (int j = threadIdx.x; j < columns; j += blockDim.x) store(y, to + j, load(y, to + j) + load(x, from + j));
}

__global__ void repeat_row(const float* row, float* y, std::int64_t count, int columns) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (i < count) y[i] = row[i % columns];
}

// 32×32 tiles through shared memory, so that both sides are read and written along rows.
__global__ void transpose_tiles(const float* from, Matrix to, int m, int n) {
  __shared__ float tile[32][33];
  const int column = blockIdx.x * 32 + threadIdx.x;
  for (int r = threadIdx.y; r < 32; r += 8) {
    const int row = blockIdx.y * 32 + r;
    if (row < m && column < n) tile[r][threadIdx.x] = from[static_cast<std::int64_t>(row) * n + column];
  }
  __syncthreads();
  const int to_column = blockIdx.y * 32 + threadIdx.x;
  for (int r = threadIdx.y; r < 32; r += 8) {
    const int to_row = blockIdx.x * 32 + r;
    if (to_row < n && to_column < m) store(to.values, to_row * to.stride + to_column, tile[threadIdx.x][r]);
  }
}

// As many as a kernel's arguments hold; more tensors take further launches.
constexpr std::size_t most_additions = 120, most_forms = 80;

struct Forms {
  const float* from;
  Values transposed, copy;
  int m, n;
};
struct AllForms {
  Forms all[most_forms];
};

// A block passes over tiles of its matrix as transpose_tiles has them.
__global__ void form_tiles(const __grid_constant__ AllForms forms) {
  __shared__ float tile[32][33];
  const Forms& f = forms.all[blockIdx.y];
  const int across = (f.n + 31) / 32, tiles = across * ((f.m + 31) / 32);
  for (int at = blockIdx.x; at < tiles; at += gridDim.x) {
    const int first_row = at / across * 32, first_column = at % across * 32;
    __syncthreads();  // the tile before is no longer read
    for (int r = threadIdx.y; r < 32; r += 8) {
      const int row = first_row + r, column = first_column + threadIdx.x;
      if (row >= f.m || column >= f.n) continue;
      const std::int64_t i = static_cast<std::int64_t>(row) * f.n + column;
      tile[r][threadIdx.x] = f.from[i];
      if (f.copy.data != nullptr) store(f.copy, i, tile[r][threadIdx.x]);
    }
    __syncthreads();
    for (int r = threadIdx.y; r < 32; r += 8) {
      const int row = first_column + r, column = first_row + threadIdx.x;
      if (row < f.n && column < f.m)
        store(f.transposed, static_cast<std::int64_t>(row) * f.m + column, tile[threadIdx.x][r]);
    }
  }
}

struct Addition {
  const float* x;
  float* y;
  std::int64_t count;
  float a;
};
struct Additions {
  Addition all[most_additions];
};

__global__ void add_each(const __grid_constant__ Additions additions) {
  const Addition& one = additions.all[blockIdx.y];
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x; i < one.count;
       i += static_cast<std::int64_t>(gridDim.x) * threads)
    one.y[i] = fmaf(one.a, one.x[i], one.y[i]);
}

// A warp a record.
__global__ void cross_entropy_rows(const float* logits, const std::int32_t* labels, float* losses, float* d_logits,
                                   int count, int classes) {
  const int i = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (i >= count) return;
  const int label = labels[i];
  if (label < 0) {
    if (lane == 0) losses[i] = 0;
    for (int j = lane; j < classes; j += 32) d_logits[static_cast<std::int64_t>(i) * classes + j] = 0;
    return;
  }
  const float* x = logits + static_cast<std::int64_t>(i) * classes;
  float peak = -INFINITY;
  bool has_nan = false;
  for (int j = lane; j < classes; j += 32) {
    peak = fmaxf(peak, x[j]);
    has_nan |= isnan(x[j]);  // fmaxf passes over NaN
  }
  peak = warp_max(peak);
  if (__any_sync(0xffffffffu, has_nan)) peak = NAN;
  double total = 0;
  for (int j = lane; j < classes; j += 32) total += exp(static_cast<double>(x[j]) - peak);
  total = warp_sum(total);
  if (lane == 0) losses[i] = static_cast<float>(log(total) + peak - x[label]);
  for (int j = lane; j < classes; j += 32)
    d_logits[static_cast<std::int64_t>(i) * classes + j] =
        static_cast<float>(exp(static_cast<double>(x[j]) - peak) / total - (j == label ? 1.0 : 0.0));
}

}  // namespace

// What the backward pass needs is x itself: Φ and φ are made again from it, for less than they cost to keep.
void gelu(Stream& stream, const Tensor& x, const Tensor& y, const Tensor& kept) {
  require_aligned({&x, &y, &kept});
  each_four(stream, x.element_count(),
            [x = values(x), y = values(y), kept = values(kept)] __device__(std::int64_t i, int count) {
              const float4 v = load_some(x, i, count);
              if (kept.data != nullptr) store_some(kept, i, count, v);
              store_some(y, i, count, map(v, [](float u) { return u * normal_cumulative(u); }));
            });
}

void gelu_backward(Stream& stream, const Tensor& dy, const Tensor& kept, const Tensor& dx) {
  require_aligned({&dy, &kept, &dx});
  each_four(stream, dy.element_count(),
            [dy = values(dy), kept = values(kept), dx = values(dx)] __device__(std::int64_t i, int count) {
              const float4 g = load_some(dy, i, count), x = load_some(kept, i, count);
              store_some(dx, i, count, map(g, x, [](float u, float v) {
                           return u * (normal_cumulative(v) + v * normal_density_at_0 * expf(-0.5f * v * v));
                         }));
            });
}

void tanh(Stream& stream, const Tensor& x, const Tensor& y) {
  require_aligned({&x, &y});
  each_four(stream, x.element_count(), [x = values(x), y = values(y)] __device__(std::int64_t i, int count) {
    store_some(y, i, count, map(load_some(x, i, count), [](float u) { return tanhf(u); }));
  });
}

void tanh_backward(Stream& stream, const Tensor& dy, const Tensor& y, const Tensor& dx) {
  require_aligned({&dy, &y, &dx});
  each_four(stream, dy.element_count(),
            [dy = values(dy), y = values(y), dx = values(dx)] __device__(std::int64_t i, int count) {
              store_some(dx, i, count, map(load_some(dy, i, count), load_some(y, i, count), [](float g, float v) {
                           return g * (1.0f - v * v);
                         }));
            });
}

void convert(Stream& stream, const Tensor& x, const Tensor& y) {
  require_aligned({&x, &y});
  each_four(stream, x.element_count(), [x = values(x), y = values(y)] __device__(std::int64_t i, int count) {
    store_some(y, i, count, load_some(x, i, count));
  });
}

void axpy(Stream& stream, double a, const Tensor& x, const Tensor& y) {
  require_aligned({&x, &y});
  each_four(stream, x.element_count(),
            [a = static_cast<float>(a), x = values(x), y = values(y)] __device__(std::int64_t i, int count) {
              store_some(y, i, count, map(load_some(x, i, count), load_some(y, i, count), [a](float u, float v) {
                           return fmaf(a, u, v);
                         }));
            });
}

void add_scaled(Stream& stream, std::span<const ScaledAddition> additions) {
  for (std::size_t first = 0; first < additions.size(); first += most_additions) {
    Additions group{};
    const std::size_t count = std::min(most_additions, additions.size() - first);
    std::int64_t most = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const auto& [a, x, y] = additions[first + i];
      group.all[i] = {RawAccess::data<float>(x), RawAccess::data<float>(y), x.element_count(), static_cast<float>(a)};
      most = std::max(most, x.element_count());
    }
    if (most == 0) continue;
    add_each<<<dim3(std::min(blocks_for(most, threads), 1024u), static_cast<unsigned>(count)), threads, 0,
               handle(stream)>>>(group);
    check_launch("add_scaled");
  }
}

void scale(Stream& stream, double a, const Tensor& x) {
  require_aligned({&x});
  each_four(stream, x.element_count(),
            [a = static_cast<float>(a), x = values(x)] __device__(std::int64_t i, int count) {
              store_some(x, i, count, map(load_some(x, i, count), [a](float u) { return a * u; }));
            });
}

void embed(Stream& stream, const Tensor& tokens, const Tensor& tokens_table, const Tensor& positions,
           const Tensor& positions_table, const Tensor& constant, const Tensor& y) {
  const int columns = static_cast<int>(constant.element_count());
  if (y.dim(0) == 0) return;
  embed_rows<<<static_cast<unsigned>(y.dim(0)), 128, 0, handle(stream)>>>(
      RawAccess::data<std::int32_t>(tokens), RawAccess::data<float>(tokens_table),
      RawAccess::data<std::int32_t>(positions), RawAccess::data<float>(positions_table),
      RawAccess::data<float>(constant), values(y), columns, aligned(y, columns) && aligned(constant, columns));
  check_launch("embed");
}

void gather_rows(Stream& stream, const Tensor& x, const Tensor& rows, const Tensor& y) {
  move<true>(stream, x, rows, y);
}
void scatter_rows(Stream& stream, const Tensor& x, const Tensor& rows, const Tensor& y) {
  move<false>(stream, x, rows, y);
}

void scatter_add_rows(Stream& stream, const Tensor& x, const Tensor& rows, const Tensor& y) {
  if (rows.element_count() == 0) return;
  add_rows<<<static_cast<unsigned>(rows.element_count()), 128, 0, handle(stream)>>>(
      values(x), RawAccess::data<std::int32_t>(rows), values(y), static_cast<int>(x.dim(1)));
  check_launch("scatter_add_rows");
}

void fill_rows(Stream& stream, const Tensor& row, const Tensor& y) {
  if (y.element_count() == 0) return;
  repeat_row<<<blocks_for(y.element_count(), threads), threads, 0, handle(stream)>>>(
      RawAccess::data<float>(row), RawAccess::data<float>(y), y.element_count(), static_cast<int>(y.dim(1)));
  check_launch("fill_rows");
}

void transpose(Stream& stream, const Tensor& from, const MatrixView& to) {
  const int m = static_cast<int>(from.dim(0)), n = static_cast<int>(from.dim(1));
  if (m == 0 || n == 0) return;
  transpose_tiles<<<dim3(blocks_for(n, 32), blocks_for(m, 32)), dim3(32, 8), 0, handle(stream)>>>(
      RawAccess::data<float>(from), matrix(to), m, n);
  check_launch("transpose");
}

void make_forms(Stream& stream, std::span<const MatrixForms> matrices) {
  for (std::size_t first = 0; first < matrices.size(); first += most_forms) {
    AllForms group{};
    const std::size_t count = std::min(most_forms, matrices.size() - first);
    std::int64_t most = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const MatrixForms& matrix = matrices[first + i];
      group.all[i] = {RawAccess::data<float>(matrix.from), values(matrix.transposed), values(matrix.copy),
                      static_cast<int>(matrix.from.dim(0)), static_cast<int>(matrix.from.dim(1))};
      most = std::max(most, (matrix.from.dim(0) + 31) / 32 * ((matrix.from.dim(1) + 31) / 32));
    }
    if (most == 0) continue;
    form_tiles<<<dim3(static_cast<unsigned>(std::min<std::int64_t>(most, 256)), static_cast<unsigned>(count)),
                 dim3(32, 8), 0, handle(stream)>>>(group);
    check_launch("make_forms");
  }
}

void cross_entropy(Stream& stream, const Tensor& logits, const Tensor& labels, const Tensor& losses,
                   const Tensor& d_logits) {
  const int count = static_cast<int>(logits.dim(0));
  if (count == 0) return;
  cross_entropy_rows<<<blocks_for(count, 4), 128, 0, handle(stream)>>>(
      RawAccess::data<float>(logits), RawAccess::data<std::int32_t>(labels), RawAccess::data<float>(losses),
      RawAccess::data<float>(d_logits), count, static_cast<int>(logits.dim(1)));
  check_launch("cross_entropy");
}

}  // namespace trib::kernels::cuda
