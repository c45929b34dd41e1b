// Text classification with LoRA adapters on a frozen encoder: the registry's entry.
#pragma once

#include "tasks/task.h"

namespace trib::tasks::lora_text {

TaskDefinition definition();

}  // namespace trib::tasks::lora_text
