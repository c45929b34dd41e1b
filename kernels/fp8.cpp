#include "kernels/fp8.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/activation.h"
#include "kernels/cpu/output.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cuda/fp8.h"
#include "kernels/detail/dispatch.h"
#include "kernels/detail/e4m3.h"

namespace trib::kernels {
namespace {

using detail::require;

// A row is cheap: ranges of several thousand elements are worth a thread.
std::int64_t grain(std::int64_t columns) {
  return 1 + 16384 / std::max<std::int64_t>(1, columns);
}

void check_rows(const Fp8Rows& rows, std::int64_t count, std::int64_t columns) {
  require(rows.codes.dtype() == DType::u8 && rows.scales.dtype() == DType::f32 && rows.codes.dim(0) == count &&
              rows.codes.dim(1) == columns && rows.scales.element_count() == count,
          "FP8 rows do not fit");
}

void quantize_row(const float* x, std::int64_t columns, std::uint8_t* codes, float& scale) {
  float peak = 0;
  for (std::int64_t i = 0; i < columns; ++i) peak = std::max(peak, std::abs(x[i]));  // passes over NaN
  const detail::E4m3Scale factors = detail::e4m3_scale(peak);
  for (std::int64_t i = 0; i < columns; ++i) codes[i] = detail::float_to_e4m3(x[i] * factors.to_codes);
  scale = factors.from_codes;
}

// Calls fill(row, values) for every row of `y`'s matrix and rounds the values. `values` is scratch of a row's length.
template <typename Fill>
void quantize_each(const Fp8Rows& y, const Fill& fill) {
  const std::int64_t columns = y.codes.dim(1);
  auto* const codes = RawAccess::data<std::uint8_t>(y.codes);
  auto* const scales = RawAccess::data<float>(y.scales);
  float* const norms = y.norms.defined() ? RawAccess::data<float>(y.norms) : nullptr;
  cpu::parallel_for(y.codes.dim(0), grain(columns), [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> values(static_cast<std::size_t>(columns));
    for (std::int64_t row = begin; row < end; ++row) {
      fill(row, values.data());
      quantize_row(values.data(), columns, codes + row * columns, scales[row]);
      if (norms == nullptr) continue;
      double squares = 0;
      for (const float value : values) squares += static_cast<double>(value) * value;
      norms[row] = static_cast<float>(std::sqrt(squares));
    }
  });
}

void dequantize(const Fp8Rows& x, std::int64_t begin, std::int64_t end, float* y) {
  static const std::vector<float> table = [] {
    std::vector<float> values(256);
    for (std::size_t code = 0; code < values.size(); ++code)
      values[code] = detail::e4m3_to_float(static_cast<std::uint8_t>(code));
    return values;
  }();
  const std::int64_t columns = x.codes.dim(1);
  const auto* const codes = RawAccess::data<std::uint8_t>(x.codes);
  const auto* const scales = RawAccess::data<float>(x.scales);
  for (std::int64_t row = begin; row < end; ++row)
    for (std::int64_t i = 0; i < columns; ++i)
      y[(row - begin) * columns + i] = scales[row] * table[codes[row * columns + i]];
}

}  // namespace

DType fp8_companion_type(Device& device) {
  return device.kind() == DeviceKind::cpu ? DType::f32 : DType::bf16;
}

void quantize_rows(Stream& stream, const Tensor& x, const Fp8Rows& y) {
  check_rows(y, x.dim(0), x.dim(1));
  detail::dispatch(
      stream,
      [&] {
        const float* const values = RawAccess::data<float>(x);
        const std::int64_t columns = x.dim(1);
        quantize_each(y, [&](std::int64_t row, float* to) { std::copy_n(values + row * columns, columns, to); });
      },
      [&] { cuda::quantize_rows(stream, x, y); });
}

void dequantize_rows(Stream& stream, const Fp8Rows& x, const Tensor& y) {
  check_rows(x, y.dim(0), y.dim(1));
  require(y.dtype() == DType::f32, "dequantize_rows: the destination must be float32");
  detail::dispatch(
      stream,
      [&] {
        cpu::parallel_for(y.dim(0), grain(y.dim(1)), [&](std::int64_t begin, std::int64_t end) {
          dequantize(x, begin, end, RawAccess::data<float>(y) + begin * y.dim(1));
        });
      },
      [&] { cuda::dequantize_rows(stream, x, y); });
}

void gelu_fp8(Stream& stream, const Tensor& x, const Tensor& y, const Fp8Rows& rows, const Tensor& kept) {
  check_rows(rows, x.dim(0), x.dim(1));
  detail::dispatch(
      stream,
      [&] {
        const std::int64_t columns = x.dim(1);
        quantize_each(rows, [&](std::int64_t row, float* values) {
          const std::int64_t begin = row * columns;
          cpu::Output derivative;
          if (kept.defined()) derivative = {RawAccess::address(kept.rows(row, 1)), kept.dtype() == DType::bf16};
          cpu::simd().gelu(RawAccess::data<float>(x) + begin, {values}, derivative, 0, columns);
          if (y.defined()) std::copy_n(values, columns, RawAccess::data<float>(y) + begin);
        });
      },
      [&] { cuda::gelu_fp8(stream, x, y, rows, kept); });
}

void gelu_backward_fp8(Stream& stream, const Tensor& dy, const Tensor& kept, const Tensor& dx, const Fp8Rows& rows) {
  check_rows(rows, dy.dim(0), dy.dim(1));
  detail::dispatch(
      stream,
      [&] {
        const std::int64_t columns = dy.dim(1);
        quantize_each(rows, [&](std::int64_t row, float* values) {
          const std::int64_t begin = row * columns;
          cpu::simd().multiply(RawAccess::data<float>(dy) + begin, RawAccess::address(kept.rows(row, 1)),
                               kept.dtype() == DType::bf16, {values}, 0, columns);
          if (dx.defined()) std::copy_n(values, columns, RawAccess::data<float>(dx) + begin);
        });
      },
      [&] { cuda::gelu_backward_fp8(stream, dy, kept, dx, rows); });
}

void fp8_product(Stream& stream, const Fp8Rows& x, const PackedMatrix& w, const Tensor& bias, bool accumulate,
                 const Tensor& y) {
  require(w.format() == WeightFormat::fp8, "fp8_product: the matrix is not in FP8");
  check_rows(x, y.dim(0), w.input_size());
  require(y.dim(1) == w.output_size(), "fp8_product: y does not fit");
  require(y.dtype() == DType::f32 || y.dtype() == fp8_companion_type(stream.device()),
          "fp8_product: y has a type that products do not give");
  require(!bias.defined() || (bias.element_count() == w.output_size() && bias.dtype() == y.dtype()),
          "fp8_product: bias does not fit");
  detail::dispatch(
      stream,
      [&] {
        const float* const bias_data = bias.defined() ? RawAccess::data<float>(bias) : nullptr;
        cpu::parallel_for(y.dim(0), 64, [&](std::int64_t begin, std::int64_t end) {
          std::vector<float> values(static_cast<std::size_t>((end - begin) * w.input_size()));
          dequantize(x, begin, end, values.data());
          static_cast<const cpu::HostMatrix&>(w.impl()).multiply(
              values.data(), bias_data, accumulate, RawAccess::data<float>(y) + begin * w.output_size(), end - begin);
        });
      },
      [&] { cuda::fp8_product(stream, x, w, bias, accumulate, y); });
}

void fp8_product_gelu(Stream& stream, const Fp8Rows& x, const PackedMatrix& w, const Tensor& bias, const Tensor& before,
                      const Fp8Rows& rows, const Tensor& kept) {
  require(w.format() == WeightFormat::fp8 && !rows.norms.defined(),
          "fp8_product_gelu: a matrix in FP8 is needed, and norms are not made");
  check_rows(x, before.dim(0), w.input_size());
  check_rows(rows, before.dim(0), w.output_size());
  require(!kept.defined() || kept.shape() == before.shape(), "fp8_product_gelu: what is kept does not fit");
  detail::dispatch(
      stream,
      [&] {
        fp8_product(stream, x, w, bias, false, before);
        gelu_fp8(stream, before, {}, rows, kept);
      },
      [&] { cuda::fp8_product_gelu(stream, x, w, bias, before, rows, kept); });
}

void fp8_product_gelu_backward(Stream& stream, const Fp8Rows& dy, const PackedMatrix& w, const Tensor& kept,
                               const Tensor& before, const Fp8Rows& rows) {
  require(w.format() == WeightFormat::fp8 && !rows.norms.defined(),
          "fp8_product_gelu_backward: a matrix in FP8 is needed, and norms are not made");
  check_rows(dy, before.dim(0), w.input_size());
  check_rows(rows, before.dim(0), w.output_size());
  require(kept.shape() == before.shape(), "fp8_product_gelu_backward: what was kept does not fit");
  detail::dispatch(
      stream,
      [&] {
        fp8_product(stream, dy, w, {}, false, before);
        gelu_backward_fp8(stream, before, kept, {}, rows);
      },
      [&] { cuda::fp8_product_gelu_backward(stream, dy, w, kept, before, rows); });
}

}  // namespace trib::kernels
