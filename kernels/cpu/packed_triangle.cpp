#include "kernels/cpu/packed_triangle.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>

#include "kernels/cpu/simd.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/detail/raw_access.h"

namespace trib::kernels::cpu {
namespace {

// Rows of x that are multiplied at once: a panel of them, and a tile's rows, stay in the caches next to the core, and
// the triangle is read and written once for so many.
constexpr std::int64_t rows_at_once = 384;
// Rows of the matrix that are factored at once.
constexpr std::int64_t block_rows = 192;
// Elements that are packed at once, where that is more than one block of rows: 8 MiB.
constexpr std::int64_t packed_elements = std::int64_t{1} << 19;
// Panels that are packed together, row by row.
constexpr std::int64_t panels_packed_at_once = 8;
// Panels whose rows one task does: as many as the second cache holds.
constexpr std::int64_t most_panels_of_task = 6;

// Uninitialized memory of the CPU device: panels are loaded from it by whole lines. It is kept for the next call, since
// the system zeroes fresh pages: a sixth of the time of a sum over 512 features.
class Scratch {
 public:
  double* get(std::int64_t count) {
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(double);
    if (!memory_ || bytes > bytes_ || bytes_ > most_kept) {
      memory_.reset();
      memory_ = std::make_unique<Buffer>(cpu_device(), bytes);
      bytes_ = bytes;
    }
    return static_cast<double*>(RawAccess::address(*memory_));
  }

 private:
  // Enough for a block of 5,000 features; a larger one is given back by the next call.
  static constexpr std::size_t most_kept = std::size_t{16} << 20;

  std::unique_ptr<Buffer> memory_;
  std::size_t bytes_ = 0;
};

std::int64_t panel_count(std::int64_t d) {
  return (d + simd().panel_width - 1) / simd().panel_width;
}

// Calls body(begin, end) for groups of panels, on all threads. The longest rows of a triangle come first, so that the
// last tasks are short.
template <typename Body>
void for_each_group(std::int64_t panels, const Body& body) {
  const std::int64_t group =
      std::clamp<std::int64_t>(panels / (4 * ThreadPool::instance().size()), 1, most_panels_of_task);
  ThreadPool::instance().run(static_cast<int>((panels + group - 1) / group),
                             [&](int task) { body(task * group, std::min(panels, (task + 1) * group)); });
}

// triangle += alpha·leftᵀ·right.
void add_all_panels(double alpha, const double* left, const double* right, std::int64_t k, double* triangle,
                    std::int64_t d) {
  for_each_group(panel_count(d), [&](std::int64_t begin, std::int64_t end) {
    simd().add_panels(alpha, left, right, k, triangle, d, begin, end);
  });
}

template <typename T, typename Pack>
void add_gram_in_parts(double alpha, const T* x, const float* weights, std::int64_t rows, std::int64_t d,
                       double* triangle, Pack pack) {
  if (rows == 0 || d == 0) return;
  const std::int64_t panels = panel_count(d), block_size = panels * simd().panel_width * rows_at_once;
  // Several blocks of rows between two waits for all threads, where they are small.
  const std::int64_t most_blocks = std::clamp<std::int64_t>(packed_elements / block_size, 1, 16);
  const std::int64_t all_blocks = (rows + rows_at_once - 1) / rows_at_once;
  thread_local Scratch memory, weighted_memory;
  double* const right = memory.get(std::min(most_blocks, all_blocks) * block_size);
  double* const left = weights == nullptr ? right : weighted_memory.get(std::min(most_blocks, all_blocks) * block_size);
  for (std::int64_t first_block = 0; first_block < all_blocks; first_block += most_blocks) {
    const std::int64_t blocks = std::min(most_blocks, all_blocks - first_block);
    const auto rows_of = [&](std::int64_t block) {
      return std::min(rows_at_once, rows - (first_block + block) * rows_at_once);
    };
    parallel_for(panels * blocks, panels_packed_at_once, [&](std::int64_t begin, std::int64_t end) {
      while (begin < end) {
        const std::int64_t block = begin / panels, first = (first_block + block) * rows_at_once;
        const std::int64_t panel = begin % panels,
                           stop = std::min({panels, panel + panels_packed_at_once, panel + end - begin});
        pack(x + first * d, d, nullptr, rows_of(block), d, panel, stop, right + block * block_size);
        if (weights != nullptr)
          pack(x + first * d, d, weights + first, rows_of(block), d, panel, stop, left + block * block_size);
        begin += stop - panel;
      }
    });
    for_each_group(panels, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t block = 0; block < blocks; ++block)
        simd().add_panels(alpha, left + block * block_size, right + block * block_size, rows_of(block), triangle, d,
                          begin, end);
    });
  }
}

