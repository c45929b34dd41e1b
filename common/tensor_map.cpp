#include "common/tensor_map.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "common/hash.h"

namespace trib {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors travel and are stored as they lie in memory");

constexpr std::array all_dtypes = {DType::f64, DType::f32, DType::f16, DType::bf16, DType::i64, DType::i32, DType::u8};

void hash_number(Sha256Hasher& hasher, std::uint64_t number) {
  hasher.update(std::as_bytes(std::span(&number, 1)));
}

// Lengths come first, so that no two different inputs hash the same bytes.
void hash_text(Sha256Hasher& hasher, std::string_view text) {
  hash_number(hasher, text.size());
  hasher.update(text);
}

template <typename Bits>
bool no_element_has(std::span<const std::byte> bytes, Bits exponent_mask) {
  // Reads whole elements through memcpy: the bytes of half types have no element type of their own.
  bool found = false;
  for (std::size_t offset = 0; offset < bytes.size(); offset += sizeof(Bits)) {
    Bits bits;
    std::memcpy(&bits, bytes.data() + offset, sizeof bits);
    found |= (bits & exponent_mask) == exponent_mask;
  }
  return !found;
}

std::uint16_t load_u16(std::span<const std::byte> bytes, std::size_t index) {
  std::uint16_t bits;
  std::memcpy(&bits, bytes.data() + index * sizeof bits, sizeof bits);
  return bits;
}

std::string describe(const TensorSpec& spec) {
  return std::string(to_string(spec.dtype)) + " " + to_string(spec.shape);
}

}  // namespace

std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::f16:
    case DType::bf16:
      return 2;
    case DType::u8:
      return 1;
  }
  throw std::invalid_argument("size_of: DType " + std::to_string(static_cast<int>(dtype)) + " does not exist");
}

std::string_view to_string(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return "F64";
    case DType::f32:
      return "F32";
    case DType::f16:
      return "F16";
    case DType::bf16:
      return "BF16";
    case DType::i64:
      return "I64";
    case DType::i32:
      return "I32";
    case DType::u8:
      return "U8";
  }
  throw std::invalid_argument("to_string: DType " + std::to_string(static_cast<int>(dtype)) + " does not exist");
}

Result<DType> dtype_from_string(std::string_view s) {
  for (const DType dtype : all_dtypes) {
    if (to_string(dtype) == s) return dtype;
  }
  return Error{Errc::unsupported,
               "element type '" + std::string(s) + "' is not one of F64, F32, F16, BF16, I64, I32, U8"};
}

Result<std::size_t> checked_byte_count(DType dtype, const Shape& shape) {
  for (const std::int64_t dimension : shape) {
    if (dimension < 0) {
      return Error{Errc::invalid_argument, "shape " + to_string(shape) + " has a negative dimension"};
    }
  }
  if (std::ranges::find(shape, 0) != shape.end()) return std::size_t{0};
  std::int64_t bytes = static_cast<std::int64_t>(size_of(dtype));
  for (const std::int64_t dimension : shape) {
    if (__builtin_mul_overflow(bytes, dimension, &bytes)) {
      return Error{Errc::invalid_argument, "shape " + to_string(shape) + " of " + std::string(to_string(dtype)) +
                                               " has more bytes than a 64-bit number counts"};
    }
  }
  return static_cast<std::size_t>(bytes);
}

std::int64_t element_count(const Shape& shape) {
  return static_cast<std::int64_t>(checked_byte_count(DType::u8, shape).value());
}

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (const std::int64_t dimension : shape) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(dimension);
  }
  return text + "]";
}

TensorSchema::TensorSchema(std::vector<TensorSpec> specs) : specs_(std::move(specs)) {
  std::ranges::stable_sort(specs_, {}, &TensorSpec::name);
}

std::size_t TensorSchema::byte_count() const {
  std::size_t bytes = 0;
  for (const TensorSpec& spec : specs_) bytes += spec.byte_count();
  return bytes;
}

