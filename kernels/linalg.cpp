#include "kernels/linalg.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "kernels/cpu/simd.h"
#include "kernels/cuda/operations.h"
#include "kernels/detail/dispatch.h"
#include "kernels/detail/raw_access.h"

namespace trib::kernels {
namespace {

using cpu::simd;
using detail::require;

// A float64 matrix whose rows are the vectors that the algorithms below work on; B is held transposed.
struct Matrix {
  std::int64_t rows = 0, columns = 0;
  std::vector<double> values;

  void resize(std::int64_t new_rows, std::int64_t new_columns) {
    rows = new_rows;
    columns = new_columns;
    values.resize(static_cast<std::size_t>(rows * columns));
  }
  double* row(std::int64_t i) { return values.data() + i * columns; }
  const double* row(std::int64_t i) const { return values.data() + i * columns; }
  double& at(std::int64_t i, std::int64_t j) { return values[static_cast<std::size_t>(i * columns + j)]; }
  double at(std::int64_t i, std::int64_t j) const { return values[static_cast<std::size_t>(i * columns + j)]; }
  void set_identity() {
    std::fill(values.begin(), values.end(), 0.0);
    for (std::int64_t i = 0; i < std::min(rows, columns); ++i) at(i, i) = 1.0;
  }
};

double dot(const double* x, const double* y, std::int64_t count) {
  return simd().dot_f64(x, y, count);
}

template <typename T>
void read_as(const Tensor& from, bool transposed, Matrix& to) {
  const T* source = RawAccess::data<T>(from);
  const std::int64_t m = from.dim(0), n = from.dim(1);
  to.resize(transposed ? n : m, transposed ? m : n);
  if (!transposed) {
    std::copy_n(source, m * n, to.values.data());
    return;
  }
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t j = 0; j < n; ++j) to.values[static_cast<std::size_t>(j * m + i)] = source[i * n + j];
}

void read(const Tensor& from, bool transposed, Matrix& to) {
  require(from.shape().size() == 2 && (from.dtype() == DType::f32 || from.dtype() == DType::f64),
          "linear algebra takes float32 or float64 matrices");
  from.dtype() == DType::f32 ? read_as<float>(from, transposed, to) : read_as<double>(from, transposed, to);
  // A sum is finite only if every term is (a sum of finite terms that overflows is of no use either).
  double total = 0;
  for (double value : to.values) total += value;
  require(std::isfinite(total), "linear algebra on a matrix with an element that is not finite");
}

template <typename T>
void write_as(const Matrix& from, bool transposed, const Tensor& to) {
  T* destination = RawAccess::data<T>(to);
  const std::int64_t m = to.dim(0), n = to.dim(1);
  if (!transposed) {
    for (std::int64_t i = 0; i < m * n; ++i) destination[i] = static_cast<T>(from.values[static_cast<std::size_t>(i)]);
    return;
  }
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t j = 0; j < n; ++j)
      destination[i * n + j] = static_cast<T>(from.values[static_cast<std::size_t>(j * m + i)]);
}

void write(const Matrix& from, bool transposed, const Tensor& to) {
  require(to.shape().size() == 2 && (to.dtype() == DType::f32 || to.dtype() == DType::f64),
          "linear algebra takes float32 or float64 matrices");
  to.dtype() == DType::f32 ? write_as<float>(from, transposed, to) : write_as<double>(from, transposed, to);
}

// c = a·b for a square or wide a with few rows.
void product(const Matrix& a, const Matrix& b, Matrix& c) {
  c.resize(a.rows, b.columns);
  simd().matmul_f64(1.0, a.values.data(), a.columns, b.values.data(), b.columns, c.values.data(), c.columns, a.rows,
                    b.columns, a.columns, false);
}

bool has_orthonormal_rows(const Matrix& a) {
  for (std::int64_t i = 0; i < a.rows; ++i)
    for (std::int64_t j = 0; j <= i; ++j) {
      double product = dot(a.row(i), a.row(j), a.columns);
      if (!(std::abs(product - (i == j ? 1.0 : 0.0)) <= orthonormality_tolerance)) return false;
    }
  return true;
}

