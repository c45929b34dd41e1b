#include "kernels/gemm.h"

#include <algorithm>
#include <tuple>

#include "kernels/activation.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cuda/fp8.h"
#include "kernels/cuda/low_rank.h"
#include "kernels/cuda/operations.h"
#include "kernels/cuda/quantized_gemm.h"
#include "kernels/detail/dispatch.h"
#include "kernels/detail/raw_access.h"
#include "kernels/fp8.h"
#include "kernels/quantized_weights.h"

namespace trib::kernels {
namespace {

using detail::require;

float* data(const MatrixView& view) {
  require(view.tensor.dtype() == DType::f32 && view.tensor.shape().size() == 2 &&
              view.first_column + view.columns <= view.row_stride(),
          "a float32 matrix is needed");
  return RawAccess::data<float>(view.tensor) + view.first_column;
}

}  // namespace

PackedMatrix::PackedMatrix(Stream& stream, const Tensor& weights, bool transposed, DType compute,
                           [[maybe_unused]] Float32Products products) {
  require(weights.dtype() == DType::f32 && weights.shape().size() == 2, "PackedMatrix: a float32 matrix is needed");
  supports_compute(stream.device(), compute).value();
  detail::dispatch(
      stream,
      [&] {
        impl_ = cpu::pack_matrix(RawAccess::data<float>(weights), weights.dim(transposed ? 1 : 0),
                                 weights.dim(transposed ? 0 : 1), transposed, compute);
      },
      [&] { impl_ = cuda::pack_matrix(stream, weights, transposed, compute, products); });
}

std::pair<PackedMatrix, PackedMatrix> PackedMatrix::both_ways(Stream& stream, const Tensor& weights, DType compute,
                                                              WeightFormat format, Float32Products products) {
  supports_format(stream.device(), format).value();
  if (format == WeightFormat::fp8) return {fp8(stream, weights, false), fp8(stream, weights, true)};
  if (format != WeightFormat::dense) return quantized(stream, weights, compute, format);
  PackedMatrix forward(stream, weights, true, compute, products), backward;
  detail::dispatch(
      stream, [&] { backward = PackedMatrix(stream, weights, false, compute); },
      [&] { backward.impl_ = cuda::reversed(forward.impl()); });
  return {forward, backward};
}

// For x·weightsᵀ, or for dy·weights if `reversed`: the rows that are quantized are the product's outputs.
PackedMatrix PackedMatrix::fp8(Stream& stream, const Tensor& weights, bool reversed) {
  Tensor outputs = weights;
  if (reversed) {
    outputs = Tensor(stream.device(), DType::f32, {weights.dim(1), weights.dim(0)});
    transpose(stream, weights, outputs);
  }
  const Fp8Rows rows(stream.device(), outputs.dim(0), outputs.dim(1));
  quantize_rows(stream, outputs, rows);
  PackedMatrix packed;
  detail::dispatch(
      stream,
      [&] {
        const Tensor values(stream.device(), DType::f32, outputs.shape());
        dequantize_rows(stream, rows, values);
        const auto matrix =
            cpu::pack_matrix(RawAccess::data<float>(values), values.dim(1), values.dim(0), true, DType::f32);
        matrix->format = WeightFormat::fp8;
        packed.impl_ = matrix;
      },
      [&] { packed.impl_ = cuda::pack_fp8(stream, rows); });
  return packed;
}

std::pair<PackedMatrix, PackedMatrix> PackedMatrix::quantized(Stream& stream, const Tensor& weights, DType compute,
                                                              WeightFormat format) {
  const HostTensor host = weights.to_host(stream);
  const QuantizedWeights codes = quantize_weights(host.as<float>(), weights.dim(0), weights.dim(1), format);
  PackedMatrix forward, backward;
  detail::dispatch(
      stream,
      [&] {
        const std::vector<float> values = dequantize_weights(codes);
        for (const bool is_forward : {true, false}) {
          const auto matrix = cpu::pack_matrix(values.data(), is_forward ? codes.columns : codes.rows,
                                               is_forward ? codes.rows : codes.columns, is_forward, compute);
          matrix->format = format;
          (is_forward ? forward : backward).impl_ = matrix;
        }
      },
      [&] {
        require(compute == DType::bf16, "quantized weights are multiplied in bfloat16 on a GPU");
        std::tie(forward.impl_, backward.impl_) = cuda::pack_quantized(stream, codes);
      });
  return {forward, backward};
}

std::int64_t PackedMatrix::input_size() const {
  return impl_->input_size;
}
std::int64_t PackedMatrix::output_size() const {
  return impl_->output_size;
}
DType PackedMatrix::compute() const {
  return impl_->compute;
}
WeightFormat PackedMatrix::format() const {
  return impl_->format;
}

bool supports_tf32(Device& device) {
  return device.kind() == DeviceKind::cuda;  // every GPU that is served (Ampere and later) has it
}

Status supports_compute(Device& device, DType compute) {
  if (device.kind() == DeviceKind::cpu) return cpu::supports_compute(compute);
  if (compute == DType::f32 || compute == DType::bf16) return {};
  return Error{Errc::unsupported, "no matrix products in " + std::string(to_string(compute)) + " on " + device.name()};
}

Status supports_format(Device& device, WeightFormat format) {
  if (format != WeightFormat::fp8 || device.kind() == DeviceKind::cpu) return {};
#ifdef TRIB_HAS_CUDA
  return cuda::supports_fp8(device);
#else
  return Error{Errc::unsupported, "no products in FP8 on " + device.name()};
#endif
}

void packed_product(Stream& stream, const Tensor& x, const PackedMatrix& w, const Tensor& bias, bool accumulate,
                    const Tensor& y) {
  require(w.format() != WeightFormat::fp8, "packed_product: a matrix in FP8 takes fp8_product");
  require(x.dtype() == w.compute() && x.dim(1) == w.input_size(), "packed_product: x does not fit the matrix");
  require(y.dim(0) == x.dim(0) && y.dim(1) == w.output_size(), "packed_product: y does not fit");
  require(y.dtype() == DType::f32 || y.dtype() == activation_types(stream.device(), w.compute()).products,
          "packed_product: y has a type that products do not give");
  require(!bias.defined() || (bias.element_count() == w.output_size() && bias.dtype() == y.dtype()),
          "packed_product: bias does not fit");
  detail::dispatch(
      stream,
      [&] {
        const float* bias_data = bias.defined() ? RawAccess::data<float>(bias) : nullptr;
        cpu::parallel_for(x.dim(0), 64, [&](std::int64_t begin, std::int64_t end) {
          static_cast<const cpu::HostMatrix&>(w.impl()).multiply(
              RawAccess::address(x.rows(begin, end - begin)), bias_data, accumulate,
              RawAccess::data<float>(y) + begin * w.output_size(), end - begin);
        });
      },
      [&] { cuda::packed_product(stream, x, w, bias, accumulate, y); });
}

void packed_product_gelu(Stream& stream, const Tensor& x, const PackedMatrix& w, const Tensor& bias,
                         const Tensor& before, const Tensor& y, const Tensor& kept) {
  require(y.dim(0) == x.dim(0) && y.dim(1) == w.output_size(), "packed_product_gelu: y does not fit");
  detail::dispatch(
      stream,
      [&] {
        packed_product(stream, x, w, bias, false, before);
        gelu(stream, before, y, kept);
      },
      [&] { cuda::packed_product_gelu(stream, x, w, bias, y, kept); });
}

void packed_product_gelu_backward(Stream& stream, const Tensor& dy, const PackedMatrix& w, const Tensor& kept,
                                  const Tensor& before, const Tensor& dx) {
  require(dx.dim(0) == dy.dim(0) && dx.dim(1) == w.output_size(), "packed_product_gelu_backward: dx does not fit");
  detail::dispatch(
      stream,
      [&] {
        packed_product(stream, dy, w, {}, false, before);
        gelu_backward(stream, before, kept, dx);
      },
      [&] { cuda::packed_product_gelu_backward(stream, dy, w, kept, dx); });
}

void matmul(Stream& stream, float alpha, const MatrixView& a, const MatrixView& b, bool accumulate,
            const MatrixView& c) {
  require(a.columns == b.rows() && c.rows() == a.rows() && c.columns == b.columns, "matmul: shapes do not fit");
  detail::dispatch(
      stream,
      [&] {
        const float *a_data = data(a), *b_data = data(b);
        float* c_data = data(c);
        const std::int64_t flops_a_row = b.columns * a.columns;
        cpu::parallel_for(a.rows(), 1 + 200000 / std::max<std::int64_t>(1, flops_a_row),
                          [&](std::int64_t begin, std::int64_t end) {
                            cpu::simd().matmul(alpha, a_data + begin * a.row_stride(), a.row_stride(), b_data,
                                               b.row_stride(), c_data + begin * c.row_stride(), c.row_stride(),
                                               end - begin, b.columns, a.columns, accumulate);
                          });
      },
      [&] { cuda::matmul(stream, alpha, a, b, accumulate, c); });
}

void matmul_transposed(Stream& stream, float alpha, const MatrixView& a, const MatrixView& b, bool accumulate,
                       const MatrixView& c) {
  require(a.rows() == b.rows() && c.rows() == a.columns && c.columns == b.columns,
          "matmul_transposed: shapes do not fit");
  detail::dispatch(
      stream,
      [&] {
        const float *a_data = data(a), *b_data = data(b);
        float* c_data = data(c);
        const std::int64_t flops_a_row = b.columns * a.rows();
        cpu::parallel_for(a.columns, 1 + 200000 / std::max<std::int64_t>(1, flops_a_row),
                          [&](std::int64_t begin, std::int64_t end) {
                            cpu::simd().matmul_transposed(alpha, a_data + begin, a.row_stride(), b_data, b.row_stride(),
                                                          c_data + begin * c.row_stride(), c.row_stride(), end - begin,
                                                          b.columns, a.rows(), accumulate);
                          });
      },
      [&] { cuda::matmul_transposed(stream, alpha, a, b, accumulate, c); });
}

void segment_products(Stream& stream, float alpha, const MatrixView& a, const MatrixView& b, const Tensor& offsets,
                      const Tensor& rows, const Tensor& out) {
  const std::int64_t count = rows.element_count(), size = a.columns * b.columns;
  require(offsets.dtype() == DType::i32 && rows.dtype() == DType::i32 && offsets.element_count() == count + 1,
          "segment_products: offsets and rows must be int32, one offset more than rows");
  require(a.rows() == b.rows() && out.dtype() == DType::f32 && out.dim(1) == size,
          "segment_products: shapes do not fit");
  detail::dispatch(
      stream,
      [&] {
        const float *a_data = data(a), *b_data = data(b);
        const std::int32_t *offset = RawAccess::data<std::int32_t>(offsets), *row = RawAccess::data<std::int32_t>(rows);
        require(offset[count] <= a.rows(), "segment_products: offsets leave the matrix");
        float* to = RawAccess::data<float>(out);
        cpu::parallel_for(count, 8, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t i = begin; i < end; ++i)
            cpu::simd().matmul_transposed(alpha, a_data + offset[i] * a.row_stride(), a.row_stride(),
                                          b_data + offset[i] * b.row_stride(), b.row_stride(), to + row[i] * size,
                                          b.columns, a.columns, b.columns, offset[i + 1] - offset[i], false);
        });
      },
      [&] { cuda::segment_products(stream, alpha, a, b, offsets, rows, out); });
}