std::array<std::uint8_t, 32> TensorSchema::hash() const {
  Sha256Hasher hasher;
  hash_text(hasher, "tributary tensor schema 1");
  hash_number(hasher, specs_.size());
  for (const TensorSpec& spec : specs_) {
    hash_text(hasher, spec.name);
    hash_text(hasher, to_string(spec.dtype));
    hash_number(hasher, spec.shape.size());
    for (const std::int64_t dimension : spec.shape) hash_number(hasher, static_cast<std::uint64_t>(dimension));
  }
  return hasher.finish();
}

HostTensor::HostTensor(DType dtype, Shape shape)
    : dtype_(dtype), shape_(std::move(shape)), bytes_(checked_byte_count(dtype_, shape_).value()) {}

namespace {

template <typename T>
HostTensor tensor_from(DType dtype, Shape shape, std::span<const T> values) {
  HostTensor tensor(dtype, std::move(shape));
  if (tensor.bytes().size() != values.size_bytes()) {
    throw std::invalid_argument("a tensor of shape " + to_string(tensor.shape()) + " cannot hold " +
                                std::to_string(values.size()) + " values");
  }
  if (!values.empty()) std::memcpy(tensor.bytes().data(), values.data(), values.size_bytes());
  return tensor;
}

}  // namespace

HostTensor HostTensor::from_f32(Shape shape, std::span<const float> values) {
  return tensor_from(DType::f32, std::move(shape), values);
}

HostTensor HostTensor::from_f64(Shape shape, std::span<const double> values) {
  return tensor_from(DType::f64, std::move(shape), values);
}

Result<HostTensor> HostTensor::to_f32() const {
  HostTensor converted(DType::f32, shape_);
  const std::span<float> out = converted.as<float>();
  switch (dtype_) {
    case DType::f32:
      return *this;
    case DType::f64:
      std::ranges::transform(as<double>(), out.begin(), [](double x) { return static_cast<float>(x); });
      return converted;
    case DType::f16:
      for (std::size_t i = 0; i < out.size(); ++i) out[i] = half_to_float(load_u16(bytes_, i));
      return converted;
    case DType::bf16:
      for (std::size_t i = 0; i < out.size(); ++i) out[i] = bfloat16_to_float(load_u16(bytes_, i));
      return converted;
    case DType::i64:
    case DType::i32:
    case DType::u8:
      break;
  }
  return Error{Errc::unsupported,
               "a tensor of " + std::string(to_string(dtype_)) + " cannot become F32: only F64, F32, F16 and BF16 can"};
}

bool HostTensor::all_finite() const {
  // Tests the exponent bits: unlike std::isfinite, this holds under any floating-point option of the compiler.
  switch (dtype_) {
    case DType::f64:
      return no_element_has<std::uint64_t>(bytes_, 0x7ff0'0000'0000'0000);
    case DType::f32:
      return no_element_has<std::uint32_t>(bytes_, 0x7f80'0000);
    case DType::f16:
      return no_element_has<std::uint16_t>(bytes_, 0x7c00);
    case DType::bf16:
      return no_element_has<std::uint16_t>(bytes_, 0x7f80);
    case DType::i64:
    case DType::i32:
    case DType::u8:
      break;
  }
  return true;
}

void HostTensor::require(std::size_t element_size, DType dtype) const {
  if (dtype != dtype_ || element_size != size_of(dtype_)) {
    throw std::logic_error("a tensor of " + std::string(to_string(dtype_)) + " was read as " +
                           std::string(to_string(dtype)));
  }
}

float half_to_float(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000) << 16;
  const std::uint32_t exponent = bits >> 10 & 0x1f;
  const std::uint32_t mantissa = bits & 0x3ff;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f80'0000 | mantissa << 13);
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24, which float32 holds exactly
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
  }
  return std::bit_cast<float>(sign | (exponent + 127 - 15) << 23 | mantissa << 13);
}

