// How well a model does on the sites' own data, as counts that may leave: one noised sum over a site's records.
#pragma once

#include <map>
#include <string>

#include "common/result.h"
#include "common/tensor_map.h"
#include "privacy/mechanism.h"
#include "tasks/task.h"

namespace trib::tasks {

// What an evaluation adds to a contribution, as evaluation_tensor: float64 of three, the sums over the site's records
// of 1, of whether the prediction is right, and of min(loss, evaluation_loss_bound)/evaluation_loss_bound. Each is
// between 0 and 1 for one record, which so moves the sum by at most √3: what the noise is scaled to. Not multiplied by
// any weight.
inline constexpr double evaluation_loss_bound = 4.0;  // e^−4: the probability 0.018 for the right label

// What one evaluation costs a site: one sum over all its records, with noise of standard deviation noise_multiplier·√3
// on each count, calibrated so that max_evaluations() of them cost site_evaluation.epsilon at privacy.delta. It is
// charged by itself, under a name that no job has. MechanismKind::none if the job is not private. Calibrates: call it
// once a job.
Result<privacy::Charge> evaluation_charge(const JobSpec& job, const std::string& job_id, std::int64_t round,
                                          std::int64_t declared_records);

// "accuracy", "loss" and "records" of the summed contributions of any number of sites: ratios of noised counts, so
// accuracy is cut to [0, 1] and loss to [0, evaluation_loss_bound]. Errc::invalid_argument without the tensor, or where
// the noise is larger than the counts and nothing can be said (fewer than one record).
Result<std::map<std::string, double>> evaluation_metrics(const TensorMap& sum);

}  // namespace trib::tasks
