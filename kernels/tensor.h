// Dense row-major tensors in device memory.
#pragma once

#include <memory>
#include <span>

#include "common/tensor_map.h"
#include "kernels/device.h"

namespace trib::kernels {

// Bytes on a device, freed on destruction.
class Buffer {
 public:
  Buffer(Device& device, std::size_t bytes);
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer();
  Device& device() const { return *device_; }
  std::size_t size() const { return bytes_; }

 private:
  friend struct RawAccess;  // kernels/detail/raw_access.h: for code inside kernels/ only
  Device* device_;
  void* pointer_;
  std::size_t bytes_;
};

// A view of a buffer: copying a Tensor shares the memory. Shapes are row-major without gaps.
class Tensor {
 public:
  Tensor() = default;
  // Uninitialized memory.
  Tensor(Device& device, DType dtype, Shape shape);
  static Tensor zeros(Stream& stream, DType dtype, Shape shape);
  static Tensor from_host(Stream& stream, const HostTensor& host);
  template <typename T>  // float, std::int32_t, …: a 1-d tensor
  static Tensor from_host(Stream& stream, std::span<const T> values);

  bool defined() const { return buffer_ != nullptr; }
  Device& device() const { return buffer_->device(); }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  std::int64_t dim(int i) const {
    return shape_[static_cast<std::size_t>(i < 0 ? i + static_cast<int>(shape_.size()) : i)];
  }
  std::int64_t element_count() const { return trib::element_count(shape_); }
  std::size_t byte_count() const { return size_of(dtype_) * static_cast<std::size_t>(element_count()); }

  Tensor reshape(Shape shape) const;                          // same elements
  Tensor rows(std::int64_t first, std::int64_t count) const;  // a slice of the first dimension
  HostTensor to_host(Stream& stream) const;                   // synchronizes
  std::unique_ptr<HostRead> read(Stream& stream) const;       // does not
  void copy_from(Stream& stream, const Tensor& other) const;  // same type and element count
  void copy_from_host(Stream& stream, const HostTensor& host) const;
  void zero(Stream& stream) const;

 private:
  friend struct RawAccess;
  std::shared_ptr<Buffer> buffer_;
  std::size_t offset_ = 0;  // bytes
  DType dtype_ = DType::f32;
  Shape shape_;
};

// Scratch memory that is reused from step to step: take() hands out tensors that stay valid until reset(), or until the
// Scope they were taken in ends. Grows to the largest step seen and then allocates nothing.
class Workspace {
 public:
  explicit Workspace(Device& device) : device_(&device) {}
  Tensor take(DType dtype, Shape shape);  // uninitialized
  void reset();
  // Frees on destruction what was taken since construction, for memory that one layer needs and the next reuses.
  // Scopes nest.
  class Scope;
  std::size_t peak_bytes() const { return peak_; }  // the most that was in use at once
  // Names the memory that take() hands out: while it stays the same, the same takes since reset() give the same
  // addresses. No two workspaces, and no two states of one, have the same.
  std::int64_t layout() const { return layout_; }

 private:
  struct Block {
    std::shared_ptr<Buffer> buffer;
    std::size_t used = 0;
  };
  Device* device_;
  std::vector<Block> blocks_;  // one, except in a step that outgrew it
  std::size_t current_ = 0;    // the block that take() uses; those after it are empty
  std::size_t in_use_ = 0, peak_ = 0;
  std::int64_t layout_ = 0;  // 0: nothing was taken yet
};

class Workspace::Scope {
 public:
  explicit Scope(Workspace& workspace);
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;
  ~Scope();

 private:
  Workspace* workspace_;
  std::size_t block_, used_, in_use_;
};

}  // namespace trib::kernels
