#include "tasks/site_evaluation.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cmath>

#include "privacy/accountant.h"

namespace trib::tasks {

Result<privacy::Charge> evaluation_charge(const JobSpec& job, const std::string& job_id, std::int64_t round,
                                          std::int64_t declared_records) {
  privacy::Charge charge{.job = job_id + ":evaluation",
                         .round = round,
                         .data_set = job.data_set,
                         .declared_records = declared_records,
                         .target_delta = job.privacy.delta,
                         .mechanism = {}};
  privacy::Mechanism& mechanism = charge.mechanism;
  mechanism.sample_rate = 1.0;
  mechanism.steps = 1;
  if (!job.privacy.enabled) {
    mechanism.kind = privacy::MechanismKind::none;
    return charge;
  }
  TRIB_ASSIGN(
      mechanism.noise_multiplier,
      privacy::calibrate_noise_multiplier(job.site_evaluation.epsilon, job.privacy.delta, 1.0, job.max_evaluations()));
  // A little above √3, so that the clip, which leaves room for rounding, shortens no record.
  mechanism.clip_norm = std::sqrt(3.0) * (1.0 + 2e-5);
  mechanism.noise = job.privacy.noise;
  return charge;
}

Result<std::map<std::string, double>> evaluation_metrics(const TensorMap& sum) {
  TRIB_ASSIGN(const HostTensor* tensor, sum.find(evaluation_tensor));
  if (tensor->dtype() != DType::f64 || tensor->shape() != Shape{3}) {
    return Error{Errc::invalid_argument,
                 fmt::format("tensor '{}' of an evaluation must be F64 of 3", evaluation_tensor)};
  }
  const auto counts = tensor->as<double>();
  if (!(counts[0] >= 1.0)) {
    return Error{Errc::invalid_argument,
                 fmt::format("the sites' evaluations come to {:.1f} records: their noise hides them; evaluate on more "
                             "records or with less noise",
                             counts[0])};
  }
  return std::map<std::string, double>{{"records", counts[0]},
                                       {"accuracy", std::clamp(counts[1] / counts[0], 0.0, 1.0)},
                                       {"loss", std::clamp(counts[2] / counts[0], 0.0, 1.0) * evaluation_loss_bound}};
}

}  // namespace trib::tasks