float bfloat16_to_float(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

std::uint16_t float_to_half(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000);
  const std::uint32_t magnitude = bits & 0x7fff'ffff;
  if (magnitude > 0x7f80'0000) {  // NaN: quiet, with the payload's upper bits
    return static_cast<std::uint16_t>(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
  }
  if (magnitude >= 0x4780'0000) return sign | 0x7c00;  // 2^16 and above
  // A half has 13 mantissa bits fewer; below 2^-14 it is subnormal, a multiple of 2^-24, and has fewer still.
  constexpr std::uint32_t smallest_normal = 0x3880'0000;  // 2^-14
  std::uint32_t mantissa = magnitude;
  std::uint32_t shift = 13;
  if (magnitude < smallest_normal) {
    const std::uint32_t exponent = magnitude >> 23;
    if (exponent < 102) return sign;  // below 2^-25, half of the smallest subnormal
    mantissa = (magnitude & 0x7f'ffff) | 0x80'0000;
    shift = 126 - exponent;
  } else {
    mantissa -= (127u - 15u) << 23;
  }
  // Round to nearest even. A carry out of the mantissa raises the exponent, up to infinity, as it should.
  const std::uint32_t half_of_last = (1u << (shift - 1)) - 1;
  const std::uint32_t last_bit = mantissa >> shift & 1;
  return static_cast<std::uint16_t>(sign | (mantissa + half_of_last + last_bit) >> shift);
}

std::uint16_t float_to_bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fff'ffff) > 0x7f80'0000) return static_cast<std::uint16_t>(bits >> 16 | 0x40);  // NaN: quiet
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

Result<const HostTensor*> TensorMap::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found != tensors_.end()) return &found->second;
  constexpr std::size_t names_shown = 8;
  std::string names;
  std::size_t shown = 0;
  for (const auto& [other, tensor] : tensors_) {
    if (shown == names_shown) break;
    names += (shown++ == 0 ? "" : ", ") + other;
  }
  if (tensors_.size() > shown) names += " and " + std::to_string(tensors_.size() - shown) + " more";
  return Error{Errc::not_found, "there is no tensor '" + std::string(name) + "'; " +
                                    (names.empty() ? "there are none at all" : "there are: " + names)};
}

const HostTensor& TensorMap::at(std::string_view name) const {
  return *find(name).value();
}

void TensorMap::erase(std::string_view name) {
  const auto found = tensors_.find(name);
  if (found != tensors_.end()) tensors_.erase(found);
}

TensorSchema TensorMap::schema() const {
  std::vector<TensorSpec> specs;
  specs.reserve(tensors_.size());
  for (const auto& [name, tensor] : tensors_) specs.push_back({name, tensor.dtype(), tensor.shape()});
  return TensorSchema(std::move(specs));
}

Status TensorMap::check_schema(const TensorSchema& expected) const {
  auto have = tensors_.begin();
  auto want = expected.specs().begin();
  while (have != tensors_.end() || want != expected.specs().end()) {
    if (want == expected.specs().end() || (have != tensors_.end() && have->first < want->name)) {
      return Error{Errc::invalid_argument, "tensor '" + have->first + "' was not expected"};
    }
    if (have == tensors_.end() || want->name < have->first) {
      return Error{Errc::invalid_argument, "tensor '" + want->name + "' (" + describe(*want) + ") is missing"};
    }
    const TensorSpec actual{have->first, have->second.dtype(), have->second.shape()};
    if (actual != *want) {
      return Error{Errc::invalid_argument, "tensor '" + actual.name + "' is " + describe(actual) + " where " +
                                               describe(*want) + " was expected"};
    }
    ++have;
    ++want;
  }
  return {};
}

Status TensorMap::check_finite() const {
  for (const auto& [name, tensor] : tensors_) {
    if (!tensor.all_finite()) {
      return Error{Errc::invalid_argument, "tensor '" + name + "' has an infinite or undefined (NaN) element"};
    }
  }
  return {};
}

std::array<std::uint8_t, 32> TensorMap::digest() const {
  Sha256Hasher hasher;
  hash_text(hasher, "tributary tensors 1");
  const auto schema_hash = schema().hash();
  hasher.update(std::as_bytes(std::span(schema_hash)));
  for (const auto& [name, tensor] : tensors_) hasher.update(tensor.bytes());
  return hasher.finish();
}

}  // namespace trib
