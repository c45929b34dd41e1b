// ridge.h on a GPU: conversions and packing here, products in cuBLAS. A row-major upper triangle is a lower triangle in
// columns, so the dense matrices below are the latter.
#include <algorithm>
#include <chrono>
#include <limits>
#include <vector>

#include "kernels/cuda/operations.h"
#include "kernels/cuda/ridge.h"
#include "kernels/cuda/runtime.h"
#include "kernels/detail/label_order.h"

namespace trib::kernels::cuda {
namespace {

constexpr int threads = 256;
constexpr std::int64_t rows_at_once = 4096;  // that are float64 at a time
constexpr std::int64_t strip = 512;          // rows of the triangle that one product with weights gives
constexpr int block = 64;                    // rows that are factored at once

__device__ inline std::int64_t packed_row(std::int64_t i, std::int64_t d) {
  return i * d - i * (i + 1) / 2;
}

// y (rows, columns) = x in float64, and `weighted` each row times its weight, where there are weights.
__global__ void widen(const float* x, const float* weights, double* y, double* weighted, std::int64_t count,
                      std::int64_t columns) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * threads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x; i < count; i += stride) {
    const double value = x[i];
    y[i] = value;
    if (weights != nullptr) weighted[i] = value * static_cast<double>(weights[i / columns]);
  }
}

// Rows [first, first + gridDim.y) of the packed triangle += those of `dense`, whose row r starts at dense + r·d and has
// the columns from `first` on.
__global__ void add_to_packed(const double* dense, double* packed, std::int64_t first, std::int64_t d) {
  const std::int64_t row = first + blockIdx.y, j = row + static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (j < d) packed[packed_row(row, d) + j] += dense[blockIdx.y * d + (j - first)];
}

__global__ void unpack(const double* packed, double gamma, double* dense, std::int64_t d) {
  const std::int64_t row = blockIdx.y, j = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (j >= row && j < d) dense[row * d + j] = packed[packed_row(row, d) + j] + (j == row ? gamma : 0.0);
}

// Column j of class c: the class's records one after the other onto what is there, as the CPU adds them.
__global__ void add_by_class(const float* x, const std::int32_t* order, const std::int32_t* offsets,
                             const float* weights, double* class_sums, double* counts, std::int64_t d) {
  const std::int64_t c = blockIdx.y, j = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  const std::int32_t begin = offsets[c], end = offsets[c + 1];
  if (j < d && begin < end) {
    double total = class_sums[c * d + j];
    for (std::int32_t k = begin; k < end; ++k) {
      const std::int64_t i = order[k];
      total += (weights == nullptr ? 1.0 : static_cast<double>(weights[i])) * static_cast<double>(x[i * d + j]);
    }
    class_sums[c * d + j] = total;
  }
  if (j == 0 && counts != nullptr)
    for (std::int32_t k = begin; k < end; ++k)
      counts[c] += weights == nullptr ? 1.0 : static_cast<double>(weights[order[k]]);
}

// What a pivot must exceed: d·2⁻⁵²·(the largest diagonal element).
__global__ void find_least_pivot(const double* dense, std::int64_t d, double* least) {
  __shared__ double largest[threads];
  double mine = 0;
  for (std::int64_t i = threadIdx.x; i < d; i += threads) mine = fmax(mine, dense[i * d + i]);
  largest[threadIdx.x] = mine;
  __syncthreads();
  for (int half = threads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) largest[threadIdx.x] = fmax(largest[threadIdx.x], largest[threadIdx.x + half]);
    __syncthreads();
  }
  if (threadIdx.x == 0) *least = static_cast<double>(d) * 2.220446049250313e-16 * largest[0];
}

