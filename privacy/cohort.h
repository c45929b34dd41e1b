// Noise at the aggregator, for federations in which a participant is one person: noise of one person's own would drown
// what they contribute. The aggregator samples persons secretly, bounds what each of them adds, and noises the sum
// once. Whoever relies on this trusts the aggregator, which sees each contribution before the noise.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/random.h"
#include "common/result.h"
#include "common/tensor_map.h"
#include "kernels/device.h"
#include "privacy/dp_sgd.h"
#include "privacy/ledger.h"
#include "privacy/plan.h"

namespace trib::privacy {

// What has to be known in public to plan the noise of such a job.
struct CohortRequest {
  double epsilon = 0.0, delta = 1e-5;  // of the whole job, for each person
  std::int64_t population = 0;         // the declared number of persons
  std::int64_t expected_cohort = 0;    // of a round, on average: at most the population
  std::int64_t rounds = 0;
  double clip_norm = 1.0;
  Accountant accountant = Accountant::rdp;
  Clipping clipping = Clipping::flat;
  NoiseKind noise = NoiseKind::discrete_gaussian;
};
// One round: every person joins with probability expected_cohort/population, independently, and one sum is noised.
// Errors as plan_privacy().
Result<Mechanism> cohort_mechanism(const CohortRequest& request);

// The persons of a round: each of `count` independently with the mechanism's sample rate. Indices, ascending.
std::vector<std::size_t> sample_cohort(std::size_t count, double sample_rate, RandomSource& random);

// The sum of one round. Weight 1 for everyone.
class CohortSum {
 public:
  // Charges the aggregator's ledger, durably, before anything is taken in. A round that was charged before is the same
  // round after a restart: of a round that is open nothing has been released, and release() happens once a round is
  // committed, so the charge holds for it. Errc::over_budget as Ledger::charge().
  static Result<std::unique_ptr<CohortSum>> open(Ledger& ledger, const Charge& charge, const RandomKey& key,
                                                 const TensorSchema& schema, kernels::Device& device);
  ~CohortSum();

  // Scales one person's tensors (float32) so that their joint norm is at most the clip norm, rounds them to the grid
  // and adds them. Errc::invalid_argument if the layout differs, or a value is not finite: then nothing is added.
  Status add(const TensorMap& tensors);
  std::int64_t contributions() const { return contributions_; }
  // What a mean divides by: the expected cohort, never the realized one.
  double expected_cohort() const;
  // Adds the noise, once, and returns the sum as float64. A second call, and an add() after it, is
  // Errc::limit_exceeded.
  Result<TensorMap> release();

 private:
  CohortSum(const Charge& charge, const RandomKey& key, TensorSchema schema, kernels::Device& device);
  Charge charge_;
  TensorSchema schema_;
  std::unique_ptr<kernels::Stream> stream_;
  GradientSum sum_;
  std::int64_t contributions_ = 0;
  bool released_ = false;
};

}  // namespace trib::privacy
