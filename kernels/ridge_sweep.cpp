// RidgeSweep: Householder's reduction to a tridiagonal matrix in blocks (Dongarra, Sorensen & Hammarling 1989), on a
// packed triangle. Half of its operations are products with vectors, which read the triangle once each; the other half
// are products in panels.
#include <spdlog/fmt/fmt.h>

#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/cpu/packed_triangle.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/detail/dispatch.h"
#include "kernels/ridge.h"

namespace trib::kernels {
namespace {

using cpu::packed_row;
using cpu::simd;

constexpr std::int64_t block_rows = 32;  // reflections whose effect on the rest of the matrix is applied at once

// y = A·x for the rows and columns [first, d) of a packed triangle. Threads have shares of equal area and sums of their
// own, which are added in one order.
class SymmetricProduct {
 public:
  explicit SymmetricProduct(std::int64_t d) : d_(d), parts_(cpu::ThreadPool::instance().size()) {
    partial_.resize(static_cast<std::size_t>(parts_ * d));
  }
  void operator()(const double* triangle, std::int64_t first, const double* x, double* y) {
    const std::int64_t m = d_ - first, parts = m < 256 ? 1 : parts_;
    cpu::ThreadPool::instance().run(static_cast<int>(parts), [&](int part) {
      auto boundary = [&](std::int64_t p) {
        return first +
               static_cast<std::int64_t>(static_cast<double>(m) *
                                         (1.0 - std::sqrt(1.0 - static_cast<double>(p) / static_cast<double>(parts))));
      };
      double* const sums = partial_.data() + part * d_;
      std::fill(sums + first, sums + d_, 0.0);
      const std::int64_t end = part + 1 == parts ? d_ : boundary(part + 1);
      for (std::int64_t i = boundary(part); i < end; ++i) {
        const double* row = triangle + packed_row(i, d_);
        sums[i] += row[i] * x[i] + simd().dot_and_add_f64(row + i + 1, x + i + 1, x[i], sums + i + 1, d_ - i - 1);
      }
    });
    std::copy(partial_.data() + first, partial_.data() + d_, y + first);
    for (std::int64_t part = 1; part < parts; ++part)
      simd().axpy_f64(1.0, partial_.data() + part * d_ + first, y + first, m);
  }

 private:
  std::int64_t d_, parts_;
  std::vector<double> partial_;
};

}  // namespace

Result<RidgeSweep> RidgeSweep::decompose(Stream& stream, const Tensor& gram, const Tensor& class_sums) {
  detail::require(class_sums.shape().size() == 2 && class_sums.dtype() == DType::f64 && gram.dtype() == DType::f64 &&
                      gram.element_count() == packed_triangle_size(class_sums.dim(1)),
                  "RidgeSweep takes a packed triangle and (classes, d), float64");
  const HostTensor host_gram = gram.to_host(stream), host_sums = class_sums.to_host(stream);
  if (!host_gram.all_finite() || !host_sums.all_finite())
    return Error{Errc::invalid_argument,
                 "XᵀX or YᵀX has an element that is not finite: a record's features were not, or a sum overflowed"};
  RidgeSweep sweep;
  const std::int64_t d = sweep.order_ = class_sums.dim(1), classes = sweep.classes_ = class_sums.dim(0);
  const auto size = static_cast<std::size_t>(d);
  sweep.reflectors_.assign(host_gram.as<double>().begin(), host_gram.as<double>().end());
  sweep.turned_.assign(host_sums.as<double>().begin(), host_sums.as<double>().end());
  sweep.betas_.assign(size, 0.0);
  sweep.diagonal_.assign(size, 0.0);
  sweep.beside_.assign(size, 0.0);
  double* const triangle = sweep.reflectors_.data();

  // Rows of v and w: A of the later rows and columns is the triangle − Σ v·wᵀ + w·vᵀ until the block ends.
  const std::int64_t block = std::min(block_rows, std::max<std::int64_t>(1, d));
  std::vector<double> both(static_cast<std::size_t>(2 * block * d)), swapped(both.size());
  double *const v = both.data(), *const w = both.data() + block * d;
  SymmetricProduct product(d);
  for (std::int64_t first = 0; first < d; first += block) {
    const std::int64_t end = std::min(d, first + block);
    std::fill(both.begin(), both.end(), 0.0);
    for (std::int64_t k = first; k < end; ++k) {
      double* const row = triangle + packed_row(k, d);
      for (std::int64_t s = 0; s < k - first; ++s) {
        simd().axpy_f64(-v[s * d + k], w + s * d + k, row + k, d - k);
        simd().axpy_f64(-w[s * d + k], v + s * d + k, row + k, d - k);
      }
      sweep.diagonal_[static_cast<std::size_t>(k)] = row[k];
      const std::int64_t m = d - k - 1;
      if (m == 0) continue;
      double* const x = row + k + 1;
      const double norm = std::sqrt(simd().dot_f64(x, x, m));
      sweep.beside_[static_cast<std::size_t>(k)] = x[0];
      if (m == 1 || norm == 0.0) {
        std::fill_n(x, m, 0.0);
        continue;
      }
      const double image = x[0] > 0 ? -norm : norm;  // the sign that does not cancel
      sweep.beside_[static_cast<std::size_t>(k)] = image;
      x[0] -= image;
      const double beta = 2.0 / simd().dot_f64(x, x, m);
      sweep.betas_[static_cast<std::size_t>(k)] = beta;
      double *const vk = v + (k - first) * d, *const wk = w + (k - first) * d;
      std::copy_n(x, m, vk + k + 1);
      product(triangle, k + 1, vk, wk);
      for (std::int64_t s = 0; s < k - first; ++s) {
        const double along_w = simd().dot_f64(w + s * d + k + 1, x, m),
                     along_v = simd().dot_f64(v + s * d + k + 1, x, m);
        simd().axpy_f64(-along_w, v + s * d + k + 1, wk + k + 1, m);
        simd().axpy_f64(-along_v, w + s * d + k + 1, wk + k + 1, m);
      }
      const double half = 0.5 * beta * simd().dot_f64(wk + k + 1, x, m);
      for (std::int64_t j = k + 1; j < d; ++j) wk[j] = beta * (wk[j] - half * vk[j]);
    }
    if (end < d) {
      std::copy_n(w, block * d, swapped.data());
      std::copy_n(v, block * d, swapped.data() + block * d);
      cpu::add_product(-1.0, both.data() + end, swapped.data() + end, 2 * block, d - end, d,
                       triangle + packed_row(end, d) + end);
    }
  }

  // Rows of YᵀX times Q = H_0·H_1·….
  cpu::parallel_for(classes, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = 0; k < d; ++k) {
      const double beta = sweep.betas_[static_cast<std::size_t>(k)];
      const double* const reflector = triangle + packed_row(k, d) + k + 1;
      for (std::int64_t c = begin; beta != 0.0 && c < end; ++c) {
        double* const row = sweep.turned_.data() + c * d + k + 1;
        simd().axpy_f64(-beta * simd().dot_f64(row, reflector, d - k - 1), reflector, row, d - k - 1);
      }
    }
  });

  Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver;
  const Eigen::Map<const Eigen::VectorXd> diagonal(sweep.diagonal_.data(), d),
      beside(sweep.beside_.data(), std::max<std::int64_t>(0, d - 1));
  if (d > 0) {
    solver.computeFromTridiagonal(diagonal, beside, Eigen::EigenvaluesOnly);
    if (solver.info() != Eigen::Success) return Error{Errc::internal, "the eigenvalues of XᵀX did not converge"};
    sweep.eigenvalues_.assign(solver.eigenvalues().data(), solver.eigenvalues().data() + d);
  }
  return sweep;
}

