// Host-visible addresses of tensors and buffers, for the implementations inside kernels/ only.
#pragma once

#include "kernels/tensor.h"

namespace trib::kernels {

struct RawAccess {
  static void* address(const Buffer& buffer) { return buffer.pointer_; }
  static std::byte* address(const Tensor& tensor) {
    return static_cast<std::byte*>(tensor.buffer_->pointer_) + tensor.offset_;
  }
  template <typename T>
  static T* data(const Tensor& tensor) {
    return reinterpret_cast<T*>(address(tensor));
  }
  // A view of `buffer` from `offset` bytes on.
  static Tensor view(std::shared_ptr<Buffer> buffer, std::size_t offset, DType dtype, Shape shape) {
    Tensor tensor;
    tensor.buffer_ = std::move(buffer);
    tensor.offset_ = offset;
    tensor.dtype_ = dtype;
    tensor.shape_ = std::move(shape);
    return tensor;
  }
};

}  // namespace trib::kernels
