// Symmetric float64 matrices on the CPU as packed upper triangles (kernels/ridge.h), on all threads.
#pragma once

#include <cstdint>
#include <vector>

namespace trib::kernels::cpu {

// Element (i, j), i ≤ j, of a packed triangle of order d is at triangle[packed_row(i, d) + j].
inline std::int64_t packed_row(std::int64_t i, std::int64_t d) {
  return i * d - i * (i + 1) / 2;
}

// triangle += alpha·xᵀ·diag(weights)·x, x (rows, d) without gaps; weights (rows) may be null.
void add_gram(double alpha, const float* x, const float* weights, std::int64_t rows, std::int64_t d, double* triangle);
void add_gram(double alpha, const double* x, std::int64_t rows, std::int64_t d, double* triangle);

// triangle += alpha·leftᵀ·right of two (rows, d) matrices whose product is symmetric; rows are row_stride apart.
void add_product(double alpha, const double* left, const double* right, std::int64_t rows, std::int64_t d,
                 std::int64_t row_stride, double* triangle);

// A = Uᵀ·U in place and at once b ← A⁻¹·b, b (d, columns). False where a pivot is not above `least_pivot`; then
// triangle and b are spoilt.
bool solve_cholesky(double* triangle, std::int64_t d, double* b, std::int64_t columns, double least_pivot);

// A = Uᵀ·U with U (rank, d) of full row rank, pivots in the order in which they were chosen.
struct PivotedCholesky {
  std::vector<double> factor;        // U, in the matrix's own order of columns
  std::vector<std::int64_t> pivots;  // row s of U is zero in the columns pivots[0 … s − 1]
  double largest_rest = 0;  // of what A − Uᵀ·U has left: far above least_pivot where A has a negative eigenvalue
  std::int64_t rank() const { return static_cast<std::int64_t>(pivots.size()); }
};
// Stops where no diagonal element is above `least_pivot`. Spoils the triangle.
PivotedCholesky pivoted_cholesky(double* triangle, std::int64_t d, double least_pivot);

}  // namespace trib::kernels::cpu