// L of an (n, n) block in columns, in place, and L⁻¹ with zeros above its diagonal; n ≤ block. Raises `bad` at a pivot
// that is too small or no number.
__global__ void factor_block(double* a, std::int64_t stride, int n, double* inverse, const double* least, int* bad) {
  extern __shared__ double memory[];
  constexpr int width = block + 1;
  double *l = memory, *x = memory + block * width;  // rows
  for (int e = threadIdx.x; e < n * n; e += threads) {
    const int row = e % n, column = e / n;
    if (row >= column) l[row * width + column] = a[column * stride + row];
  }
  __syncthreads();
  for (int j = 0; j < n; ++j) {
    const double pivot = l[j * width + j];
    if (!(pivot > *least)) {
      if (threadIdx.x == 0) *bad = 1;
      return;
    }
    __syncthreads();
    const double root = sqrt(pivot);
    for (int i = j + static_cast<int>(threadIdx.x); i < n; i += threads)
      l[i * width + j] = i == j ? root : l[i * width + j] / root;
    __syncthreads();
    const int rest = n - j - 1;
    for (int e = threadIdx.x; e < rest * rest; e += threads) {
      const int row = j + 1 + e / rest, column = j + 1 + e % rest;
      if (column <= row) l[row * width + column] -= l[row * width + j] * l[column * width + j];
    }
    __syncthreads();
  }
  if (threadIdx.x < n) {
    const int c = threadIdx.x;
    for (int i = 0; i < c; ++i) x[i * width + c] = 0.0;
    x[c * width + c] = 1.0 / l[c * width + c];
    for (int i = c + 1; i < n; ++i) {
      double total = 0;
      for (int k = c; k < i; ++k) total += l[i * width + k] * x[k * width + c];
      x[i * width + c] = -total / l[i * width + i];
    }
  }
  __syncthreads();
  for (int e = threadIdx.x; e < n * n; e += threads) {
    const int row = e % n, column = e / n;
    if (row >= column) a[column * stride + row] = l[row * width + column];
    inverse[column * block + row] = x[row * width + column];
  }
}

__global__ void find_not_finite(const double* x, std::int64_t count, int* bad) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * threads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x; i < count; i += stride)
    if (!isfinite(x[i])) *bad = 1;
}

__global__ void copy_rows(const double* from, std::int64_t from_stride, double* to, std::int64_t to_stride, int rows,
                          std::int64_t columns) {
  const std::int64_t e = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (e < rows * columns) to[e / rows * to_stride + e % rows] = from[e / rows * from_stride + e % rows];
}

// y (n, width) = max(0, x·w): 64×64 elements a block, 4×4 a thread. Every sum runs in the order of k from 0 on, and
// products of float32 are exact in float64, so these are the CPU's numbers.
constexpr int tile = 64, depth = 16;
__global__ void relu_product_kernel(const float* x, const float* w, float* y, std::int64_t n, std::int64_t k,
                                    std::int64_t width) {
  __shared__ double xs[depth][tile + 1], ws[depth][tile];
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.y) * tile,
                     first_column = static_cast<std::int64_t>(blockIdx.x) * tile;
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  double total[4][4] = {};
  for (std::int64_t p = 0; p < k; p += depth) {
    for (int e = threadIdx.x; e < depth * tile; e += threads) {
      const std::int64_t row = first_row + e / depth, at = p + e % depth;
      xs[e % depth][e / depth] = row < n && at < k ? static_cast<double>(x[row * k + at]) : 0.0;
      const std::int64_t column = first_column + e % tile, from = p + e / tile;
      ws[e / tile][e % tile] = column < width && from < k ? static_cast<double>(w[from * width + column]) : 0.0;
    }
    __syncthreads();
    const int steps = static_cast<int>(k - p < depth ? k - p : depth);
    for (int s = 0; s < steps; ++s) {
      double a[4], b[4];
      for (int i = 0; i < 4; ++i) a[i] = xs[s][ty + 16 * i];
      for (int j = 0; j < 4; ++j) b[j] = ws[s][tx + 16 * j];
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) total[i][j] = fma(a[i], b[j], total[i][j]);
    }
    __syncthreads();
  }
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) {
      const std::int64_t row = first_row + ty + 16 * i, column = first_column + tx + 16 * j;
      if (row < n && column < width)
        y[row * width + column] = total[i][j] < 0.0 ? 0.0f : static_cast<float>(total[i][j]);
    }
}

// Numbers in [0, 1) that no multiplier has an easy time with: products of zeros take less power and run faster.
__global__ void fill_uniform(double* x, std::int64_t count) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * threads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x; i < count; i += stride)
    x[i] = static_cast<double>(static_cast<std::uint64_t>(i + 1) * 0x9e3779b97f4a7c15ULL >> 11) * 0x1p-53;
}

unsigned grid_for(std::int64_t count) {
  return static_cast<unsigned>(std::min<std::int64_t>(blocks_for(count, threads), 4096));
}

dim3 rows_grid(std::int64_t columns, std::int64_t rows) {
  return {blocks_for(columns, threads), static_cast<unsigned>(rows)};
}

}  // namespace

