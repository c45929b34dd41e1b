// A linear classifier on frozen features, trained by federated SGD while classes arrive over time: what analytic_cil is
// measured against. Same features, same records, same rounds, same metrics.
#pragma once

#include "tasks/task.h"

namespace trib::tasks::linear_probe {

TaskDefinition definition();

}  // namespace trib::tasks::linear_probe
