// Register-blocked matrix products over row-major arrays, for sizes too small or too thin for a packed library product.
#pragma once

#include "kernels/cpu/simd_vector.h"

namespace trib::kernels::cpu::TRIB_SIMD_NAMESPACE {

// total[i][v] += the products of a's row i with `vectors` vectors of b's columns, over k rows of b, in registers. Element
// (i, p) of a is a[i·row_step + p·column_step].
template <typename T, int rows, int vectors, int lanes>
TRIB_INLINE void multiply_tile(const T* a, int64_t row_step, int64_t column_step, const T* b, int64_t ldb, int64_t k,
                               typename VectorOf<T, lanes>::type (&total)[rows][vectors]) {
  using Vector = typename VectorOf<T, lanes>::type;
  for (int64_t p = 0; p < k; ++p) {
    Vector row[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) row[v] = *reinterpret_cast<const Vector*>(b + p * ldb + v * lanes);
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
      T factor = a[i * row_step + p * column_step];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) total[i][v] += factor * row[v];
    }
  }
}

// c (rows × vectors·lanes) for one register tile.
template <typename T, int rows, int vectors, int lanes>
TRIB_INLINE void product_tile(T alpha, const T* a, int64_t row_step, int64_t column_step, const T* b, int64_t ldb, T* c,
                              int64_t ldc, int64_t k, bool accumulate) {
  using Vector = typename VectorOf<T, lanes>::type;
  Vector total[rows][vectors] = {};
  multiply_tile<T, rows, vectors, lanes>(a, row_step, column_step, b, ldb, k, total);
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      Vector* to = reinterpret_cast<Vector*>(c + i * ldc + v * lanes);
      *to = accumulate ? *to + alpha * total[i][v] : alpha * total[i][v];
    }
  }
}

template <typename T, int vectors, int lanes>
TRIB_INLINE void product_panel(T alpha, const T* a, int64_t row_step, int64_t column_step, const T* b, int64_t ldb,
                               T* c, int64_t ldc, int64_t m, int64_t k, bool accumulate) {
  int64_t i = 0;
  for (; i + tile_rows <= m; i += tile_rows)
    product_tile<T, tile_rows, vectors, lanes>(alpha, a + i * row_step, row_step, column_step, b, ldb, c + i * ldc, ldc,
                                               k, accumulate);
    // Records are short, so the rows that are left over get a tile of their own height.
#define TRIB_REST(rows)                                                                                               \
  case rows:                                                                                                          \
    return product_tile<T, rows, vectors, lanes>(alpha, a + i * row_step, row_step, column_step, b, ldb, c + i * ldc, \
                                                 ldc, k, accumulate);
  switch (m - i) {
    TRIB_REST(1)
    TRIB_REST(2)
    TRIB_REST(3)
    TRIB_REST(4)
    TRIB_REST(5)
    TRIB_REST(6)
    TRIB_REST(7)
    default:
      return;
  }
#undef TRIB_REST
}

// c (m, n) = alpha·a·b, or +=, over column panels of falling width.
template <typename T>
static __attribute__((noinline)) void product(T alpha, const T* a, int64_t row_step, int64_t column_step, const T* b,
                                              int64_t ldb, T* c, int64_t ldc, int64_t m, int64_t n, int64_t k,
                                              bool accumulate) {
  constexpr int lanes = width * static_cast<int>(sizeof(float)) / static_cast<int>(sizeof(T));
  int64_t j = 0;
  for (; j + 2 * lanes <= n; j += 2 * lanes)
    product_panel<T, 2, lanes>(alpha, a, row_step, column_step, b + j, ldb, c + j, ldc, m, k, accumulate);
  if (j + lanes <= n) {
    product_panel<T, 1, lanes>(alpha, a, row_step, column_step, b + j, ldb, c + j, ldc, m, k, accumulate);
    j += lanes;
  }
  if constexpr (lanes > 8) {
    if (j + 8 <= n) {
      product_panel<T, 1, 8>(alpha, a, row_step, column_step, b + j, ldb, c + j, ldc, m, k, accumulate);
      j += 8;
    }
  }
  if constexpr (lanes > 4) {
    if (j + 4 <= n) {
      product_panel<T, 1, 4>(alpha, a, row_step, column_step, b + j, ldb, c + j, ldc, m, k, accumulate);
      j += 4;
    }
  }
  for (; j < n; ++j)
    for (int64_t i = 0; i < m; ++i) {
      T total = 0;
      for (int64_t p = 0; p < k; ++p) total += a[i * row_step + p * column_step] * b[p * ldb + j];
      c[i * ldc + j] = accumulate ? c[i * ldc + j] + alpha * total : alpha * total;
    }
}

}  // namespace trib::kernels::cpu::TRIB_SIMD_NAMESPACE
