// What analytic learning costs on this machine: `trib bench analytic`.
#pragma once

#include <vector>

#include "tasks/task.h"

namespace trib::tasks::analytic_cil {

// For the definition of a task that learns by kernels/ridge.h.
std::vector<Benchmark> benchmarks();

}  // namespace trib::tasks::analytic_cil
