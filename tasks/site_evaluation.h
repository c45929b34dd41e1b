// How well a model does on the sites' own data, as counts that may leave: one noised sum over a site's records.
#pragma once

#include <map>
#include <string>

#include "common/result.h"
#include "common/tensor_map.h"
#include "privacy/mechanism.h"

namespace trib::tasks {

// The one tensor of an evaluation's contribution: float64 of three, the sums over the records of 1, of whether the
// prediction is right, and of min(loss, evaluation_loss_bound)/evaluation_loss_bound. Each is between 0 and 1, so one
// record moves the sum by at most √3, which is what the noise is scaled to.
inline constexpr const char* evaluation_tensor = "evaluation";
inline constexpr double evaluation_loss_bound = 4.0;  // e^−4: the probability 0.018 for the right label

// What an evaluation costs: one sum over all records with noise of standard deviation noise_multiplier·√3 on each
// count. It is charged by itself, under a name that no job has.
privacy::Charge evaluation_charge(const std::string& job_id, std::int64_t round, const std::string& data_set,
                                  std::int64_t declared_records, double target_delta, double noise_multiplier,
                                  privacy::NoiseKind noise);

// "accuracy", "loss" and "records" of the summed contributions of any number of sites: ratios of noised counts, so
// accuracy is cut to [0, 1] and loss to [0, evaluation_loss_bound]. Errc::invalid_argument without the tensor, or where
// the noise is larger than the counts and nothing can be said (fewer than one record).
Result<std::map<std::string, double>> evaluation_metrics(const TensorMap& sum);

}  // namespace trib::tasks
