// Makes the tensors of the cases of operations, from seeds, on any device.
#pragma once

#include <cmath>
#include <random>
#include <span>
#include <vector>

#include "common/random.h"
#include "kernels/activation.h"
#include "kernels/tensor.h"

namespace trib::kernels {

inline std::vector<float> random_values(std::int64_t count, unsigned seed, bool rounded) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) {
    value = normal(random);
    if (rounded) value = bfloat16_to_float(float_to_bfloat16(value));
  }
  return values;
}

// In a narrow case a GPU gets bfloat16 and the CPU the same numbers in float32.
struct Maker {
  Stream& stream;
  bool narrow;

  DType type() const { return narrow && stream.device().kind() == DeviceKind::cuda ? DType::bf16 : DType::f32; }
  DType compute() const { return narrow ? DType::bf16 : DType::f32; }
  Tensor wide(Shape shape, unsigned seed, bool rounded = false) const {
    const std::int64_t count = element_count(shape);
    return Tensor::from_host(stream, std::span<const float>(random_values(count, seed, rounded)))
        .reshape(std::move(shape));
  }
  Tensor in(Shape shape, unsigned seed) const {
    const Tensor values = wide(shape, seed, narrow);
    if (type() == DType::f32) return values;
    const Tensor rounded(stream.device(), DType::bf16, std::move(shape));
    to_bf16(stream, values, rounded);
    return rounded;
  }
  // Starts as NaN, so that an element that nothing writes is seen.
  Tensor out(Shape shape) const { return poisoned(type(), std::move(shape)); }
  Tensor wide_out(Shape shape) const { return poisoned(DType::f32, std::move(shape)); }
  Tensor indices(const std::vector<std::int32_t>& values) const {
    return Tensor::from_host(stream, std::span<const std::int32_t>(values));
  }

 private:
  Tensor poisoned(DType dtype, Shape shape) const {
    const std::vector<float> nan(static_cast<std::size_t>(element_count(shape)), NAN);
    const Tensor values = Tensor::from_host(stream, std::span<const float>(nan)).reshape(shape);
    if (dtype == DType::f32) return values;
    const Tensor narrow_values(stream.device(), dtype, std::move(shape));
    to_bf16(stream, values, narrow_values);
    return narrow_values;
  }
};

}  // namespace trib::kernels
