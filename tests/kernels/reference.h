// Random arrays and a comparison, for checking operations against the plainest float64 form of themselves.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "kernels/cpu/simd_levels.h"
#include "kernels/tensor.h"

namespace trib::kernels {

inline std::vector<float> random_floats(std::int64_t count, unsigned seed, float deviation = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

// Largest difference over the largest expected magnitude.
inline double relative_error(std::span<const float> actual, std::span<const double> expected) {
  EXPECT_EQ(actual.size(), expected.size());
  double difference = 0, magnitude = 0;
  for (std::size_t i = 0; i < std::min(actual.size(), expected.size()); ++i) {
    const double gap = std::abs(static_cast<double>(actual[i]) - expected[i]);
    difference = std::isnan(gap) ? INFINITY : std::max(difference, gap);
    magnitude = std::max(magnitude, std::abs(expected[i]));
  }
  return magnitude > 0 ? difference / magnitude : difference;
}

inline Tensor matrix(Stream& stream, std::int64_t rows, std::int64_t columns, const std::vector<float>& values) {
  return Tensor::from_host(stream, std::span<const float>(values)).reshape({rows, columns});
}
inline std::vector<float> host(Stream& stream, const Tensor& tensor) {
  const HostTensor copy = tensor.to_host(stream);
  return {copy.as<float>().begin(), copy.as<float>().end()};
}
inline Tensor indices(Stream& stream, const std::vector<std::int32_t>& values) {
  return Tensor::from_host(stream, std::span<const std::int32_t>(values));
}

// Every instruction set of this machine runs the tests of the loops.
class EachInstructionSet : public testing::TestWithParam<cpu::SimdKernels> {
 protected:
  const cpu::SimdKernels& simd() const { return GetParam(); }
};
inline std::string instruction_set_name(const testing::TestParamInfo<cpu::SimdKernels>& info) {
  std::string name = info.param.name;
  std::erase(name, '-');
  return name;
}

}  // namespace trib::kernels
