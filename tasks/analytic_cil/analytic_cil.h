// Analytic class-incremental learning (G-ACIL, arXiv 2403.15706; AFL, arXiv 2405.16240) as a task.
#pragma once

#include "tasks/task.h"

namespace trib::tasks::analytic_cil {

TaskDefinition definition();

}  // namespace trib::tasks::analytic_cil
