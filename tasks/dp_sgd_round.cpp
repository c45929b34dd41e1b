#include "tasks/dp_sgd_round.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>

#include "privacy/plan.h"

namespace trib::tasks {

Result<privacy::Mechanism> dp_sgd_round(const JobSpec& job, std::int64_t batch_size, std::int64_t local_steps,
                                        std::int64_t declared_records, std::string_view unit) {
  if (declared_records < 1) {
    return Error{Errc::invalid_argument,
                 fmt::format("the site declares {} {}; declare the public size of its data set, "
                             "at least 1",
                             declared_records, unit)};
  }
  batch_size = std::min(batch_size, declared_records);
  if (!job.noise_at_sites()) {
    return privacy::Mechanism{.kind = privacy::MechanismKind::none,
                              .sample_rate = static_cast<double>(batch_size) / static_cast<double>(declared_records),
                              .noise_multiplier = 0.0,
                              // Where the noise is the aggregator's, so is the clip.
                              .clip_norm = job.privacy.enabled ? 0.0 : job.privacy.clip_norm,
                              .steps = local_steps,
                              .clipping = job.privacy.clipping};
  }
  TRIB_ASSIGN(const privacy::RoundPrivacy plan, privacy::plan_privacy({.epsilon = job.privacy.epsilon,
                                                                       .delta = job.privacy.delta,
                                                                       .declared_records = declared_records,
                                                                       .batch_size = batch_size,
                                                                       .steps_per_round = local_steps,
                                                                       .max_rounds = job.max_participations(),
                                                                       .accountant = job.privacy.accountant}));
  return privacy::round_mechanism(plan, job.privacy.clip_norm, local_steps, job.privacy.clipping, job.privacy.noise);
}

}  // namespace trib::tasks
