// What one training step costs on this machine.
#pragma once

#include "common/result.h"
#include "tasks/task.h"

namespace trib::tasks::lora_text {

// Times private and plain steps in turn, on a GPU in blocks, through the session, trainer and devices that a site
// trains with, over batches of exactly request.batch records. Only adapters' B and the head train, as in a job's
// default. Errors as reading the model, the file or the settings gives them.
Result<TrainingBenchmark> benchmark_training(const BenchmarkRequest& request, Progress& progress);

}  // namespace trib::tasks::lora_text