void adapter_gradients(Stream& stream, float alpha, const std::vector<AdapterGradient>& adapters, const Tensor& offsets,
                       const Tensor& rows) {
  for (const AdapterGradient& adapter : adapters)
    require(adapter.dy.rows() == adapter.u.rows() && adapter.b.dim(0) == adapter.dy.columns &&
                adapter.b.dim(1) == adapter.u.columns && adapter.out.dtype() == DType::f32 &&
                adapter.out.dim(1) == adapter.dy.columns * adapter.u.columns &&
                (!adapter.du.defined() || adapter.du.columns == adapter.u.columns),
            "adapter_gradients: shapes do not fit");
  bool done = false;
  detail::dispatch(
      stream, [] {}, [&] { done = cuda::adapter_gradients(stream, alpha, adapters, offsets, rows); });
  if (done) return;
  for (const AdapterGradient& adapter : adapters) {
    segment_products(stream, alpha, adapter.dy, adapter.u, offsets, rows, adapter.out);
    if (adapter.du.defined()) matmul(stream, alpha, adapter.dy, adapter.b, false, adapter.du);
  }
}

void make_forms(Stream& stream, std::span<const MatrixForms> matrices) {
  for (const auto& [from, transposed, copy] : matrices)
    require(from.dtype() == DType::f32 && from.shape().size() == 2 && transposed.dim(0) == from.dim(1) &&
                transposed.dim(1) == from.dim(0) && (!copy.defined() || copy.shape() == from.shape()),
            "make_forms: shapes do not fit");
  detail::dispatch(
      stream,
      [&] {
        for (const auto& [from, transposed, copy] : matrices) {
          transpose(stream, from, transposed);
          if (!copy.defined()) continue;
          copy.dtype() == DType::f32 ? copy.copy_from(stream, from) : to_bf16(stream, from, copy);
        }
      },
      [&] { cuda::make_forms(stream, matrices); });
}

void transpose(Stream& stream, const Tensor& from, const MatrixView& to) {
  require(
      from.dtype() == DType::f32 && from.shape().size() == 2 && to.rows() == from.dim(1) && to.columns == from.dim(0),
      "transpose: shapes do not fit");
  detail::dispatch(
      stream,
      [&] {
        const std::int64_t m = from.dim(0), n = from.dim(1), stride = to.row_stride();
        const float* source = RawAccess::data<float>(from);
        float* destination = data(to);
        cpu::parallel_for(n, 256, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t j = begin; j < end; ++j)
            for (std::int64_t i = 0; i < m; ++i) destination[j * stride + i] = source[i * n + j];
        });
      },
      [&] { cuda::transpose(stream, from, to); });
}

}  // namespace trib::kernels
