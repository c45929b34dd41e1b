// One labelled file dealt out over sites and over time, for simulations and demonstrations.
#pragma once

#include <filesystem>
#include <vector>

#include "common/random.h"
#include "common/result.h"
#include "tasks/class_stream/config.h"
#include "tasks/data/si_blurry.h"
#include "tasks/task.h"

namespace trib::tasks::class_stream {

// Which phase of a simulated stream each label belongs to: a function of the job alone (its labels, [protocol] and
// job.seed), so that the aggregator may know it without a look at a record.
Result<data::ClassSchedule> simulated_schedule(const JobSpec& job, const Config& config);

// Writes site-1.csv, site-2.csv, … into `directory` from the job's simulate.train (relative to `data_directory`), with
// the job's phase column. Over time, records are dealt by simulated_schedule() and data::deal_samples(), from job.seed;
// each phase's are cut into steps_per_phase equal parts, one a round. Over sites, each label's records are dealt in
// Dirichlet proportions (data::dirichlet_split), from `random`, whatever their phase. Records of labels that are in no
// phase are left out.
Result<std::vector<TaskDefinition::SiteData>> deal_stream(const JobSpec& job, const Config& config,
                                                          const std::filesystem::path& data_directory,
                                                          std::int64_t sites, RandomSource& random,
                                                          const std::filesystem::path& directory);

}  // namespace trib::tasks::class_stream
