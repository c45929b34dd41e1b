#include "server/rounds/round_sum.h"

#include <spdlog/fmt/fmt.h>

namespace trib::server {
namespace {

class PlainSum final : public RoundSum {
 public:
  PlainSum(const TensorSchema& schema, double divisor) : sum_(schema), divisor_(divisor) {}
  Status add(const TensorMap& weighted, double weight) override { return sum_.add(weighted, weight); }
  std::int64_t contributions() const override { return sum_.contributions(); }
  Result<tasks::Sum> finish() override {
    if (divisor_ == 0.0) return std::move(sum_);
    return tasks::Sum::of(sum_.total(), divisor_, sum_.contributions());
  }

 private:
  tasks::Sum sum_;
  double divisor_;
};

class NoisedSum final : public RoundSum {
 public:
  explicit NoisedSum(std::unique_ptr<privacy::CohortSum> cohort) : cohort_(std::move(cohort)) {}
  Status add(const TensorMap& weighted, double weight) override {
    if (weight != 1.0) {
      return Error{
          Errc::invalid_argument,
          fmt::format("its weight is {}, but in a job whose noise is the aggregator's everyone has weight 1", weight)};
    }
    return cohort_->add(weighted);
  }
  std::int64_t contributions() const override { return cohort_->contributions(); }
  Result<tasks::Sum> finish() override {
    TRIB_ASSIGN(TensorMap total, cohort_->release());
    return tasks::Sum::of(std::move(total), cohort_->expected_cohort(), cohort_->contributions());
  }

 private:
  std::unique_ptr<privacy::CohortSum> cohort_;
};

}  // namespace

std::unique_ptr<RoundSum> plain_sum(const TensorSchema& schema, double divisor) {
  return std::make_unique<PlainSum>(schema, divisor);
}

std::unique_ptr<RoundSum> noised_sum(std::unique_ptr<privacy::CohortSum> cohort) {
  return std::make_unique<NoisedSum>(std::move(cohort));
}

Result<privacy::Charge> cohort_charge(const tasks::JobSpec& spec) {
  TRIB_ASSIGN(privacy::Mechanism mechanism,
              privacy::cohort_mechanism({.epsilon = spec.privacy.epsilon,
                                         .delta = spec.privacy.delta,
                                         .population = spec.selection.expected_clients,
                                         .expected_cohort = spec.selection.clients_per_round,
                                         .rounds = spec.rounds,
                                         .clip_norm = spec.privacy.clip_norm,
                                         .accountant = spec.privacy.accountant,
                                         .clipping = spec.privacy.clipping,
                                         .noise = spec.privacy.noise}));
  return privacy::Charge{.job = {},
                         .round = 0,
                         .data_set = spec.data_set,
                         .declared_records = spec.selection.expected_clients,
                         .target_delta = spec.privacy.delta,
                         .mechanism = mechanism};
}

}  // namespace trib::server