// The block of rows [first, first + n) up to its own diagonal: U of it in place. False at a pivot that is too small.
bool factor_block(double* triangle, std::int64_t d, std::int64_t first, std::int64_t n, double least_pivot) {
  auto row = [&](std::int64_t i) { return triangle + packed_row(i, d); };
  const std::int64_t end = first + n;
  for (std::int64_t i = first; i < end; ++i) {
    double* u = row(i);
    if (!(u[i] > least_pivot)) return false;
    u[i] = std::sqrt(u[i]);
    const double inverse = 1.0 / u[i];
    for (std::int64_t j = i + 1; j < end; ++j) u[j] *= inverse;
    for (std::int64_t r = i + 1; r < end; ++r) simd().axpy_f64(-u[r], u + r, row(r) + r, end - r);
  }
  return true;
}

// inverse (n, n) = U⁻ᵀ of the block's U: lower triangular.
void invert_block(const double* triangle, std::int64_t d, std::int64_t first, std::int64_t n, double* inverse) {
  // Row i of U⁻ᵀ: (e_i − Σ_{k<i} U_ki·row k)/U_ii.
  std::fill_n(inverse, n * n, 0.0);
  for (std::int64_t i = 0; i < n; ++i) {
    double* to = inverse + i * n;
    to[i] = 1.0;
    for (std::int64_t k = 0; k < i; ++k) {
      const double u = triangle[packed_row(first + k, d) + first + i];
      simd().axpy_f64(-u, inverse + k * n, to, k + 1);
    }
    const double scale = 1.0 / triangle[packed_row(first + i, d) + first + i];
    for (std::int64_t k = 0; k <= i; ++k) to[k] *= scale;
  }
}

}  // namespace

void add_gram(double alpha, const float* x, const float* weights, std::int64_t rows, std::int64_t d, double* triangle) {
  add_gram_in_parts(alpha, x, weights, rows, d, triangle, simd().pack_panels_f32);
}
void add_gram(double alpha, const double* x, std::int64_t rows, std::int64_t d, double* triangle) {
  add_gram_in_parts(alpha, x, nullptr, rows, d, triangle, simd().pack_panels_f64);
}

void add_product(double alpha, const double* left, const double* right, std::int64_t rows, std::int64_t d,
                 std::int64_t row_stride, double* triangle) {
  const std::int64_t panels = panel_count(d);
  Scratch left_memory, right_memory;
  double *const packed_left = left_memory.get(panels * simd().panel_width * rows), *const packed_right =
                                                                                       right_memory.get(
                                                                                           panels * simd().panel_width *
                                                                                           rows);
  parallel_for(panels, 4, [&](std::int64_t begin, std::int64_t end) {
    simd().pack_panels_f64(left, row_stride, nullptr, rows, d, begin, end, packed_left);
    simd().pack_panels_f64(right, row_stride, nullptr, rows, d, begin, end, packed_right);
  });
  add_all_panels(alpha, packed_left, packed_right, rows, triangle, d);
}

