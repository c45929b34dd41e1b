// What one round of DP-SGD costs a site, the same for every task that trains by it.
#pragma once

#include <cstdint>
#include <string_view>

#include "common/result.h"
#include "privacy/mechanism.h"
#include "tasks/job.h"

namespace trib::tasks {

// local_steps Poisson samples of batch_size records on average, all of them where the site declares fewer; where the
// job has noise at its sites, as much as all rounds that a site may take part in need for the job's (epsilon, delta),
// and without it the same samples. From public values alone. `unit` is what a record is called in
// Errc::invalid_argument, which a site that declares none gets; further errors as privacy::plan_privacy().
Result<privacy::Mechanism> dp_sgd_round(const JobSpec& job, std::int64_t batch_size, std::int64_t local_steps,
                                        std::int64_t declared_records, std::string_view unit = "records");

}  // namespace trib::tasks
