#include "kernels/layer_norm.h"

#include "kernels/cpu/output.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cuda/operations.h"
#include "kernels/detail/dispatch.h"

namespace trib::kernels {
namespace {
constexpr std::int64_t row_grain = 64;
}

void layer_norm(Stream& stream, const Tensor& x, const Tensor& residual, const LayerNormWeights& weights,
                const Tensor& y, const Tensor& y_bf16, const LayerNormSaved& saved, const Fp8Rows& y_fp8) {
  const std::int64_t columns = weights.gamma.element_count();
  detail::require(x.dim(-1) == columns && y.element_count() == x.element_count() &&
                      (!residual.defined() || residual.element_count() == x.element_count()),
                  "layer_norm: shapes do not fit");
  detail::dispatch(
      stream,
      [&] {
        cpu::LayerNormArguments arguments{.x = RawAccess::data<float>(x),
                                          .residual = cpu::floats_or_null(residual),
                                          .gamma = RawAccess::data<float>(weights.gamma),
                                          .beta = RawAccess::data<float>(weights.beta),
                                          .epsilon = weights.epsilon,
                                          .y = RawAccess::data<float>(y),
                                          .y_compute = cpu::output(y_bf16),
                                          .normalized = cpu::floats_or_null(saved.normalized),
                                          .inverse_deviations = cpu::floats_or_null(saved.inverse_deviations),
                                          .columns = columns};
        cpu::parallel_for(x.element_count() / columns, row_grain,
                          [&](std::int64_t begin, std::int64_t end) { cpu::simd().layer_norm(arguments, begin, end); });
        if (y_fp8.defined()) quantize_rows(stream, y, y_fp8);
      },
      [&] { cuda::layer_norm(stream, x, residual, weights, y, y_bf16, saved, y_fp8); });
}

void layer_norm_backward(Stream& stream, const Tensor& dy, const LayerNormWeights& weights, const LayerNormSaved& saved,
                         const Tensor& dx, const Tensor& dx_bf16, const Fp8Rows& dx_fp8) {
  const std::int64_t columns = weights.gamma.element_count();
  detail::require(dy.dim(-1) == columns && dx.element_count() == dy.element_count() &&
                      saved.normalized.element_count() == dy.element_count(),
                  "layer_norm_backward: shapes do not fit");
  detail::dispatch(
      stream,
      [&] {
        cpu::LayerNormBackwardArguments arguments{
            .dy = RawAccess::data<float>(dy),
            .normalized = RawAccess::data<float>(saved.normalized),
            .inverse_deviations = RawAccess::data<float>(saved.inverse_deviations),
            .gamma = RawAccess::data<float>(weights.gamma),
            .dx = RawAccess::data<float>(dx),
            .dx_compute = cpu::output(dx_bf16),
            .columns = columns};
        cpu::parallel_for(dy.element_count() / columns, row_grain, [&](std::int64_t begin, std::int64_t end) {
          cpu::simd().layer_norm_backward(arguments, begin, end);
        });
        if (dx_fp8.defined()) quantize_rows(stream, dx, dx_fp8);
      },
      [&] { cuda::layer_norm_backward(stream, dy, weights, saved, dx, dx_bf16, dx_fp8); });
}

}  // namespace trib::kernels
