#include "kernels/per_sample.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "kernels/cpu/simd.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cuda/operations.h"
#include "kernels/detail/dispatch.h"
#include "kernels/detail/per_sample_check.h"
#include "kernels/detail/raw_access.h"

namespace trib::kernels {
namespace {

constexpr std::int64_t element_grain = 16384;
constexpr std::int64_t normals_a_block = 8;

const float* data(const Tensor& tensor) {
  detail::require(tensor.dtype() == DType::f32, "per-sample operations take float32 tensors");
  return RawAccess::data<float>(tensor);
}

double squared_row_norm(const Tensor& rows, std::int64_t row) {
  return cpu::simd().squared_norm(data(rows), row * rows.dim(1), (row + 1) * rows.dim(1));
}

// sum (p, q) += Σ_i factors[i]·g_i ⊗ x_i, rows [begin, end) of p. A row of the sum stays in cache while all samples
// pass.
void add_outer_products(const PerSampleGradient& gradient, const float* factors, std::int64_t count, float* sum,
                        std::int64_t begin, std::int64_t end) {
  const float *g = data(gradient.output_grads), *x = data(gradient.inputs);
  const std::int64_t p = gradient.output_grads.dim(1), q = gradient.inputs.dim(1);
  for (std::int64_t row = begin; row < end; ++row)
    for (std::int64_t i = 0; i < count; ++i)
      if (factors[i] != 0) cpu::simd().axpy(factors[i] * g[i * p + row], x + i * q, sum + row * q, 0, q);
}

// As many rows at a time as one block of squared_norm() holds, so that where their length is a multiple of its step the
// sum has the bits of the whole table's.
double squared_norm_of_rows(const PerSampleGradient& gradient, std::int64_t sample) {
  const detail::TableRows table(gradient);
  const std::int64_t rows_a_block = std::max<std::int64_t>(1, cpu::simd().squared_norm_block / table.columns);
  double total = 0;
  for (std::int64_t first = table.begin(sample), last = first; first < table.end(sample); first = last) {
    const std::int64_t block = table.rows[first] / rows_a_block;
    while (last < table.end(sample) && table.rows[last] / rows_a_block == block) ++last;
    total += cpu::simd().squared_norm(table.values, first * table.columns, last * table.columns);
  }
  return total;
}

}  // namespace

PerSampleGradients with_whole_tables(Stream& stream, const PerSampleGradients& gradients) {
  detail::check(gradients);
  PerSampleGradients result = gradients;
  for (PerSampleGradient& gradient : result.tensors) {
    if (!gradient.is_rows()) continue;
    const HostTensor values = gradient.values.to_host(stream), rows = gradient.rows.to_host(stream),
                     ends = gradient.row_ends.to_host(stream);
    const auto columns = static_cast<std::size_t>(gradient.shape[1]),
               size = static_cast<std::size_t>(element_count(gradient.shape));
    HostTensor whole(DType::f32, {gradients.sample_count, static_cast<std::int64_t>(size)});
    std::size_t place = 0;
    for (std::size_t i = 0; i < static_cast<std::size_t>(gradients.sample_count); ++i) {
      for (; place < static_cast<std::size_t>(ends.as<std::int64_t>()[i]); ++place) {
        const auto row = static_cast<std::size_t>(rows.as<std::int32_t>()[place]);
        std::ranges::copy(values.as<float>().subspan(place * columns, columns),
                          whole.as<float>().subspan(i * size + row * columns, columns).begin());
      }
    }
    gradient.values = Tensor::from_host(stream, whole);
    gradient.rows = gradient.row_ends = Tensor();
  }
  return result;
}

void joint_squared_norms(Stream& stream, const PerSampleGradients& gradients, const Tensor& squared_norms) {
  detail::check(gradients);
  detail::require(squared_norms.dtype() == DType::f32 && squared_norms.element_count() == gradients.sample_count,
                  "joint_squared_norms: one float32 a sample is needed");
  detail::dispatch(
      stream,
      [&] {
        detail::check_rows(gradients);
        float* to = RawAccess::data<float>(squared_norms);
        cpu::parallel_for(gradients.sample_count, 4, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t i = begin; i < end; ++i) {
            double total = 0;
            for (const PerSampleGradient& gradient : gradients.tensors) {
              if (gradient.is_outer_product()) {
                total += squared_row_norm(gradient.output_grads, i) * squared_row_norm(gradient.inputs, i);
              } else if (gradient.is_rows()) {
                total += squared_norm_of_rows(gradient, i);
              } else {
                const std::int64_t size = element_count(gradient.shape);
                total += cpu::simd().squared_norm(data(gradient.values), i * size, (i + 1) * size);
              }
            }
            to[i] = static_cast<float>(total);
          }
        });
      },
      [&] { cuda::joint_squared_norms(stream, with_whole_tables(stream, gradients), squared_norms); });
}

