#include "kernels/activation.h"

#include <functional>

#include "kernels/cpu/output.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/detail/dispatch.h"

namespace trib::kernels {
namespace {

void elementwise(Stream& stream, std::initializer_list<const Tensor*> tensors,
                 const std::function<void(std::int64_t, std::int64_t)>& cpu_body) {
  const std::int64_t count = (*tensors.begin())->element_count();
  for (const Tensor* tensor : tensors)
    detail::require(!tensor->defined() || tensor->element_count() == count, "elementwise: sizes differ");
  detail::dispatch(stream, [&] { cpu::parallel_for(count, 16384, cpu_body); });
}

}  // namespace

void gelu(Stream& stream, const Tensor& x, const Tensor& y, const Tensor& derivative) {
  elementwise(stream, {&x, &y, &derivative}, [&](std::int64_t begin, std::int64_t end) {
    cpu::simd().gelu(RawAccess::data<float>(x), cpu::output(y), cpu::output(derivative), begin, end);
  });
}

void gelu_backward(Stream& stream, const Tensor& dy, const Tensor& derivative, const Tensor& dx) {
  elementwise(stream, {&dy, &derivative, &dx}, [&](std::int64_t begin, std::int64_t end) {
    cpu::simd().multiply(RawAccess::data<float>(dy), RawAccess::address(derivative), derivative.dtype() == DType::bf16,
                         cpu::output(dx), begin, end);
  });
}

void tanh(Stream& stream, const Tensor& x, const Tensor& y) {
  elementwise(stream, {&x, &y}, [&](std::int64_t begin, std::int64_t end) {
    cpu::simd().tanh(RawAccess::data<float>(x), RawAccess::data<float>(y), begin, end);
  });
}

void tanh_backward(Stream& stream, const Tensor& dy, const Tensor& y, const Tensor& dx) {
  elementwise(stream, {&dy, &y, &dx}, [&](std::int64_t begin, std::int64_t end) {
    cpu::simd().tanh_backward(RawAccess::data<float>(dy), RawAccess::data<float>(y), RawAccess::data<float>(dx), begin,
                              end);
  });
}

void to_bf16(Stream& stream, const Tensor& x, const Tensor& y) {
  detail::require(y.dtype() == DType::bf16, "to_bf16: the destination must be bfloat16");
  elementwise(stream, {&x, &y}, [&](std::int64_t begin, std::int64_t end) {
    cpu::simd().to_bf16(RawAccess::data<float>(x), RawAccess::data<std::uint16_t>(y), begin, end);
  });
}

}  // namespace trib::kernels
