// A round is a sum: contributions are folded in and forgotten.
#pragma once

#include "common/result.h"
#include "common/tensor_map.h"

namespace trib::tasks {

// Σ weight·tensors and Σ weight, in float64. Its memory is that of one contribution, whatever the number of clients.
class Sum {
 public:
  explicit Sum(const TensorSchema& schema);
  // A sum that was made elsewhere, float64 tensors: one that the aggregator noised. `weight` is what mean() divides by.
  static Sum of(TensorMap total, double weight, std::int64_t contributions);
  // Adds tensors that are already multiplied by `weight` > 0. Errc::invalid_argument if the layout differs or a value
  // is not finite: then nothing is added.
  Status add(const TensorMap& weighted, double weight);
  double weight() const { return weight_; }
  std::int64_t contributions() const { return contributions_; }
  // Float64 tensors.
  const TensorMap& total() const { return total_; }
  // total/weight as float64. Errc::invalid_argument if nothing was added.
  // A noised sum has a mean without any.
  Result<TensorMap> mean() const;

 private:
  TensorSchema schema_;
  TensorMap total_;
  double weight_ = 0.0;
  std::int64_t contributions_ = 0;
};

}  // namespace trib::tasks