// Householder reflections from the right make x (r, n), r ≤ n, lower triangular: x·H_1⋯H_r = (L 0). On return row i of
// x holds, from column i on, the vector v of H_i = I − betas[i]·v·vᵀ; `lower` receives L.
void lower_triangularize(Matrix& x, Matrix& lower, std::vector<double>& betas) {
  const std::int64_t r = x.rows, n = x.columns;
  lower.resize(r, r);
  std::fill(lower.values.begin(), lower.values.end(), 0.0);
  betas.assign(static_cast<std::size_t>(r), 0.0);
  for (std::int64_t i = 0; i < r; ++i) {
    double* v = x.row(i) + i;
    const std::int64_t length = n - i;
    for (std::int64_t j = 0; j < i; ++j) lower.at(i, j) = x.at(i, j);
    const double norm = std::sqrt(dot(v, v, length));
    if (norm == 0) continue;
    const double diagonal = v[0] > 0 ? -norm : norm;  // the sign that does not cancel
    v[0] -= diagonal;
    lower.at(i, i) = diagonal;
    const double beta = 2.0 / dot(v, v, length);
    betas[static_cast<std::size_t>(i)] = beta;
    for (std::int64_t j = i + 1; j < r; ++j)
      simd().axpy_f64(-beta * dot(x.row(j) + i, v, length), v, x.row(j) + i, length);
  }
}

// a = L·Q with a non-negative diagonal of L; a becomes Q. Q's rows are orthonormal whatever a's rank.
void lq_in_place(Matrix& a, Matrix& lower) {
  const std::int64_t r = a.rows, n = a.columns;
  std::vector<double> betas;
  lower_triangularize(a, lower, betas);
  Matrix q;
  q.resize(r, n);
  q.set_identity();
  for (std::int64_t i = r - 1; i >= 0; --i) {
    const double* v = a.row(i) + i;
    const double beta = betas[static_cast<std::size_t>(i)];
    for (std::int64_t j = 0; beta != 0 && j < r; ++j)
      simd().axpy_f64(-beta * dot(q.row(j) + i, v, n - i), v, q.row(j) + i, n - i);
  }
  for (std::int64_t i = 0; i < r; ++i) {
    if (lower.at(i, i) >= 0) continue;
    for (std::int64_t j = i; j < r; ++j) lower.at(j, i) = -lower.at(j, i);
    for (std::int64_t j = 0; j < n; ++j) q.at(i, j) = -q.at(i, j);
  }
  a = std::move(q);
}

// The right factor of the SVD of R, where `vectors` (r, r) holds R's *columns* as rows: one-sided Jacobi rotates pairs
// of columns until all are orthogonal (Hestenes; Demmel & Veselić 1992). `right` (r, r) receives Wᵀ: row i is the i-th
// right singular vector, singular values descending.
void jacobi_right_vectors(Matrix& vectors, Matrix& right) {
  const std::int64_t r = vectors.rows, length = vectors.columns;
  right.resize(r, r);
  right.set_identity();
  constexpr int most_sweeps = 40;
  constexpr double tolerance = 1e-15;
  auto rotate = [](double* x, double* y, std::int64_t count, double cosine, double sine) {
    for (std::int64_t k = 0; k < count; ++k) {
      const double u = x[k], v = y[k];
      x[k] = cosine * u - sine * v;
      y[k] = sine * u + cosine * v;
    }
  };
  // Columns this small against the largest are rounding noise of a rank-deficient matrix; turning them among
  // themselves would never end and change nothing.
  double largest = 0;
  for (std::int64_t i = 0; i < r; ++i) largest = std::max(largest, dot(vectors.row(i), vectors.row(i), length));
  const double negligible = largest * 1e-32;
  for (int sweep = 0; sweep < most_sweeps; ++sweep) {
    bool rotated = false;
    for (std::int64_t i = 0; i + 1 < r; ++i)
      for (std::int64_t j = i + 1; j < r; ++j) {
        double *x = vectors.row(i), *y = vectors.row(j);
        double xx = 0, yy = 0, xy = 0;
        for (std::int64_t k = 0; k < length; ++k) {
          xx += x[k] * x[k];
          yy += y[k] * y[k];
          xy += x[k] * y[k];
        }
        if (std::abs(xy) <= tolerance * std::sqrt(xx * yy) || std::max(xx, yy) <= negligible ||
            std::abs(xy) <= negligible)
          continue;
        rotated = true;
        const double zeta = (yy - xx) / (2.0 * xy);
        const double tangent = std::copysign(1.0, zeta) / (std::abs(zeta) + std::hypot(1.0, zeta));
        const double cosine = 1.0 / std::sqrt(1.0 + tangent * tangent), sine = cosine * tangent;
        rotate(x, y, length, cosine, sine);
        rotate(right.row(i), right.row(j), r, cosine, sine);
      }
    if (!rotated) break;
  }
  std::vector<double> norms(static_cast<std::size_t>(r));
  for (std::int64_t i = 0; i < r; ++i) norms[static_cast<std::size_t>(i)] = dot(vectors.row(i), vectors.row(i), length);
  std::vector<std::int64_t> order(static_cast<std::size_t>(r));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t i, std::int64_t j) {
    return norms[static_cast<std::size_t>(i)] > norms[static_cast<std::size_t>(j)];
  });
  Matrix sorted;
  sorted.resize(r, r);
  for (std::int64_t i = 0; i < r; ++i) std::copy_n(right.row(order[static_cast<std::size_t>(i)]), r, sorted.row(i));
  right = std::move(sorted);
}

