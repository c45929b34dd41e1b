// What the halves of every task do alike.
#pragma once

#include <cstdint>

#include "common/config.h"
#include "common/result.h"
#include "privacy/mechanism.h"
#include "tasks/job.h"
#include "tasks/task.h"

namespace trib::tasks {

// A task's own sections, by its `read`, of a job whose shared ones were read before. Errors as reading the job's text.
template <typename Config>
Result<Config> task_config(const JobSpec& job, Config (*read)(const JobSpec&, ConfigReader&)) {
  TRIB_ASSIGN(ConfigReader reader, ConfigReader::from_text(job.file_text, job.name));
  read_job_sections(reader);
  Config config = read(job, reader);
  TRIB_TRY(reader.finish());
  return config;
}

// What a site's ledger is charged with for its part of a round whose mechanism is `mechanism`.
inline privacy::Charge round_charge(const JobSpec& job, const SiteContext& site, const RoundPlan& plan,
                                    const privacy::Mechanism& mechanism) {
  return {.job = plan.job_id,
          .round = plan.round,
          .data_set = job.data_set,
          .declared_records = site.declared_records,
          .target_delta = job.privacy.delta,
          .mechanism = mechanism};
}

}  // namespace trib::tasks
