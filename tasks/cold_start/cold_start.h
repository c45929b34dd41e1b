// Recommending to users and of items that nobody has seen before: README.md in this folder.
#pragma once

#include "tasks/task.h"

namespace trib::tasks::cold_start {

TaskDefinition definition();

}  // namespace trib::tasks::cold_start