void clip_factors(Stream& stream, const Tensor& squared_norms, double clip_norm, ClippingRule rule, double stability,
                  const Tensor& factors) {
  detail::require(clip_norm > 0 && (rule == ClippingRule::flat || stability > 0),
                  "clip_factors: the clip norm, and the stability of automatic clipping, must be positive");
  detail::require(factors.element_count() == squared_norms.element_count(), "clip_factors: sizes differ");
  // Room for the rounding of norms and sums to float32, so that the bound holds exactly.
  const double bound = clip_norm * (1.0 - 1e-5);
  detail::dispatch(
      stream,
      [&] {
        const float* squared = data(squared_norms);
        float* to = RawAccess::data<float>(factors);
        for (std::int64_t i = 0; i < factors.element_count(); ++i) {
          const double norm = std::sqrt(static_cast<double>(squared[i]));
          double factor = 0;
          if (std::isfinite(norm))
            factor = rule == ClippingRule::automatic ? bound / (norm + stability) : norm > bound ? bound / norm : 1.0;
          to[i] = static_cast<float>(factor);
        }
      },
      [&] { cuda::clip_factors(stream, squared_norms, bound, rule, stability, factors); });
}

void add_count_below(Stream& stream, const Tensor& x, float limit, const Tensor& count) {
  detail::require(x.dtype() == DType::f32 && count.dtype() == DType::i64 && count.element_count() == 1,
                  "add_count_below: takes float32 numbers and one int64 count");
  detail::dispatch(
      stream,
      [&] {
        const float* from = data(x);
        *RawAccess::data<std::int64_t>(count) +=
            std::count_if(from, from + x.element_count(), [limit](float value) { return value < limit; });
      },
      [&] { cuda::add_count_below(stream, x, limit, count); });
}

void add_weighted_sum(Stream& stream, const PerSampleGradients& gradients, const Tensor& factors,
                      const std::vector<Tensor>& sums) {
  detail::check(gradients);
  detail::require(sums.size() == gradients.tensors.size(), "add_weighted_sum: one sum a tensor is needed");
  detail::require(factors.element_count() == gradients.sample_count, "add_weighted_sum: one factor a sample is needed");
  for (std::size_t t = 0; t < sums.size(); ++t)
    detail::require(sums[t].element_count() == element_count(gradients.tensors[t].shape),
                    "add_weighted_sum: a sum does not fit its tensor");
  detail::dispatch(
      stream,
      [&] {
        detail::check_rows(gradients);
        const float* factor = data(factors);
        const std::int64_t count = gradients.sample_count;
        // One parallel region over all tensors: part k takes the k-th share of each.
        const int parts = cpu::ThreadPool::instance().size();
        cpu::ThreadPool::instance().run(parts, [&](int part) {
          for (std::size_t t = 0; t < sums.size(); ++t) {
            const PerSampleGradient& gradient = gradients.tensors[t];
            float* sum = RawAccess::data<float>(sums[t]);
            if (gradient.is_outer_product()) {
              const std::int64_t rows = gradient.output_grads.dim(1);
              add_outer_products(gradient, factor, count, sum, rows * part / parts, rows * (part + 1) / parts);
            } else if (gradient.is_rows()) {
              const detail::TableRows table(gradient);
              const std::int64_t rows = gradient.shape[0], columns = table.columns;
              table.each_between(count, rows * part / parts, rows * (part + 1) / parts,
                                 [&](std::int64_t i, std::int64_t place, std::int64_t row, std::int64_t run) {
                                   if (factor[i] != 0)
                                     cpu::simd().axpy(factor[i], table.row(place), sum + row * columns, 0,
                                                      run * columns);
                                 });
            } else {
              const std::int64_t size = element_count(gradient.shape);
              cpu::simd().weighted_row_sum(data(gradient.values), size, factor, count, sum, size * part / parts,
                                           size * (part + 1) / parts);
            }
          }
        });
      },
      [&] { cuda::add_weighted_sum(stream, with_whole_tables(stream, gradients), factors, sums); });
}

