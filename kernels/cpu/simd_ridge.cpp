// Float64 products in panels, for sums XᵀX and Cholesky factors in packed triangles (ridge.h, cpu/packed_triangle.h).
//
// A panel is panel_width columns of a matrix side by side, row after row. The same panel serves as a right factor,
// whole, and as a left factor, tile_rows columns at a time: those of one row are one cache line.
#include "kernels/cpu/simd_matmul.h"

namespace trib::kernels::cpu::TRIB_SIMD_NAMESPACE {
namespace {

constexpr int lanes = width / 2, vectors = width > 4 ? 3 : 2;
constexpr int64_t panel_width = vectors * lanes;
static_assert(panel_width % tile_rows == 0);
using Doubles = VectorOf<double, lanes>::type;

template <typename T>
void pack(const T* x, int64_t row_stride, const float* weights, int64_t rows, int64_t columns, int64_t begin,
          int64_t end, double* panels) {
  // Row by row: where rows are a power of two apart, a panel's part of every row is in the same few sets of the cache.
  for (int64_t p = 0; p < rows; ++p) {
    const double weight = weights == nullptr ? 1.0 : static_cast<double>(weights[p]);
    for (int64_t panel = begin; panel < end; ++panel) {
      const int64_t first = panel * panel_width, count = columns - first < panel_width ? columns - first : panel_width;
      const T* from = x + p * row_stride + first;
      double* to = panels + (panel * rows + p) * panel_width;
      if (count == panel_width) {
        for (int64_t j = 0; j < panel_width; ++j) to[j] = weight * static_cast<double>(from[j]);
      } else {
        for (int64_t j = 0; j < panel_width; ++j) to[j] = j < count ? weight * static_cast<double>(from[j]) : 0.0;
      }
    }
  }
}

// Element (i, j) of the packed triangle is at row_of(triangle, d, i)[j].
double* row_of(double* triangle, int64_t d, int64_t i) {
  return triangle + (i * d - i * (i + 1) / 2);
}

// `used` vectors of columns that meet the diagonal or the last column: added element by element.
template <int used>
void add_edge(double alpha, const double* left, const double* right, int64_t k, double* triangle, int64_t d,
              int64_t row, int64_t column) {
  Doubles total[tile_rows][used] = {};
  multiply_tile<double, tile_rows, used, lanes>(left, 1, panel_width, right, panel_width, k, total);
  for (int64_t i = 0; i < tile_rows && row + i < d; ++i) {
    double* const to = row_of(triangle, d, row + i);
    for (int64_t j = column < row + i ? row + i - column : 0; j < used * lanes && column + j < d; ++j)
      to[column + j] += alpha * total[i][j / lanes][j % lanes];
  }
}

// Rows [row, row + tile_rows) and the columns of one panel, from `column` on.
void add_tile(double alpha, const double* left, const double* right, int64_t k, double* triangle, int64_t d,
              int64_t row, int64_t column) {
  if (column >= row + tile_rows - 1 && column + panel_width <= d) {
    double* rows[tile_rows];
#pragma GCC unroll 8
    for (int i = 0; i < tile_rows; ++i) {
      rows[i] = row_of(triangle, d, row + i) + column;
      for (int v = 0; v < vectors; ++v) __builtin_prefetch(rows[i] + v * lanes, 1);
    }
    Doubles total[tile_rows][vectors] = {};
    multiply_tile<double, tile_rows, vectors, lanes>(left, 1, panel_width, right, panel_width, k, total);
#pragma GCC unroll 8
    for (int i = 0; i < tile_rows; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) *reinterpret_cast<Doubles*>(rows[i] + v * lanes) += alpha * total[i][v];
    return;
  }
  // Vectors that lie below the diagonal or beyond the last column altogether are not multiplied.
  const int64_t first = row > column ? (row - column) / lanes : 0, columns = d - column,
                last = columns < panel_width ? (columns + lanes - 1) / lanes : vectors;
  const auto add = [&]<int used>() {
    add_edge<used>(alpha, left, right + first * lanes, k, triangle, d, row, column + first * lanes);
  };
  static_assert(vectors <= 3);
  if (last - first == 1) add.template operator()<1>();
  if (last - first == 2) add.template operator()<2>();
  if (last - first == 3) add.template operator()<3>();
}

void add_panels(double alpha, const double* left, const double* right, int64_t k, double* triangle, int64_t d,
                int64_t begin, int64_t end) {
  const int64_t panels = (d + panel_width - 1) / panel_width;
  for (int64_t column = begin; column < panels; ++column)
    for (int64_t row = begin; row < end && row <= column; ++row)
      for (int64_t part = 0; part < panel_width; part += tile_rows) {
        const int64_t i = row * panel_width + part;
        if (i < d && column * panel_width + panel_width > i)
          add_tile(alpha, left + row * k * panel_width + part, right + column * k * panel_width, k, triangle, d, i,
                   column * panel_width);
      }
}

void matmul_transposed_f64(double alpha, const double* a, int64_t lda, const double* b, int64_t ldb, double* c,
                           int64_t ldc, int64_t m, int64_t n, int64_t k, bool accumulate) {
  product<double>(alpha, a, 1, lda, b, ldb, c, ldc, m, n, k, accumulate);
}

void add_scaled_f64(double a, const float* x, double* y, int64_t count) {
  for (int64_t i = 0; i < count; ++i) y[i] += a * static_cast<double>(x[i]);
}

// Features of rows [0, rows), rows at most relu_rows, in panels [begin, end) of the weights.
void relu_product(const float* x, int64_t rows, int64_t k, const double* panels, int64_t begin, int64_t end,
                  int64_t columns, double* scratch, float* y) {
  // x by columns, as a left factor wants it.
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t p = 0; p < k; ++p) scratch[p * relu_rows + i] = static_cast<double>(x[i * k + p]);
  for (int64_t i = rows; i < relu_rows; ++i)
    for (int64_t p = 0; p < k; ++p) scratch[p * relu_rows + i] = 0.0;
  double tile[tile_rows * panel_width];
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t first = panel * panel_width, count = columns - first < panel_width ? columns - first : panel_width;
    for (int64_t row = 0; row < rows; row += tile_rows) {
      product_tile<double, tile_rows, vectors, lanes>(
          1.0, scratch + row, 1, relu_rows, panels + panel * k * panel_width, panel_width, tile, panel_width, k, false);
      for (int64_t i = 0; i < tile_rows && row + i < rows; ++i)
        for (int64_t j = 0; j < count; ++j) {
          const double value = tile[i * panel_width + j];
          y[(row + i) * columns + first + j] = value < 0.0 ? 0.0f : static_cast<float>(value);
        }
    }
  }
}

// Fused multiply-adds on registers alone: what no product passes. The chains differ, or one would do for all.
double multiply_adds(int64_t rounds) {
  constexpr int chains = 12;
  Doubles total[chains], a = Doubles{} + 0.999, b = Doubles{} + 1e-3;
#pragma GCC unroll 12
  for (int c = 0; c < chains; ++c) total[c] = Doubles{} + static_cast<double>(rounds + c);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) total[c] = total[c] * a + b;
  }
  double sum = 0;
  for (int c = 0; c < chains; ++c) sum += total[c][0];
  return sum;
}

}  // namespace

void add_ridge(SimdKernels& kernels) {
  kernels.panel_width = panel_width;
  kernels.pack_panels_f32 = pack<float>;
  kernels.pack_panels_f64 = pack<double>;
  kernels.add_panels = add_panels;
  kernels.matmul_transposed_f64 = matmul_transposed_f64;
  kernels.add_scaled_f64 = add_scaled_f64;
  kernels.relu_product = relu_product;
  kernels.multiply_adds = multiply_adds;
  kernels.multiply_adds_per_round = 12 * lanes;
}

}  // namespace trib::kernels::cpu::TRIB_SIMD_NAMESPACE
