#include "privacy/cohort.h"

#include <spdlog/fmt/fmt.h>

namespace trib::privacy {

Result<Mechanism> cohort_mechanism(const CohortRequest& request) {
  TRIB_ASSIGN(const RoundPrivacy plan, plan_privacy({.epsilon = request.epsilon,
                                                     .delta = request.delta,
                                                     .declared_records = request.population,
                                                     .batch_size = request.expected_cohort,
                                                     .steps_per_round = 1,
                                                     .max_rounds = request.rounds,
                                                     .accountant = request.accountant}));
  return round_mechanism(plan, request.clip_norm, 1, request.clipping, request.noise);
}

std::vector<std::size_t> sample_cohort(std::size_t count, double sample_rate, RandomSource& random) {
  std::vector<std::size_t> chosen;
  for (std::size_t i = 0; i < count; ++i)
    if (random.bernoulli(sample_rate)) chosen.push_back(i);
  return chosen;
}

Result<std::unique_ptr<CohortSum>> CohortSum::open(Ledger& ledger, const Charge& charge, const RandomKey& key,
                                                   const TensorSchema& schema, kernels::Device& device) {
  if (charge.mechanism.kind != MechanismKind::poisson_subsampled_gaussian || charge.mechanism.steps != 1) {
    return Error{Errc::invalid_argument,
                 fmt::format("a round of persons is one noised sum, but {} steps are charged for round {} of job '{}'",
                             charge.mechanism.steps, charge.round, charge.job)};
  }
  if (!ledger.charged(charge.job, charge.round, charge.data_set)) TRIB_TRY(ledger.charge(charge));
  return std::unique_ptr<CohortSum>(new CohortSum(charge, key, schema, device));
}

CohortSum::CohortSum(const Charge& charge, const RandomKey& key, TensorSchema schema, kernels::Device& device)
    : charge_(charge), schema_(std::move(schema)), stream_(device.make_stream()), sum_(key, charge) {
  std::vector<Shape> shapes;
  for (const TensorSpec& spec : schema_.specs()) shapes.push_back(spec.shape);
  sum_.reset(*stream_, shapes);
}

CohortSum::~CohortSum() = default;

double CohortSum::expected_cohort() const {
  return charge_.mechanism.sample_rate * static_cast<double>(charge_.declared_records);
}

Status CohortSum::add(const TensorMap& tensors) {
  if (released_) {
    return Error{Errc::limit_exceeded,
                 fmt::format("the sum of round {} of job '{}' was released", charge_.round, charge_.job)};
  }
  TRIB_TRY(tensors.check_schema(schema_));
  TRIB_TRY(tensors.check_finite());
  kernels::PerSampleGradients person;
  person.sample_count = 1;
  for (const TensorSpec& spec : schema_.specs()) {
    const HostTensor& tensor = tensors.at(spec.name);
    TRIB_ASSIGN(const HostTensor narrow, tensor.to_f32());
    kernels::PerSampleGradient part;
    part.name = spec.name;
    part.shape = spec.shape;
    part.values = kernels::Tensor::from_host(*stream_, narrow).reshape({1, element_count(spec.shape)});
    person.tensors.push_back(std::move(part));
  }
  sum_.add_clipped(*stream_, person);
  stream_->synchronize();
  ++contributions_;
  return {};
}

Result<TensorMap> CohortSum::release() {
  if (released_) {
    return Error{Errc::limit_exceeded,
                 fmt::format("the sum of round {} of job '{}' was released before", charge_.round, charge_.job)};
  }
  released_ = true;
  std::vector<HostTensor> sums = sum_.finish_sum(*stream_);
  TensorMap total;
  for (std::size_t i = 0; i < sums.size(); ++i) total[schema_.specs()[i].name] = std::move(sums[i]);
  return total;
}

}  // namespace trib::privacy