void add_ridge_sums(Stream& stream, const Tensor& features, const std::vector<std::int32_t>& labels,
                    const RidgeSums& sums, const Tensor& weights) {
  Device& device = stream.device();
  const cudaStream_t raw = handle(stream);
  const std::int64_t n = features.dim(0), d = sums.feature_size(), classes = sums.class_count();
  const float* const x = RawAccess::data<float>(features);
  const float* const weight = weights.defined() ? RawAccess::data<float>(weights) : nullptr;
  if (d == 0 || classes == 0) return;

  const auto [offsets, order] = detail::order_by_label(labels, classes);
  const Tensor device_order = Tensor::from_host(stream, std::span<const std::int32_t>(order)),
               device_offsets = Tensor::from_host(stream, std::span<const std::int32_t>(offsets));
  for (std::int64_t c = 0; c < classes; c += 65535) {
    const std::int64_t count = std::min<std::int64_t>(65535, classes - c);
    add_by_class<<<rows_grid(d, count), threads, 0, raw>>>(
        x, RawAccess::data<std::int32_t>(device_order), RawAccess::data<std::int32_t>(device_offsets) + c, weight,
        RawAccess::data<double>(sums.class_sums) + c * d,
        sums.counts.defined() ? RawAccess::data<double>(sums.counts) + c : nullptr, d);
    check_launch("add_by_class");
  }

  const std::int64_t most = std::min(n, rows_at_once);
  const Tensor wide(device, DType::f64, {most, d}), scratch(device, DType::f64, {weight == nullptr ? d : strip, d});
  const Tensor weighted = weight == nullptr ? Tensor() : Tensor(device, DType::f64, {most, d});
  double *const wide_data = RawAccess::data<double>(wide), *const scratch_data = RawAccess::data<double>(scratch),
                *const weighted_data = weight == nullptr ? nullptr : RawAccess::data<double>(weighted),
                *const packed = RawAccess::data<double>(sums.gram);
  for (std::int64_t first = 0; first < n; first += most) {
    const std::int64_t rows = std::min(most, n - first);
    widen<<<grid_for(rows * d), threads, 0, raw>>>(x + first * d, weight == nullptr ? nullptr : weight + first,
                                                   wide_data, weighted_data, rows * d, d);
    check_launch("widen");
    if (weight == nullptr) {
      lower_gram_f64(stream, d, rows, 1.0, wide_data, d, first == 0 ? 0.0 : 1.0, scratch_data, d);
      continue;
    }
    for (std::int64_t i = 0; i < d; i += strip) {
      const std::int64_t height = std::min(strip, d - i);
      product_f64(stream, d - i, height, rows, 1.0, {weighted_data + i, d}, {wide_data + i, d, true}, 0.0, scratch_data,
                  d);
      add_to_packed<<<rows_grid(d - i, height), threads, 0, raw>>>(scratch_data, packed, i, d);
      check_launch("add_to_packed");
    }
  }
  for (std::int64_t i = 0; weight == nullptr && i < d; i += 32768) {
    const std::int64_t height = std::min<std::int64_t>(32768, d - i);
    add_to_packed<<<rows_grid(d - i, height), threads, 0, raw>>>(scratch_data + i * d + i, packed, i, d);
    check_launch("add_to_packed");
  }
}

