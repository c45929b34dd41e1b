// The half that runs beside the data: DP-SGD on LoRA adapters and the classification head.
#pragma once

#include <memory>

#include "common/result.h"
#include "privacy/mechanism.h"
#include "tasks/lora_text/config.h"
#include "tasks/task.h"

namespace trib::tasks::lora_text {

// What one round costs a site that declares so many records. Expected batch and declared size give the sampling rate (a
// site with fewer records than the batch takes all of them); the noise is calibrated for max_participations() rounds of
// local_steps steps; one round is charged with local_steps. MechanismKind::none if the job is not private.
Result<privacy::Mechanism> round_mechanism(const JobSpec& job, const Config& config, std::int64_t declared_records);

// Finds and loads the base model and reads the site's data file, so that whatever is wrong with either is known before
// the first round. Errors about records name file, line and value: they are for the site's own log.
Result<std::unique_ptr<ClientTask>> make_client(const JobSpec& job, const SiteContext& site);

}  // namespace trib::tasks::lora_text