Status RidgeSweep::check(double gamma) const {
  if (!(gamma >= 0.0) || !std::isfinite(gamma))
    return Error{Errc::invalid_argument, fmt::format("gamma = {:g}: it must be a finite number of at least 0", gamma)};
  if (order_ == 0) return {};
  const double least = eigenvalues_.front(), largest = std::max(std::abs(least), std::abs(eigenvalues_.back()));
  if (!(least + gamma > static_cast<double>(order_) * std::numeric_limits<double>::epsilon() * largest))
    return Error{Errc::invalid_argument,
                 fmt::format("XᵀX + gamma·I is singular or not positive definite at gamma = {:g}: the smallest "
                             "eigenvalue of XᵀX is {:g} and the largest {:g}; choose a larger gamma",
                             gamma, least, largest)};
  return {};
}

std::vector<double> RidgeSweep::solve(double gamma) const {
  // T + gamma·I = L·D·Lᵀ.
  const auto size = static_cast<std::size_t>(order_);
  std::vector<double> pivots(size), lower(size);
  for (std::size_t k = 0; k < size; ++k) {
    pivots[k] = diagonal_[k] + gamma - (k == 0 ? 0.0 : lower[k - 1] * beside_[k - 1]);
    lower[k] = beside_[k] / pivots[k];
  }
  std::vector<double> solved = turned_;
  for (std::int64_t c = 0; c < classes_; ++c) {
    double* const u = solved.data() + c * order_;
    for (std::size_t k = 1; k < size; ++k) u[k] -= lower[k - 1] * u[k - 1];
    for (std::size_t k = size; k-- > 0;) u[k] = u[k] / pivots[k] - (k + 1 < size ? lower[k] * u[k + 1] : 0.0);
  }
  return solved;
}

Result<RidgeSweep::Score> RidgeSweep::score(double gamma, double records, double squared_labels) const {
  TRIB_TRY(check(gamma));
  const std::vector<double> solved = solve(gamma);
  Score score{.gamma = gamma};
  score.squared_norm = std::inner_product(solved.begin(), solved.end(), solved.begin(), 0.0);
  const double fitted = std::inner_product(solved.begin(), solved.end(), turned_.begin(), 0.0);
  score.residual = squared_labels - fitted - gamma * score.squared_norm;
  for (const double eigenvalue : eigenvalues_) score.degrees_of_freedom += eigenvalue / (eigenvalue + gamma);
  const double left = 1.0 - score.degrees_of_freedom / records;
  score.gcv = left > 1e-12 ? score.residual / records / (left * left) : std::numeric_limits<double>::infinity();
  return score;
}

Result<Tensor> RidgeSweep::weights(double gamma) const {
  TRIB_TRY(check(gamma));
  HostTensor host(DType::f64, {classes_, order_});
  const std::vector<double> solved = solve(gamma);
  std::copy(solved.begin(), solved.end(), host.as<double>().begin());
  double* const rows = host.as<double>().data();
  // W = (rows)·Qᵀ: the reflections in the other order.
  cpu::parallel_for(classes_, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = order_ - 1; k >= 0; --k) {
      const double beta = betas_[static_cast<std::size_t>(k)];
      const double* const reflector = reflectors_.data() + packed_row(k, order_) + k + 1;
      for (std::int64_t c = begin; beta != 0.0 && c < end; ++c) {
        double* const row = rows + c * order_ + k + 1;
        simd().axpy_f64(-beta * simd().dot_f64(row, reflector, order_ - k - 1), reflector, row, order_ - k - 1);
      }
    }
  });
  return Tensor::from_host(*cpu_device().make_stream(), host);
}

}  // namespace trib::kernels