bool solve_ridge(Stream& stream, const Tensor& gram, const Tensor& class_sums, double gamma, const Tensor& weights) {
  Device& device = stream.device();
  const cudaStream_t raw = handle(stream);
  const std::int64_t d = class_sums.dim(1), classes = class_sums.dim(0), blocks = (d + block - 1) / block;
  if (d > 65535) return false;
  const Tensor dense(device, DType::f64, {d, d}), inverses(device, DType::f64, {blocks, block * block}),
      part(device, DType::f64, {std::max(d, classes), block}), least(device, DType::f64, {1}),
      bad = Tensor::zeros(stream, DType::i32, {1});
  double *const a = RawAccess::data<double>(dense), *const inverse = RawAccess::data<double>(inverses),
                *const copy = RawAccess::data<double>(part), *const b = RawAccess::data<double>(weights);
  weights.copy_from(stream, class_sums);  // in columns it is (d, classes)
  unpack<<<rows_grid(d, d), threads, 0, raw>>>(RawAccess::data<double>(gram), gamma, a, d);
  check_launch("unpack");
  find_least_pivot<<<1, threads, 0, raw>>>(a, d, RawAccess::data<double>(least));
  check_launch("find_least_pivot");
  constexpr int shared = 2 * block * (block + 1) * static_cast<int>(sizeof(double));
  check(cudaFuncSetAttribute(factor_block, cudaFuncAttributeMaxDynamicSharedMemorySize, shared), "shared memory");
  const auto copy_block = [&](const double* from, std::int64_t from_stride, double* to, std::int64_t to_stride,
                              std::int64_t rows, std::int64_t columns) {
    copy_rows<<<blocks_for(rows * columns, threads), threads, 0, raw>>>(from, from_stride, to, to_stride,
                                                                        static_cast<int>(rows), columns);
    check_launch("copy_rows");
  };
  for (std::int64_t k = 0; k < blocks; ++k) {
    const std::int64_t first = k * block, n = std::min<std::int64_t>(block, d - first), end = first + n, rest = d - end;
    double *const corner = a + first * d + first, *const below = a + first * d + end,
                  *const block_inverse = inverse + k * block * block;
    factor_block<<<1, threads, shared, raw>>>(corner, d, static_cast<int>(n), block_inverse,
                                              RawAccess::data<double>(least), RawAccess::data<int>(bad));
    check_launch("factor_block");
    // Down: b_k ← L⁻¹·b_k, and what it takes off the rest.
    copy_block(b + first, d, copy, block, n, classes);
    product_f64(stream, n, classes, n, 1.0, {block_inverse, block}, {copy, block}, 0.0, b + first, d);
    if (rest == 0) continue;
    copy_block(below, d, copy, rest, rest, n);
    product_f64(stream, rest, n, n, 1.0, {copy, rest}, {block_inverse, block, true}, 0.0, below, d);
    product_f64(stream, rest, classes, n, -1.0, {below, d}, {b + first, d}, 1.0, b + end, d);
    lower_gram_f64(stream, rest, n, -1.0, below, d, 1.0, a + end * d + end, d);
  }
  for (std::int64_t k = blocks - 1; k >= 0; --k) {  // up
    const std::int64_t first = k * block, n = std::min<std::int64_t>(block, d - first);
    copy_block(b + first, d, copy, block, n, classes);
    product_f64(stream, n, classes, n, 1.0, {inverse + k * block * block, block, true}, {copy, block}, 0.0, b + first,
                d);
    if (first > 0) product_f64(stream, first, classes, n, -1.0, {a + first, d, true}, {b + first, d}, 1.0, b, d);
  }
  find_not_finite<<<grid_for(d * classes), threads, 0, raw>>>(b, d * classes, RawAccess::data<int>(bad));
  check_launch("find_not_finite");
  return bad.to_host(stream).as<std::int32_t>()[0] == 0;
}

void relu_product(Stream& stream, const Tensor& x, const Tensor& w, const Tensor& y) {
  const std::int64_t n = x.dim(0), k = x.dim(1), width = w.dim(1);
  for (std::int64_t first = 0; first < n; first += 65535 * tile) {
    const std::int64_t rows = std::min<std::int64_t>(65535 * tile, n - first);
    const dim3 grid(blocks_for(width, tile), blocks_for(rows, tile));
    relu_product_kernel<<<grid, threads, 0, handle(stream)>>>(
        RawAccess::data<float>(x) + first * k, RawAccess::data<float>(w), RawAccess::data<float>(y) + first * width,
        rows, k, width);
    check_launch("relu_product");
  }
}

double float64_product_limit(Stream& stream, double seconds) {
  constexpr std::int64_t size = 8192;
  const Tensor a(stream.device(), DType::f64, {size, size}), b(stream.device(), DType::f64, {size, size}),
      c(stream.device(), DType::f64, {size, size});
  for (const Tensor* factor : {&a, &b}) {
    fill_uniform<<<grid_for(size * size), threads, 0, handle(stream)>>>(RawAccess::data<double>(*factor), size * size);
    check_launch("fill_uniform");
  }
  double total = 0, operations = 0;
  for (int run = 0; run < 2 || total < seconds; ++run) {
    stream.synchronize();
    const auto begin = std::chrono::steady_clock::now();
    product_f64(stream, size, size, size, 1.0, {RawAccess::data<double>(a), size}, {RawAccess::data<double>(b), size},
                0.0, RawAccess::data<double>(c), size);
    stream.synchronize();
    if (run == 0) continue;  // warms up
    total += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    operations += 2.0 * size * size * size;
  }
  return operations / total;
}

}  // namespace trib::kernels::cuda
