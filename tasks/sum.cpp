#include "tasks/sum.h"

#include <spdlog/fmt/fmt.h>

#include <cmath>

namespace trib::tasks {
namespace {

TensorMap zeros_of(const TensorSchema& schema) {
  TensorMap zeros;
  for (const TensorSpec& spec : schema.specs()) zeros[spec.name] = HostTensor(DType::f64, spec.shape);
  return zeros;
}

template <typename T>
void accumulate(std::span<const T> values, std::span<double> total) {
  for (std::size_t i = 0; i < values.size(); ++i) total[i] += static_cast<double>(values[i]);
}

}  // namespace

Sum::Sum(const TensorSchema& schema) : schema_(schema), total_(zeros_of(schema)) {}

Sum Sum::of(TensorMap total, double weight, std::int64_t contributions) {
  Sum sum(total.schema());
  sum.total_ = std::move(total);
  sum.weight_ = weight;
  sum.contributions_ = contributions;
  return sum;
}

Status Sum::add(const TensorMap& weighted, double weight) {
  if (!(weight > 0.0 && std::isfinite(weight))) {
    return Error{Errc::invalid_argument,
                 fmt::format("a contribution has weight {}, but a weight must be finite and above 0", weight)};
  }
  TRIB_TRY(weighted.check_schema(schema_));
  TRIB_TRY(weighted.check_finite());
  for (const auto& [name, tensor] : weighted) {
    if (tensor.dtype() != DType::f32 && tensor.dtype() != DType::f64) {
      return Error{Errc::invalid_argument,
                   fmt::format("tensor {} is {}, but only F32 and F64 can be summed", name, to_string(tensor.dtype()))};
    }
  }
  for (const auto& [name, tensor] : weighted) {
    const std::span<double> total = total_[name].as<double>();
    if (tensor.dtype() == DType::f32) {
      accumulate(tensor.as<float>(), total);
    } else {
      accumulate(tensor.as<double>(), total);
    }
  }
  weight_ += weight;
  ++contributions_;
  return {};
}

Result<TensorMap> Sum::mean() const {
  if (weight_ == 0.0) {
    return Error{Errc::invalid_argument, "the mean of a round needs at least one contribution, and there is none"};
  }
  TensorMap mean = total_;
  for (auto& [name, tensor] : mean) {
    for (double& value : tensor.as<double>()) value /= weight_;
  }
  return mean;
}

}  // namespace trib::tasks
