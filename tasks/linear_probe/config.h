// The sections of a job file that the linear probe reads: those of a stream of classes, and [training].
#pragma once

#include <cstdint>

#include "common/config.h"
#include "common/result.h"
#include "tasks/class_stream/config.h"
#include "tasks/job.h"

namespace trib::tasks::linear_probe {

struct Config {
  class_stream::Config stream;   // features, labels, phases, data
  std::int64_t batch_size = 64;  // expected records a step, of all that a site declares
  std::int64_t local_steps = 1;  // a round: 1 is federated SGD, more is FedAvg
  double learning_rate = 0.1;    // of plain SGD
  double weight_decay = 0.0;     // w −= learning_rate·weight_decay·w each step
};

// Errors wait for config.finish().
Config read_config(const JobSpec& job, ConfigReader& config);
Result<Config> config_of(const JobSpec& job);

}  // namespace trib::tasks::linear_probe