bool solve_cholesky(double* triangle, std::int64_t d, double* b, std::int64_t columns, double least_pivot) {
  const std::int64_t width = simd().panel_width, blocks = (d + block_rows - 1) / block_rows;
  std::vector<double> inverses(static_cast<std::size_t>(blocks * block_rows * block_rows));
  Scratch memory;
  double* const panels = memory.get(panel_count(d) * width * block_rows);
  auto copy_block = [&](std::int64_t first, std::int64_t n, double* to) {
    std::copy_n(b + first * columns, n * columns, to);
  };
  std::vector<double> solved(static_cast<std::size_t>(block_rows * columns));
  // Down: U block by block, and b ← U⁻ᵀ·b beside it.
  for (std::int64_t block = 0; block < blocks; ++block) {
    const std::int64_t first = block * block_rows, n = std::min(block_rows, d - first), end = first + n, rest = d - end;
    if (!factor_block(triangle, d, first, n, least_pivot)) return false;
    double* const inverse = inverses.data() + block * block_rows * block_rows;
    invert_block(triangle, d, first, n, inverse);
    copy_block(first, n, solved.data());
    simd().matmul_f64(1.0, inverse, n, solved.data(), columns, b + first * columns, columns, n, columns, n, false);
    parallel_for(panel_count(rest), 1, [&](std::int64_t begin, std::int64_t stop) {
      std::vector<double> gathered(static_cast<std::size_t>(n * width));
      for (std::int64_t panel = begin; panel < stop; ++panel) {
        const std::int64_t column = end + panel * width, count = std::min(width, d - column);
        for (std::int64_t i = 0; i < n; ++i) {
          const double* from = triangle + packed_row(first + i, d) + column;
          double* to = gathered.data() + i * width;
          std::fill(std::copy_n(from, count, to), to + width, 0.0);
        }
        double* const u = panels + panel * n * width;
        simd().matmul_f64(1.0, inverse, n, gathered.data(), width, u, width, n, width, n, false);
        for (std::int64_t i = 0; i < n; ++i)
          std::copy_n(u + i * width, count, triangle + packed_row(first + i, d) + column);
        simd().matmul_transposed_f64(-1.0, u, width, b + first * columns, columns, b + column * columns, columns, count,
                                     columns, n, true);
      }
    });
    add_all_panels(-1.0, panels, panels, n, triangle + packed_row(end, d) + end, rest);
  }
  // Up: b ← U⁻¹·b.
  for (std::int64_t block = blocks - 1; block >= 0; --block) {
    const std::int64_t first = block * block_rows, n = std::min(block_rows, d - first);
    copy_block(first, n, solved.data());
    simd().matmul_transposed_f64(1.0, inverses.data() + block * block_rows * block_rows, n, solved.data(), columns,
                                 b + first * columns, columns, n, columns, n, false);
    parallel_for(block, 1, [&](std::int64_t begin, std::int64_t stop) {
      std::vector<double> u(static_cast<std::size_t>(block_rows * n));
      for (std::int64_t above = begin; above < stop; ++above) {
        for (std::int64_t i = 0; i < block_rows; ++i)
          std::copy_n(triangle + packed_row(above * block_rows + i, d) + first, n, u.data() + i * n);
        simd().matmul_f64(-1.0, u.data(), n, b + first * columns, columns, b + above * block_rows * columns, columns,
                          block_rows, columns, n, true);
      }
    });
  }
  return true;
}

PivotedCholesky pivoted_cholesky(double* triangle, std::int64_t d, double least_pivot) {
  PivotedCholesky result;
  std::vector<double> diagonal(static_cast<std::size_t>(d));
  for (std::int64_t i = 0; i < d; ++i) diagonal[static_cast<std::size_t>(i)] = triangle[packed_row(i, d) + i];
  std::vector<bool> taken(static_cast<std::size_t>(d), false);
  for (bool more = true; more;) {
    // The triangle lacks the rows of U that were found; those of this block are taken off row by row.
    const std::int64_t block_begin = result.rank();
    while (result.rank() < d && result.rank() - block_begin < block_rows) {
      const std::int64_t pivot = std::max_element(diagonal.begin(), diagonal.end()) - diagonal.begin();
      const double size = diagonal[static_cast<std::size_t>(pivot)];
      if (!(size > least_pivot)) break;
      const std::int64_t rank = result.rank();
      result.factor.resize(static_cast<std::size_t>((rank + 1) * d));
      double* const row = result.factor.data() + rank * d;
      for (std::int64_t j = 0; j < pivot; ++j) row[j] = triangle[packed_row(j, d) + pivot];
      std::copy_n(triangle + packed_row(pivot, d) + pivot, d - pivot, row + pivot);
      for (std::int64_t s = block_begin; s < rank; ++s) {
        const double* earlier = result.factor.data() + s * d;
        simd().axpy_f64(-earlier[pivot], earlier, row, d);
      }
      const double root = std::sqrt(size);
      for (std::int64_t j = 0; j < d; ++j) {
        const auto at = static_cast<std::size_t>(j);
        row[j] = taken[at] ? 0.0 : row[j] / root;
        if (!taken[at]) diagonal[at] -= row[j] * row[j];
      }
      row[pivot] = root;
      taken[static_cast<std::size_t>(pivot)] = true;
      diagonal[static_cast<std::size_t>(pivot)] = -INFINITY;
      result.pivots.push_back(pivot);
    }
    const std::int64_t found = result.rank() - block_begin;
    more = found == block_rows && result.rank() < d;
    add_gram(-1.0, result.factor.data() + block_begin * d, found, d, triangle);
    for (std::int64_t i = 0; i < d; ++i)  // as the triangle has it: what was taken off step by step drifts
      if (!taken[static_cast<std::size_t>(i)]) diagonal[static_cast<std::size_t>(i)] = triangle[packed_row(i, d) + i];
  }
  for (std::int64_t i = 0; i < packed_row(d - 1, d) + d; ++i)
    result.largest_rest = std::max(result.largest_rest, std::abs(triangle[i]));
  return result;
}

}  // namespace trib::kernels::cpu