// A GPU's tensor in host memory, for what happens too rarely to have kernels of its own.
struct OnHost {
  OnHost(Stream& gpu_stream, const Tensor& on_gpu) : stream(gpu_stream), device_tensor(on_gpu) {
    if (!on_gpu.defined()) return;
    const HostTensor host = on_gpu.to_host(stream);
    tensor = Tensor(cpu_device(), host.dtype(), host.shape());
    std::memcpy(RawAccess::address(tensor), host.bytes().data(), tensor.byte_count());
  }
  void write_back() const {
    if (tensor.defined())
      stream.device().copy_from_host(stream, RawAccess::address(device_tensor), RawAccess::address(tensor),
                                     tensor.byte_count());
  }
  Stream& stream;
  Tensor device_tensor, tensor;
};

// What one refactorization needs in memory, kept between adapters.
struct Scratch {
  Matrix b, triangle, a, lower, columns, right, product;
  std::vector<double> betas;
};

void check(const Refactorization& adapter) {
  for (const Tensor* factor : {&adapter.b, &adapter.a})
    require(factor->shape().size() == 2 && (factor->dtype() == DType::f32 || factor->dtype() == DType::f64),
            "linear algebra takes float32 or float64 matrices");
  const std::int64_t r = adapter.a.dim(0);
  require(adapter.b.dim(1) == r && adapter.b.dim(0) >= r && adapter.a.dim(1) >= r,
          "refactorize: B must be (m, r) and A (r, n) with r at most m and n");
  require(!adapter.rotation.defined() ||
              (adapter.rotation.dtype() == DType::f64 && adapter.rotation.element_count() == r * r),
          "refactorize: the rotation must be (r, r) float64");
}

void refactorize_one(const Refactorization& adapter, Scratch& s) {
  check(adapter);
  const std::int64_t r = adapter.a.dim(0);
  read(adapter.b, true, s.b);
  read(adapter.a, false, s.a);
  if (!has_orthonormal_rows(s.a)) {
    lq_in_place(s.a, s.lower);
    // B ← B·L, so Bᵀ ← Lᵀ·Bᵀ.
    Matrix lower_transposed;
    lower_transposed.resize(r, r);
    for (std::int64_t i = 0; i < r; ++i)
      for (std::int64_t j = 0; j < r; ++j) lower_transposed.at(i, j) = s.lower.at(j, i);
    product(lower_transposed, s.b, s.product);
    std::swap(s.b, s.product);
  }
  // Bᵀ = T·Q, so B = Qᵀ·Tᵀ, and B has the right singular vectors of R = Tᵀ, whose columns are T's rows.
  s.triangle = s.b;
  lower_triangularize(s.triangle, s.columns, s.betas);
  jacobi_right_vectors(s.columns, s.right);
  // A ← Wᵀ·A, then the sign rule on its rows.
  product(s.right, s.a, s.product);
  for (std::int64_t i = 0; i < r; ++i) {
    double* row = s.product.row(i);
    double extreme = 0;
    for (std::int64_t j = 0; j < s.product.columns; ++j)
      if (std::abs(row[j]) > std::abs(extreme)) extreme = row[j];
    if (extreme >= 0) continue;
    for (std::int64_t j = 0; j < s.product.columns; ++j) row[j] = -row[j];
    for (std::int64_t j = 0; j < r; ++j) s.right.at(i, j) = -s.right.at(i, j);
  }
  write(s.product, false, adapter.a);
  // B ← B·W = U·S.
  product(s.right, s.b, s.product);
  write(s.product, true, adapter.b);
  if (adapter.rotation.defined()) write(s.right, false, adapter.rotation.reshape({r, r}));
}

}  // namespace