void axpy(Stream& stream, double a, const Tensor& x, const Tensor& y) {
  detail::require(x.element_count() == y.element_count(), "axpy: sizes differ");
  detail::dispatch(
      stream,
      [&] {
        cpu::parallel_for(x.element_count(), element_grain, [&](std::int64_t begin, std::int64_t end) {
          cpu::simd().axpy(static_cast<float>(a), data(x), RawAccess::data<float>(y), begin, end);
        });
      },
      [&] { cuda::axpy(stream, a, x, y); });
}

void add_scaled(Stream& stream, std::span<const ScaledAddition> additions) {
  for (const auto& [a, x, y] : additions) {
    detail::require(x.element_count() == y.element_count(), "add_scaled: sizes differ");
    data(x), data(y);  // float32
  }
  detail::dispatch(
      stream,
      [&] {
        for (const auto& [a, x, y] : additions) axpy(stream, a, x, y);
      },
      [&] { cuda::add_scaled(stream, additions); });
}

void add_sum(Stream& stream, const Tensor& x, const Tensor& total) {
  detail::require(x.dtype() == DType::f32 && total.dtype() == DType::f64 && total.element_count() == 1,
                  "add_sum: takes float32 numbers and one float64 sum");
  detail::dispatch(
      stream,
      [&] {
        const float* from = data(x);
        *RawAccess::data<double>(total) += std::accumulate(from, from + x.element_count(), 0.0);
      },
      [&] { cuda::add_sum(stream, x, total); });
}

void scale(Stream& stream, double a, const Tensor& x) {
  detail::dispatch(
      stream,
      [&] {
        cpu::parallel_for(x.element_count(), element_grain, [&](std::int64_t begin, std::int64_t end) {
          cpu::simd().scale(static_cast<float>(a), RawAccess::data<float>(x), begin, end);
        });
      },
      [&] { cuda::scale(stream, a, x); });
}

double squared_norm(Stream& stream, const std::vector<Tensor>& tensors) {
  double total = 0;
  detail::dispatch(
      stream,
      [&] {
        for (const Tensor& tensor : tensors) total += cpu::simd().squared_norm(data(tensor), 0, tensor.element_count());
      },
      [&] { total = cuda::squared_norm(stream, tensors); });
  return total;
}

std::uint64_t add_gaussian_noise(Stream& stream, double stddev, std::span<const std::uint8_t, 32> key,
                                 std::uint64_t stream_id, std::uint64_t first_counter, const Tensor& y) {
  detail::require(stddev >= 0 && std::isfinite(stddev),
                  "add_gaussian_noise: the deviation must be finite and not negative");
  const std::int64_t blocks = (y.element_count() + normals_a_block - 1) / normals_a_block;
  data(y);  // float32
  std::uint32_t words[8];
  std::memcpy(words, key.data(), sizeof words);  // ChaCha20 reads its key as little-endian words
  detail::dispatch(
      stream,
      [&] {
        constexpr std::int64_t blocks_a_task = 512;
        cpu::parallel_for(blocks, blocks_a_task, [&](std::int64_t begin, std::int64_t end) {
          cpu::simd().add_gaussian(stddev, words, stream_id, first_counter, RawAccess::data<float>(y),
                                   begin * normals_a_block, std::min(end * normals_a_block, y.element_count()));
        });
      },
      [&] { cuda::add_gaussian_noise(stream, stddev, words, stream_id, first_counter, y); });
  explicit_bzero(words, sizeof words);
  return first_counter + static_cast<std::uint64_t>(blocks);
}

}  // namespace trib::kernels
