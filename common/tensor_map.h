// Named tensors in host memory: what travels, what is stored, and what a round sums.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace trib {

enum class DType : std::uint8_t { f64, f32, f16, bf16, i64, i32, u8 };

std::size_t size_of(DType dtype);                     // bytes of one element
std::string_view to_string(DType dtype);              // safetensors' names: "F32", "BF16", …
Result<DType> dtype_from_string(std::string_view s);  // the inverse; Errc::unsupported for others

using Shape = std::vector<std::int64_t>;
std::int64_t element_count(const Shape& shape);  // throws FatalError where checked_byte_count fails
// Bytes of a tensor, for shapes from outside: Errc::invalid_argument for a negative dimension or more than 2^63 bytes.
Result<std::size_t> checked_byte_count(DType dtype, const Shape& shape);
std::string to_string(const Shape& shape);  // "[768, 8]"

struct TensorSpec {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  bool operator==(const TensorSpec&) const = default;
  std::size_t byte_count() const { return size_of(dtype) * static_cast<std::size_t>(element_count(shape)); }
};

// The layout of a TensorMap: specs ordered by name. Both ends of a job know it, so transfers carry only its hash.
class TensorSchema {
 public:
  TensorSchema() = default;
  explicit TensorSchema(std::vector<TensorSpec> specs);  // sorts by name
  const std::vector<TensorSpec>& specs() const { return specs_; }
  std::size_t byte_count() const;  // of all tensors, as they travel: in order, without gaps
  std::array<std::uint8_t, 32> hash() const;
  bool operator==(const TensorSchema&) const = default;

 private:
  std::vector<TensorSpec> specs_;
};

// A dense row-major tensor that owns its bytes.
class HostTensor {
 public:
  HostTensor() = default;                // no elements: shape [0]
  HostTensor(DType dtype, Shape shape);  // zeros
  static HostTensor from_f32(Shape shape, std::span<const float> values);
  static HostTensor from_f64(Shape shape, std::span<const double> values);

  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  std::int64_t element_count() const { return trib::element_count(shape_); }
  std::span<std::byte> bytes() { return bytes_; }
  std::span<const std::byte> bytes() const { return bytes_; }

  // Typed views. The element type must match dtype(); anything else is a bug and throws.
  template <typename T>
  std::span<T> as() {
    require(sizeof(T), dtype_code<T>());
    return {reinterpret_cast<T*>(bytes_.data()), static_cast<std::size_t>(element_count())};
  }
  template <typename T>
  std::span<const T> as() const {
    require(sizeof(T), dtype_code<T>());
    return {reinterpret_cast<const T*>(bytes_.data()), static_cast<std::size_t>(element_count())};
  }

  // A copy with every element converted to float32 (from f64, f16, bf16, f32).
  Result<HostTensor> to_f32() const;
  // Whether every element is a finite number; true for integers.
  bool all_finite() const;
  bool operator==(const HostTensor&) const = default;

 private:
  template <typename T>
  static DType dtype_code();
  void require(std::size_t element_size, DType dtype) const;

  DType dtype_ = DType::f32;
  Shape shape_ = {0};
  std::vector<std::byte> bytes_;
};

template <>
inline DType HostTensor::dtype_code<double>() {
  return DType::f64;
}
template <>
inline DType HostTensor::dtype_code<float>() {
  return DType::f32;
}
template <>
inline DType HostTensor::dtype_code<std::int64_t>() {
  return DType::i64;
}
template <>
inline DType HostTensor::dtype_code<std::int32_t>() {
  return DType::i32;
}
template <>
inline DType HostTensor::dtype_code<std::uint8_t>() {
  return DType::u8;
}

float half_to_float(std::uint16_t bits);
float bfloat16_to_float(std::uint16_t bits);
std::uint16_t float_to_half(float value);      // round to nearest even
std::uint16_t float_to_bfloat16(float value);  // round to nearest even

// Tensors by name, ordered by name, so that iteration, hashing and the wire agree everywhere.
class TensorMap {
 public:
  using Storage = std::map<std::string, HostTensor, std::less<>>;

  bool contains(std::string_view name) const { return tensors_.find(name) != tensors_.end(); }
  Result<const HostTensor*> find(std::string_view name) const;  // Errc::not_found names what is there
  HostTensor& operator[](const std::string& name) { return tensors_[name]; }
  const HostTensor& at(std::string_view name) const;  // throws FatalError where find fails
  void erase(std::string_view name);
  std::size_t size() const { return tensors_.size(); }
  bool empty() const { return tensors_.empty(); }
  Storage::const_iterator begin() const { return tensors_.begin(); }
  Storage::const_iterator end() const { return tensors_.end(); }
  Storage::iterator begin() { return tensors_.begin(); }
  Storage::iterator end() { return tensors_.end(); }

  TensorSchema schema() const;
  std::size_t byte_count() const { return schema().byte_count(); }
  // Ok if names, types and shapes are exactly `expected`; otherwise names the first tensor that differs and how.
  Status check_schema(const TensorSchema& expected) const;
  // Ok if every element is finite; otherwise names the tensor.
  Status check_finite() const;
  // SHA-256 over schema and bytes: equal maps, equal digest, on every machine.
  std::array<std::uint8_t, 32> digest() const;
  bool operator==(const TensorMap&) const = default;

 private:
  Storage tensors_;
};

}  // namespace trib
