#include "kernels/grid.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/discrete_gaussian.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cuda/operations.h"
#include "kernels/detail/discrete_gaussian_margin.h"
#include "kernels/detail/per_sample_check.h"
#include "kernels/detail/raw_access.h"

namespace trib::kernels {
namespace {

constexpr std::int64_t element_grain = 16384;

std::int64_t* integers(const Tensor& tensor) {
  detail::require(tensor.dtype() == DType::i64, "sums on a grid are int64 tensors");
  return RawAccess::data<std::int64_t>(tensor);
}

// sum (p, q) += Σ_i round(factors[i]·g_i ⊗ x_i), rows [begin, end) of p.
void add_rounded_outer_products(const PerSampleGradient& gradient, const std::vector<float>& factors, std::int64_t* sum,
                                std::int64_t begin, std::int64_t end) {
  const float *g = RawAccess::data<float>(gradient.output_grads), *x = RawAccess::data<float>(gradient.inputs);
  const std::int64_t p = gradient.output_grads.dim(1), q = gradient.inputs.dim(1);
  const auto count = static_cast<std::int64_t>(factors.size());
  std::vector<float> row_factors(factors.size());
  for (std::int64_t row = begin; row < end; ++row) {
    for (std::int64_t i = 0; i < count; ++i) {
      const float factor = factors[static_cast<std::size_t>(i)];
      row_factors[static_cast<std::size_t>(i)] = factor == 0 ? 0.0f : factor * g[i * p + row];
    }
    cpu::simd().rounded_row_sum(x, q, row_factors.data(), count, sum + row * q, 0, q);
  }
}

}  // namespace

void add_rounded_sum(Stream& stream, const PerSampleGradients& gradients, const Tensor& factors, double spacing,
                     const std::vector<Tensor>& sums) {
  detail::check(gradients);
  detail::require(spacing > 0 && std::isfinite(1.0 / spacing), "add_rounded_sum: the spacing must be positive");
  detail::require(sums.size() == gradients.tensors.size(), "add_rounded_sum: one sum a tensor is needed");
  detail::require(factors.dtype() == DType::f32 && factors.element_count() == gradients.sample_count,
                  "add_rounded_sum: one float32 factor a sample is needed");
  std::int64_t work = 0;
  for (std::size_t t = 0; t < sums.size(); ++t) {
    detail::require(sums[t].element_count() == element_count(gradients.tensors[t].shape),
                    "add_rounded_sum: a sum does not fit its tensor");
    integers(sums[t]);
    work += gradients.tensors[t].is_rows() ? gradients.tensors[t].values.element_count()
                                           : sums[t].element_count() * gradients.sample_count;
  }
  detail::dispatch(
      stream,
      [&] {
        detail::check_rows(gradients);
        const float* given = RawAccess::data<float>(factors);
        std::vector<float> scaled(given, given + gradients.sample_count);
        for (float& factor : scaled) factor = static_cast<float>(static_cast<double>(factor) / spacing);
        const auto add_part = [&](int part, int parts) {
          for (std::size_t t = 0; t < sums.size(); ++t) {
            const PerSampleGradient& gradient = gradients.tensors[t];
            std::int64_t* sum = integers(sums[t]);
            if (gradient.is_outer_product()) {
              const std::int64_t rows = gradient.output_grads.dim(1);
              add_rounded_outer_products(gradient, scaled, sum, rows * part / parts, rows * (part + 1) / parts);
            } else if (gradient.is_rows()) {
              // What is not among a sample's rows is 0 on the grid too.
              const detail::TableRows table(gradient);
              const std::int64_t rows = gradient.shape[0], columns = table.columns;
              table.each_between(gradients.sample_count, rows * part / parts, rows * (part + 1) / parts,
                                 [&](std::int64_t i, std::int64_t place, std::int64_t row, std::int64_t run) {
                                   cpu::simd().rounded_row_sum(table.row(place), run * columns,
                                                               &scaled[static_cast<std::size_t>(i)], 1,
                                                               sum + row * columns, 0, run * columns);
                                 });
            } else {
              const std::int64_t size = element_count(gradient.shape);
              cpu::simd().rounded_row_sum(RawAccess::data<float>(gradient.values), size, scaled.data(),
                                          gradients.sample_count, sum, size * part / parts, size * (part + 1) / parts);
            }
          }
        };
        if (work < element_grain) return add_part(0, 1);
        // One parallel region over all tensors: part k takes the k-th share of each.
        const int parts = cpu::ThreadPool::instance().size();
        cpu::ThreadPool::instance().run(parts, [&](int part) { add_part(part, parts); });
      },
      [&] { cuda::add_rounded_sum(stream, with_whole_tables(stream, gradients), factors, spacing, sums); });
}

std::uint64_t add_discrete_gaussian_noise(Stream& stream, int log2_stddev, std::span<const std::uint8_t, 32> key,
                                          std::uint64_t stream_id, std::uint64_t first_counter, const Tensor& y) {
  return detail::add_discrete_gaussian_noise(stream, log2_stddev, key, stream_id, first_counter, y,
                                             detail::discrete_gaussian_margin);
}

std::uint64_t detail::add_discrete_gaussian_noise(Stream& stream, int log2_stddev,
                                                  std::span<const std::uint8_t, 32> key, std::uint64_t stream_id,
                                                  std::uint64_t first_counter, const Tensor& y, double margin) {
  detail::require(log2_stddev >= min_log2_grid_stddev && log2_stddev <= max_log2_grid_stddev,
                  "add_discrete_gaussian_noise: the deviation must be between 2^5 and 2^36");
  integers(y);
  detail::require(stream_id >> 32 == 0, "add_discrete_gaussian_noise: the stream id must be below 2^32");
  detail::dispatch(
      stream,
      [&] {
        std::int64_t* to = integers(y);
        std::uint32_t words[8];
        std::memcpy(words, key.data(), sizeof words);  // ChaCha20 reads its key as little-endian words
        constexpr std::int64_t per_block = 4, blocks_a_task = 1024;
        const std::int64_t count = y.element_count();
        cpu::parallel_for(
            (count + per_block - 1) / per_block, blocks_a_task, [&](std::int64_t begin, std::int64_t end) {
              begin *= per_block;
              end = std::min(end * per_block, count);
              std::vector<std::int64_t> pending(static_cast<std::size_t>(end - begin));
              pending.resize(static_cast<std::size_t>(
                  cpu::simd().discrete_gaussian(cpu::discrete_gaussian_table(), log2_stddev, words, stream_id,
                                                first_counter, to, begin, end, pending.data())));
              for (const std::int64_t i : pending) {
                to[i] +=
                    cpu::discrete_gaussian(log2_stddev, key, stream_id, first_counter, static_cast<std::uint64_t>(i));
              }
            });
        ::explicit_bzero(words, sizeof words);
      },
      [&] { cuda::add_discrete_gaussian_noise(stream, log2_stddev, key, stream_id, first_counter, y, margin); });
  return first_counter + static_cast<std::uint64_t>(y.element_count());
}

void scale_grid(Stream& stream, double a, const Tensor& grid, const Tensor& y) {
  detail::require(grid.element_count() == y.element_count(), "scale_grid: sizes differ");
  integers(grid);
  detail::require(y.dtype() == DType::f32 || y.dtype() == DType::f64, "scale_grid: takes a float32 or float64 result");
  detail::dispatch(
      stream,
      [&] {
        const std::int64_t* from = integers(grid);
        const auto count = y.element_count();
        if (y.dtype() == DType::f64) {
          double* to = RawAccess::data<double>(y);
          for (std::int64_t i = 0; i < count; ++i) to[i] = a * static_cast<double>(from[i]);
        } else {
          float* to = RawAccess::data<float>(y);
          for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(a * static_cast<double>(from[i]));
        }
      },
      [&] { cuda::scale_grid(stream, a, grid, y); });
}

}  // namespace trib::kernels
