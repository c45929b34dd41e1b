// What a round folds contributions into: a plain sum, or one that the aggregator bounds and noises itself.
#pragma once

#include <cstdint>
#include <memory>

#include "common/result.h"
#include "common/tensor_map.h"
#include "privacy/cohort.h"
#include "tasks/job.h"
#include "tasks/sum.h"

namespace trib::server {

class RoundSum {
 public:
  virtual ~RoundSum() = default;
  // As tasks::Sum::add().
  virtual Status add(const TensorMap& weighted, double weight) = 0;
  virtual std::int64_t contributions() const = 0;
  // What the task makes its next state of. Once; it may compute.
  virtual Result<tasks::Sum> finish() = 0;
};

// Of contributions that carry their own noise, or none. `divisor` above 0 takes the place of their weight: an expected
// cohort, which does not tell how many there were.
std::unique_ptr<RoundSum> plain_sum(const TensorSchema& schema, double divisor = 0.0);
// Of persons whose contributions the aggregator bounds and noises; each has weight 1.
std::unique_ptr<RoundSum> noised_sum(std::unique_ptr<privacy::CohortSum> cohort);

// What a round of a job whose noise is the aggregator's is charged with, for each person of its population.
// Errc::invalid_argument as privacy::cohort_mechanism().
Result<privacy::Charge> cohort_charge(const tasks::JobSpec& spec);

}  // namespace trib::server