void refactorize(Stream& stream, std::span<const Refactorization> adapters) {
  detail::dispatch(
      stream,
      [&] {
        Scratch scratch;
        for (const Refactorization& adapter : adapters) refactorize_one(adapter, scratch);
      },
      [&] {
        for (const Refactorization& adapter : adapters) check(adapter);
        Scratch scratch;
        for (std::size_t i : cuda::refactorize_batch(stream, adapters)) {
          const OnHost b(stream, adapters[i].b), a(stream, adapters[i].a), rotation(stream, adapters[i].rotation);
          refactorize_one({b.tensor, a.tensor, rotation.tensor}, scratch);
          b.write_back();
          a.write_back();
          rotation.write_back();
        }
      });
}

void orthonormalize_rows(Stream& stream, const Tensor& a, const Tensor& lower) {
  require(a.dim(0) <= a.dim(1), "orthonormalize_rows: there must not be more rows than columns");
  detail::dispatch(
      stream,
      [&] {
        Matrix rows, triangle;
        read(a, false, rows);
        lq_in_place(rows, triangle);
        write(rows, false, a);
        if (lower.defined()) write(triangle, false, lower);
      },
      [&] {
        const OnHost rows(stream, a), triangle(stream, lower);
        orthonormalize_rows(*cpu_device().make_stream(), rows.tensor, triangle.tensor);
        rows.write_back();
        triangle.write_back();
      });
}

void random_orthonormal_rows(Stream& stream, std::span<const std::uint8_t, 32> key, std::uint64_t stream_id,
                             const Tensor& a, const Tensor& orthogonal_to) {
  const std::int64_t above = orthogonal_to.defined() ? orthogonal_to.dim(0) : 0, r = a.dim(0), n = a.dim(1);
  require(above + r <= n && (above == 0 || orthogonal_to.dim(1) == n),
          "random_orthonormal_rows: that many orthonormal rows do not fit");
  detail::dispatch(
      stream,
      [&] {
        std::uint32_t words[8];
        std::memcpy(words, key.data(), sizeof words);
        // The Q of (given rows; Gaussian rows): its last rows are what is left of the Gaussian ones beside the given.
        Matrix stacked, triangle, result;
        if (above > 0) read(orthogonal_to, false, stacked);
        stacked.resize(above + r, n);
        simd().gaussian_f64(words, stream_id, stacked.row(above), r * n);
        lq_in_place(stacked, triangle);
        result.resize(r, n);
        std::copy_n(stacked.row(above), r * n, result.values.data());
        write(result, false, a);
      },
      [&] {
        const OnHost rows(stream, a), given(stream, orthogonal_to);
        random_orthonormal_rows(*cpu_device().make_stream(), key, stream_id, rows.tensor, given.tensor);
        rows.write_back();
      });
}

void multiply(Stream& stream, const Tensor& a, const Tensor& b, const Tensor& c) {
  require(a.dim(1) == b.dim(0) && c.dim(0) == a.dim(0) && c.dim(1) == b.dim(1), "multiply: shapes do not fit");
  detail::dispatch(
      stream,
      [&] {
        Matrix left, right, result;
        read(a, false, left);
        read(b, false, right);
        product(left, right, result);
        write(result, false, c);
      },
      [&] {
        const OnHost left(stream, a), right(stream, b), product(stream, c);
        multiply(*cpu_device().make_stream(), left.tensor, right.tensor, product.tensor);
        product.write_back();
      });
}

}  // namespace trib::kernels
