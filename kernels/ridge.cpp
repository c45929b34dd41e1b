#include "kernels/ridge.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "kernels/cpu/packed_triangle.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cuda/operations.h"
#include "kernels/detail/dispatch.h"
#include "kernels/detail/label_order.h"
#include "kernels/detail/raw_access.h"

namespace trib::kernels {
namespace {

using cpu::packed_row;
using cpu::simd;
using detail::require;

void check(const RidgeSums& sums, const Tensor& features, const Tensor& labels, const Tensor& weights) {
  require(
      sums.class_sums.shape().size() == 2 && sums.class_sums.dtype() == DType::f64 && sums.gram.dtype() == DType::f64,
      "ridge sums are float64: a packed triangle and (classes, d)");
  const std::int64_t d = sums.feature_size();
  require(sums.gram.element_count() == packed_triangle_size(d), "ridge sums: XᵀX and YᵀX are of different sizes");
  require(!sums.counts.defined() ||
              (sums.counts.dtype() == DType::f64 && sums.counts.element_count() == sums.class_count()),
          "ridge sums: the counts are one float64 a class");
  require(features.shape().size() == 2 && features.dtype() == DType::f32 && features.dim(1) == d,
          "ridge sums take float32 features (n, d)");
  require(labels.dtype() == DType::i32 && labels.element_count() == features.dim(0),
          "ridge sums take one int32 label a record");
  require(!weights.defined() || (weights.dtype() == DType::f32 && weights.element_count() == features.dim(0)),
          "ridge sums take one float32 weight a record");
}

void check_labels(std::span<const std::int32_t> labels, std::int64_t classes) {
  for (const std::int32_t label : labels)
    if (label < 0 || label >= classes)
      throw std::invalid_argument(fmt::format("ridge sums: label {} of {} classes", label, classes));
}

// class_sums and counts. A class after the other, so that its sum stays close to the core, and within it a record after
// the other, so that the sums do not depend on the number of threads.
void add_by_class(const float* x, const std::int32_t* labels, const float* weights, std::int64_t rows,
                  const RidgeSums& sums) {
  const std::int64_t d = sums.feature_size();
  double* const class_sums = RawAccess::data<double>(sums.class_sums);
  double* const counts = sums.counts.defined() ? RawAccess::data<double>(sums.counts) : nullptr;
  for (std::int64_t i = 0; counts != nullptr && i < rows; ++i)
    counts[labels[i]] += weights == nullptr ? 1.0 : static_cast<double>(weights[i]);
  const std::vector<std::int32_t> order =
      detail::order_by_label({labels, static_cast<std::size_t>(rows)}, sums.class_count()).order;
  cpu::parallel_for(d, 256, [&](std::int64_t begin, std::int64_t end) {
    for (const std::int64_t i : order) {
      simd().add_scaled_f64(weights == nullptr ? 1.0 : static_cast<double>(weights[i]), x + i * d + begin,
                            class_sums + labels[i] * d + begin, end - begin);
    }
  });
}

// A tensor in the CPU's memory: itself, or a copy.
Tensor on_cpu(Stream& stream, const Tensor& tensor) {
  if (stream.device().kind() == DeviceKind::cpu) return tensor;
  return Tensor::from_host(*cpu_device().make_stream(), tensor.to_host(stream));
}

bool all_finite(const Tensor& tensor) {
  const double* const values = RawAccess::data<double>(tensor);
  double total = 0;  // of zeros, unless there is an element that is not finite
  for (std::int64_t i = 0; i < tensor.element_count(); ++i) total += 0.0 * values[i];
  return total == 0.0;
}

// What a solve starts from, and spoils: the triangle with gamma on its diagonal, and the class sums turned, (d,
// classes).
struct System {
  System(const Tensor& gram, const Tensor& class_sums, double gamma)
      : d(class_sums.dim(1)), classes(class_sums.dim(0)), triangle_(cpu_device(), DType::f64, gram.shape()) {
    right.resize(static_cast<std::size_t>(d * classes));
    set(gram, class_sums, gamma);
    double largest = 0;
    for (std::int64_t i = 0; i < d; ++i) largest = std::max(largest, triangle()[packed_row(i, d) + i]);
    least_pivot = static_cast<double>(d) * std::numeric_limits<double>::epsilon() * largest;
  }
  void set(const Tensor& gram, const Tensor& class_sums, double gamma) {
    std::copy_n(RawAccess::data<double>(gram), gram.element_count(), triangle());
    for (std::int64_t i = 0; i < d; ++i) triangle()[packed_row(i, d) + i] += gamma;
    const double* const sums = RawAccess::data<double>(class_sums);
    for (std::int64_t i = 0; i < d; ++i)
      for (std::int64_t c = 0; c < classes; ++c) right[static_cast<std::size_t>(i * classes + c)] = sums[c * d + i];
  }
  double* triangle() { return RawAccess::data<double>(triangle_); }

