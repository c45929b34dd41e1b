#include "kernels/tensor.h"

#include <algorithm>
#include <atomic>

#include "kernels/detail/dispatch.h"
#include "kernels/detail/raw_access.h"

namespace trib::kernels {
namespace {

constexpr std::size_t alignment = 64;

std::size_t round_up(std::size_t bytes) {
  return (bytes + alignment - 1) / alignment * alignment;
}

std::int64_t fresh_layout() {
  static std::atomic<std::int64_t> last = 0;
  return ++last;
}

template <typename T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
  return DType::f32;
}
template <>
constexpr DType dtype_of<double>() {
  return DType::f64;
}
template <>
constexpr DType dtype_of<std::int32_t>() {
  return DType::i32;
}
template <>
constexpr DType dtype_of<std::int64_t>() {
  return DType::i64;
}

}  // namespace

Buffer::Buffer(Device& device, std::size_t bytes)
    : device_(&device), pointer_(device.allocate(std::max(bytes, alignment))), bytes_(std::max(bytes, alignment)) {}

Buffer::~Buffer() {
  device_->deallocate(pointer_, bytes_);
}

Tensor::Tensor(Device& device, DType dtype, Shape shape) : dtype_(dtype), shape_(std::move(shape)) {
  buffer_ = std::make_shared<Buffer>(device, byte_count());
}

Tensor Tensor::zeros(Stream& stream, DType dtype, Shape shape) {
  Tensor tensor(stream.device(), dtype, std::move(shape));
  tensor.zero(stream);
  return tensor;
}

Tensor Tensor::from_host(Stream& stream, const HostTensor& host) {
  Tensor tensor(stream.device(), host.dtype(), host.shape());
  tensor.copy_from_host(stream, host);
  return tensor;
}

template <typename T>
Tensor Tensor::from_host(Stream& stream, std::span<const T> values) {
  Tensor tensor(stream.device(), dtype_of<T>(), {static_cast<std::int64_t>(values.size())});
  stream.device().copy_from_host(stream, RawAccess::address(tensor), values.data(), values.size_bytes());
  return tensor;
}
template Tensor Tensor::from_host<float>(Stream&, std::span<const float>);
template Tensor Tensor::from_host<double>(Stream&, std::span<const double>);
template Tensor Tensor::from_host<std::int32_t>(Stream&, std::span<const std::int32_t>);
template Tensor Tensor::from_host<std::int64_t>(Stream&, std::span<const std::int64_t>);

Tensor Tensor::reshape(Shape shape) const {
  detail::require(trib::element_count(shape) == element_count(), "Tensor::reshape: another number of elements");
  Tensor view = *this;
  view.shape_ = std::move(shape);
  return view;
}

Tensor Tensor::rows(std::int64_t first, std::int64_t count) const {
  detail::require(!shape_.empty() && first >= 0 && count >= 0 && first + count <= shape_[0],
                  "Tensor::rows: out of range");
  Tensor view = *this;
  std::size_t row_bytes = shape_[0] == 0 ? 0 : byte_count() / static_cast<std::size_t>(shape_[0]);
  view.offset_ += row_bytes * static_cast<std::size_t>(first);
  view.shape_[0] = count;
  return view;
}

HostTensor Tensor::to_host(Stream& stream) const {
  HostTensor host(dtype_, shape_);
  device().copy_to_host(stream, host.bytes().data(), RawAccess::address(*this), byte_count());
  return host;
}

std::unique_ptr<HostRead> Tensor::read(Stream& stream) const {
  return device().read(stream, RawAccess::address(*this), byte_count());
}

void Tensor::copy_from(Stream& stream, const Tensor& other) const {
  detail::require(dtype_ == other.dtype_ && element_count() == other.element_count(),
                  "Tensor::copy_from: another type or number of elements");
  device().copy(stream, RawAccess::address(*this), RawAccess::address(other), byte_count());
}

void Tensor::copy_from_host(Stream& stream, const HostTensor& host) const {
  detail::require(dtype_ == host.dtype() && element_count() == host.element_count(),
                  "Tensor::copy_from_host: another type or number of elements");
  device().copy_from_host(stream, RawAccess::address(*this), host.bytes().data(), byte_count());
}

void Tensor::zero(Stream& stream) const {
  device().fill_zero(stream, RawAccess::address(*this), byte_count());
}

Tensor Workspace::take(DType dtype, Shape shape) {
  std::size_t bytes = round_up(size_of(dtype) * static_cast<std::size_t>(trib::element_count(shape)));
  while (current_ < blocks_.size() && blocks_[current_].used + bytes > blocks_[current_].buffer->size()) ++current_;
  if (current_ == blocks_.size()) {
    constexpr std::size_t smallest_block = std::size_t{1} << 20;
    blocks_.push_back({std::make_shared<Buffer>(*device_, std::max({bytes, smallest_block, in_use_ / 2}))});
    layout_ = fresh_layout();
  }
  Block& block = blocks_[current_];
  Tensor tensor = RawAccess::view(block.buffer, block.used, dtype, std::move(shape));
  block.used += bytes;
  in_use_ += bytes;
  peak_ = std::max(peak_, in_use_);
  return tensor;
}

void Workspace::reset() {
  if (blocks_.size() > 1) {
    blocks_.clear();
    layout_ = fresh_layout();
    blocks_.push_back({std::make_shared<Buffer>(*device_, peak_)});
  } else if (!blocks_.empty()) {
    blocks_[0].used = 0;
  }
  current_ = in_use_ = 0;
}

Workspace::Scope::Scope(Workspace& workspace)
    : workspace_(&workspace), block_(workspace.current_), used_(0), in_use_(workspace.in_use_) {
  if (block_ < workspace.blocks_.size()) used_ = workspace.blocks_[block_].used;
}

Workspace::Scope::~Scope() {
  for (std::size_t i = block_; i < workspace_->blocks_.size(); ++i)
    workspace_->blocks_[i].used = i == block_ ? used_ : 0;
  workspace_->current_ = block_;
  workspace_->in_use_ = in_use_;
}

}  // namespace trib::kernels
