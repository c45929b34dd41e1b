// The two halves of the linear probe.
#pragma once

#include <memory>

#include "common/result.h"
#include "privacy/mechanism.h"
#include "tasks/task.h"

namespace trib::tasks::linear_probe {

// local_steps of DP-SGD (or plain SGD) on the softmax cross-entropy of a linear layer without a bias over the site's
// features, on the records of the round's phase alone: records of other phases have no gradient. A site sends its
// weights times the number of records that the phase has there, and that number; under privacy, where nobody may know
// it, its declared number of records stands for it.
Result<std::unique_ptr<ClientTask>> make_client(const JobSpec& job, const SiteContext& site);
// The mean of the sites' weights. The state: "weights" (labels, features) float32, "seen" (labels) how many records of
// each label have been counted, and the history of the evaluations.
Result<std::unique_ptr<ServerTask>> make_server(const JobSpec& job, const AggregatorContext& context);
Result<privacy::Mechanism> round_mechanism(const JobSpec& job, std::int64_t declared_records);

}  // namespace trib::tasks::linear_probe