  std::int64_t d, classes;
  std::vector<double> right;
  double least_pivot = 0;

 private:
  Tensor triangle_;
};

// The solution of least norm by A = Uᵀ·U: as the class sums are Uᵀ·z for one z, W = Uᵀ·(U·Uᵀ)⁻¹·z.
Result<std::int64_t> solve_singular(System& system, double gamma) {
  const std::int64_t d = system.d, classes = system.classes;
  const cpu::PivotedCholesky found = cpu::pivoted_cholesky(system.triangle(), d, system.least_pivot);
  if (!(found.largest_rest <= 64.0 * system.least_pivot))
    return Error{
        Errc::invalid_argument,
        fmt::format("XᵀX + gamma·I is not positive semidefinite at gamma = {:g}: it has a negative eigenvalue, "
                    "as noise larger than gamma makes; choose a larger gamma",
                    gamma)};
  const std::int64_t rank = found.rank();
  const double* const u = found.factor.data();
  std::vector<double> z(static_cast<std::size_t>(rank * classes));
  for (std::int64_t s = 0; s < rank; ++s) {
    const std::int64_t pivot = found.pivots[static_cast<std::size_t>(s)];
    double* const to = z.data() + s * classes;
    std::copy_n(system.right.data() + pivot * classes, classes, to);
    for (std::int64_t t = 0; t < s; ++t) simd().axpy_f64(-u[t * d + pivot], z.data() + t * classes, to, classes);
    for (std::int64_t c = 0; c < classes; ++c) to[c] /= u[s * d + pivot];
  }
  std::vector<double> turned(static_cast<std::size_t>(d * rank));
  for (std::int64_t s = 0; s < rank; ++s)
    for (std::int64_t j = 0; j < d; ++j) turned[static_cast<std::size_t>(j * rank + s)] = u[s * d + j];
  std::vector<double> small(static_cast<std::size_t>(packed_triangle_size(rank)), 0.0);
  cpu::add_gram(1.0, turned.data(), d, rank, small.data());
  if (!cpu::solve_cholesky(small.data(), rank, z.data(), classes, 0.0))
    return Error{Errc::invalid_argument,
                 fmt::format("XᵀX + gamma·I is singular beyond what float64 can tell at gamma = "
                             "{:g} (about rank {} of {}): choose a larger gamma",
                             gamma, rank, d)};
  simd().matmul_transposed_f64(1.0, u, d, z.data(), classes, system.right.data(), classes, d, classes, rank, false);
  return rank;
}

}  // namespace

std::int64_t packed_triangle_order(std::int64_t size) {
  const auto d = static_cast<std::int64_t>((std::sqrt(8.0 * static_cast<double>(size) + 1.0) - 1.0) / 2.0 + 0.5);
  require(size >= 0 && packed_triangle_size(d) == size, "that many elements are no packed triangle");
  return d;
}

RidgeSums RidgeSums::zeros(Stream& stream, std::int64_t d, std::int64_t classes) {
  return {Tensor::zeros(stream, DType::f64, {packed_triangle_size(d)}), Tensor::zeros(stream, DType::f64, {classes, d}),
          Tensor::zeros(stream, DType::f64, {classes})};
}

RidgeSums RidgeSums::with_classes(Stream& stream, std::int64_t classes) const {
  require(classes >= class_count(), "ridge sums: classes are added, not taken away");
  RidgeSums wider{gram, Tensor::zeros(stream, DType::f64, {classes, feature_size()}), {}};
  wider.class_sums.rows(0, class_count()).copy_from(stream, class_sums);
  if (counts.defined()) {
    wider.counts = Tensor::zeros(stream, DType::f64, {classes});
    wider.counts.rows(0, class_count()).copy_from(stream, counts);
  }
  return wider;
}

void add_ridge_sums(Stream& stream, const Tensor& features, const Tensor& labels, const RidgeSums& sums,
                    const Tensor& weights) {
  check(sums, features, labels, weights);
  const std::int64_t rows = features.dim(0);
  if (rows == 0) return;
  detail::dispatch(
      stream,
      [&] {
        const float* const weight = weights.defined() ? RawAccess::data<float>(weights) : nullptr;
        const auto* const label = RawAccess::data<std::int32_t>(labels);
        check_labels({label, static_cast<std::size_t>(rows)}, sums.class_count());
        add_by_class(RawAccess::data<float>(features), label, weight, rows, sums);
        cpu::add_gram(1.0, RawAccess::data<float>(features), weight, rows, sums.feature_size(),
                      RawAccess::data<double>(sums.gram));
      },
      [&] {
        const HostTensor host = labels.to_host(stream);
        const std::span<const std::int32_t> label = host.as<std::int32_t>();
        check_labels(label, sums.class_count());
        cuda::add_ridge_sums(stream, features, {label.begin(), label.end()}, sums, weights);
      });
}

Result<RidgeSolution> solve_ridge(Stream& stream, const Tensor& gram, const Tensor& class_sums, double gamma) {
  require(class_sums.shape().size() == 2 && class_sums.dtype() == DType::f64 && gram.dtype() == DType::f64 &&
              gram.element_count() == packed_triangle_size(class_sums.dim(1)),
          "solve_ridge takes a packed triangle and (classes, d), float64");
  const std::int64_t d = class_sums.dim(1), classes = class_sums.dim(0);
  if (!(gamma >= 0.0) || !std::isfinite(gamma))
    return Error{Errc::invalid_argument, fmt::format("gamma = {:g}: it must be a finite number of at least 0", gamma)};
  RidgeSolution solution{Tensor(stream.device(), DType::f64, {classes, d}), d};
  if (d == 0 || classes == 0) return solution;
  if constexpr (detail::has_cuda) {
    if (stream.device().kind() == DeviceKind::cuda &&
        cuda::solve_ridge(stream, gram, class_sums, gamma, solution.weights))
      return solution;
  }
  const Tensor host_gram = on_cpu(stream, gram), host_sums = on_cpu(stream, class_sums);
  if (!all_finite(host_gram) || !all_finite(host_sums))
    return Error{Errc::invalid_argument,
                 "XᵀX or YᵀX has an element that is not finite: a record's features were not, or a sum overflowed"};
  System system(host_gram, host_sums, gamma);
  if (!cpu::solve_cholesky(system.triangle(), d, system.right.data(), classes, system.least_pivot)) {
    system.set(host_gram, host_sums, gamma);
    TRIB_ASSIGN(solution.rank, solve_singular(system, gamma));
  }
  HostTensor weights(DType::f64, {classes, d});
  for (std::int64_t c = 0; c < classes; ++c)
    for (std::int64_t i = 0; i < d; ++i)
      weights.as<double>()[static_cast<std::size_t>(c * d + i)] =
          system.right[static_cast<std::size_t>(i * classes + c)];
  solution.weights = Tensor::from_host(stream, weights);
  return solution;
}

double symmetric_noise_norm(double stddev, std::int64_t d, double probability) {
  require(probability > 0.0 && probability < 1.0, "symmetric_noise_norm: a probability is between 0 and 1");
  return 2.0 * stddev * (std::sqrt(static_cast<double>(d)) + std::sqrt(-std::log(probability)));
}

RandomFeatures::RandomFeatures(Stream& stream, std::span<const std::uint8_t, 32> key, std::uint64_t stream_id,
                               std::int64_t d_in, std::int64_t width) {
  require(d_in > 0 && width > 0, "RandomFeatures: a layer has inputs and outputs");
  std::uint32_t words[8];
  std::memcpy(words, key.data(), sizeof words);
  std::vector<double> normals(static_cast<std::size_t>(d_in * width));
  simd().gaussian_f64(words, stream_id, normals.data(), d_in * width);
  HostTensor host(DType::f32, {d_in, width});
  const double deviation = 1.0 / std::sqrt(3.0 * static_cast<double>(d_in));
  for (std::size_t i = 0; i < normals.size(); ++i) host.as<float>()[i] = static_cast<float>(deviation * normals[i]);
  weights_ = Tensor::from_host(stream, host);
  detail::dispatch(
      stream,
      [&] {
        const std::int64_t panels = (width + simd().panel_width - 1) / simd().panel_width;
        panels_ = Tensor(stream.device(), DType::f64, {panels * d_in * simd().panel_width});
        simd().pack_panels_f32(host.as<float>().data(), width, nullptr, d_in, width, 0, panels,
                               RawAccess::data<double>(panels_));
      },
      [] {});
}

void RandomFeatures::apply(Stream& stream, const Tensor& x, const Tensor& features) const {
  require(x.shape().size() == 2 && x.dtype() == DType::f32 && x.dim(1) == input_size() &&
              features.dtype() == DType::f32 && features.shape() == Shape({x.dim(0), width()}),
          "RandomFeatures: float32 (n, d_in) to float32 (n, width)");
  const std::int64_t rows = x.dim(0), k = input_size(), columns = width();
  if (rows == 0) return;
  detail::dispatch(
      stream,
      [&] {
        const std::int64_t panels = (columns + simd().panel_width - 1) / simd().panel_width;
        const std::int64_t threads = cpu::ThreadPool::instance().size();
        const std::int64_t row_parts = (rows + cpu::relu_rows - 1) / cpu::relu_rows;
        // A few records are shared out by columns.
        const std::int64_t column_parts =
            row_parts >= 2 * threads ? 1 : std::min(panels, (2 * threads + row_parts - 1) / row_parts);
        cpu::ThreadPool::instance().run(static_cast<int>(row_parts * column_parts), [&](int task) {
          const std::int64_t first = task / column_parts * cpu::relu_rows, part = task % column_parts;
          std::vector<double> scratch(static_cast<std::size_t>(cpu::relu_rows * k));
          simd().relu_product(RawAccess::data<float>(x) + first * k, std::min(cpu::relu_rows, rows - first), k,
                              RawAccess::data<double>(panels_), panels * part / column_parts,
                              panels * (part + 1) / column_parts, columns, scratch.data(),
                              RawAccess::data<float>(features) + first * columns);
        });
      },
      [&] { cuda::relu_product(stream, x, weights_, features); });
}

double float64_product_limit(Stream& stream, double seconds) {
  double operations = 0, total = 0;
  detail::dispatch(
      stream,
      [&] {
        const int threads = cpu::ThreadPool::instance().size();
        constexpr std::int64_t rounds = 1 << 18;  // a few milliseconds
        std::vector<double> results(static_cast<std::size_t>(threads));
        for (; total < seconds;
             operations += 2.0 * static_cast<double>(rounds * threads * simd().multiply_adds_per_round)) {
          const auto begin = std::chrono::steady_clock::now();
          cpu::ThreadPool::instance().run(
              threads, [&](int i) { results[static_cast<std::size_t>(i)] = simd().multiply_adds(rounds); });
          total += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
        }
        operations /= total;
      },
      [&] { operations = cuda::float64_product_limit(stream, seconds); });
  return operations;
}

}  // namespace trib::kernels
