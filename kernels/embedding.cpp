#include "kernels/embedding.h"

#include <cstring>

#include "kernels/cpu/simd.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cuda/operations.h"
#include "kernels/detail/dispatch.h"
#include "kernels/detail/raw_access.h"

namespace trib::kernels {
namespace {

std::size_t row_bytes(const Tensor& matrix) {
  return size_of(matrix.dtype()) * static_cast<std::size_t>(matrix.dim(1));
}

}  // namespace

void embed(Stream& stream, const Tensor& tokens, const Tensor& tokens_table, const Tensor& positions,
           const Tensor& positions_table, const Tensor& constant, const Tensor& y) {
  const std::int64_t columns = constant.element_count();
  detail::require(tokens_table.dim(1) == columns && positions_table.dim(1) == columns && y.dim(1) == columns &&
                      tokens.element_count() == y.dim(0) && positions.element_count() == y.dim(0),
                  "embed: shapes do not fit");
  detail::dispatch(
      stream,
      [&] {
        const std::int32_t *token = RawAccess::data<std::int32_t>(tokens),
                           *position = RawAccess::data<std::int32_t>(positions);
        const float *words = RawAccess::data<float>(tokens_table), *places = RawAccess::data<float>(positions_table),
                    *shared = RawAccess::data<float>(constant);
        float* to = RawAccess::data<float>(y);
        cpu::parallel_for(y.dim(0), 64, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t i = begin; i < end; ++i) {
            const float *word = words + token[i] * columns, *place = places + position[i] * columns;
            for (std::int64_t j = 0; j < columns; ++j) to[i * columns + j] = word[j] + shared[j] + place[j];
          }
        });
      },
      [&] { cuda::embed(stream, tokens, tokens_table, positions, positions_table, constant, y); });
}

void gather_rows(Stream& stream, const Tensor& x, const Tensor& rows, const Tensor& y) {
  detail::require(x.dtype() == y.dtype() && x.dim(1) == y.dim(1) && rows.element_count() == y.dim(0),
                  "gather_rows: shapes do not fit");
  detail::dispatch(
      stream,
      [&] {
        const std::int32_t* row = RawAccess::data<std::int32_t>(rows);
        const std::size_t bytes = row_bytes(x);
        for (std::int64_t i = 0; i < y.dim(0); ++i)
          std::memcpy(RawAccess::address(y) + static_cast<std::size_t>(i) * bytes,
                      RawAccess::address(x) + static_cast<std::size_t>(row[i]) * bytes, bytes);
      },
      [&] { cuda::gather_rows(stream, x, rows, y); });
}

void scatter_rows(Stream& stream, const Tensor& x, const Tensor& rows, const Tensor& y) {
  detail::require(x.dtype() == y.dtype() && x.dim(1) == y.dim(1) && rows.element_count() == x.dim(0),
                  "scatter_rows: shapes do not fit");
  detail::dispatch(
      stream,
      [&] {
        const std::int32_t* row = RawAccess::data<std::int32_t>(rows);
        const std::size_t bytes = row_bytes(x);
        for (std::int64_t i = 0; i < x.dim(0); ++i)
          std::memcpy(RawAccess::address(y) + static_cast<std::size_t>(row[i]) * bytes,
                      RawAccess::address(x) + static_cast<std::size_t>(i) * bytes, bytes);
      },
      [&] { cuda::scatter_rows(stream, x, rows, y); });
}

void scatter_add_rows(Stream& stream, const Tensor& x, const Tensor& rows, const Tensor& y) {
  detail::require(x.dim(1) == y.dim(1) && rows.element_count() == x.dim(0), "scatter_add_rows: shapes do not fit");
  detail::dispatch(
      stream,
      [&] {
        const std::int32_t* row = RawAccess::data<std::int32_t>(rows);
        for (std::int64_t i = 0; i < x.dim(0); ++i)
          cpu::simd().axpy(1.0f, RawAccess::data<float>(x) + i * x.dim(1),
                           RawAccess::data<float>(y) + row[i] * y.dim(1), 0, x.dim(1));
      },
      [&] { cuda::scatter_add_rows(stream, x, rows, y); });
}

void fill_rows(Stream& stream, const Tensor& row, const Tensor& y) {
  detail::require(row.dtype() == DType::f32 && y.dtype() == DType::f32 && row.element_count() == y.dim(1),
                  "fill_rows: shapes do not fit");
  detail::dispatch(
      stream,
      [&] {
        for (std::int64_t i = 0; i < y.dim(0); ++i)
          std::memcpy(RawAccess::data<float>(y) + i * y.dim(1), RawAccess::data<float>(row), row.byte_count());
      },
      [&] { cuda::fill_rows(stream, row, y); });
}

}  // namespace trib::kernels
