// One labelled file dealt out to many sites, for simulations and demonstrations.
#pragma once

#include <filesystem>
#include <vector>

#include "common/random.h"
#include "common/result.h"
#include "tasks/task.h"

namespace trib::tasks::lora_text {

// Writes site-1.csv, site-2.csv, … into `directory` from the job's simulate.train (relative to `data_directory`): each
// label's records are dealt out in Dirichlet proportions, every record to exactly one site.
Result<std::vector<TaskDefinition::SiteData>> split_data(const JobSpec& job,
                                                         const std::filesystem::path& data_directory,
                                                         std::int64_t sites, RandomSource& random,
                                                         const std::filesystem::path& directory);

}  // namespace trib::tasks::lora_text
