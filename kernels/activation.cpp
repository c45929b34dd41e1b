#include "kernels/activation.h"

#include "kernels/cpu/output.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cuda/operations.h"
#include "kernels/detail/dispatch.h"

namespace trib::kernels {
namespace {

template <typename CpuBody, typename CudaImplementation>
void elementwise(Stream& stream, std::initializer_list<const Tensor*> tensors, const CpuBody& cpu_body,
                 const CudaImplementation& cuda_implementation) {
  const std::int64_t count = (*tensors.begin())->element_count();
  for (const Tensor* tensor : tensors)
    detail::require(!tensor->defined() || tensor->element_count() == count, "elementwise: sizes differ");
  detail::dispatch(
      stream, [&] { cpu::parallel_for(count, 16384, cpu_body); }, cuda_implementation);
}

}  // namespace

void gelu(Stream& stream, const Tensor& x, const Tensor& y, const Tensor& kept) {
  elementwise(
      stream, {&x, &y, &kept},
      [&](std::int64_t begin, std::int64_t end) {
        cpu::simd().gelu(RawAccess::data<float>(x), cpu::output(y), cpu::output(kept), begin, end);
      },
      [&] { cuda::gelu(stream, x, y, kept); });
}

bool gelu_keeps_input(Device& device) {
  return device.kind() != DeviceKind::cpu;
}

void gelu_backward(Stream& stream, const Tensor& dy, const Tensor& kept, const Tensor& dx) {
  elementwise(
      stream, {&dy, &kept, &dx},
      [&](std::int64_t begin, std::int64_t end) {
        cpu::simd().multiply(RawAccess::data<float>(dy), RawAccess::address(kept), kept.dtype() == DType::bf16,
                             cpu::output(dx), begin, end);
      },
      [&] { cuda::gelu_backward(stream, dy, kept, dx); });
}

void tanh(Stream& stream, const Tensor& x, const Tensor& y) {
  elementwise(
      stream, {&x, &y},
      [&](std::int64_t begin, std::int64_t end) {
        cpu::simd().tanh(RawAccess::data<float>(x), RawAccess::data<float>(y), begin, end);
      },
      [&] { cuda::tanh(stream, x, y); });
}

void tanh_backward(Stream& stream, const Tensor& dy, const Tensor& y, const Tensor& dx) {
  elementwise(
      stream, {&dy, &y, &dx},
      [&](std::int64_t begin, std::int64_t end) {
        cpu::simd().tanh_backward(RawAccess::data<float>(dy), RawAccess::data<float>(y), RawAccess::data<float>(dx),
                                  begin, end);
      },
      [&] { cuda::tanh_backward(stream, dy, y, dx); });
}

void to_bf16(Stream& stream, const Tensor& x, const Tensor& y) {
  detail::require(y.dtype() == DType::bf16, "to_bf16: the destination must be bfloat16");
  elementwise(
      stream, {&x, &y},
      [&](std::int64_t begin, std::int64_t end) {
        cpu::simd().to_bf16(RawAccess::data<float>(x), RawAccess::data<std::uint16_t>(y), begin, end);
      },
      [&] { cuda::convert(stream, x, y); });
}

}  // namespace trib::kernels
