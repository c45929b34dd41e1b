#include "tasks/linear_probe/config.h"

#include "tasks/halves.h"

namespace trib::tasks::linear_probe {

Config read_config(const JobSpec& job, ConfigReader& config) {
  Config result;
  result.stream = class_stream::read_config(job, config);
  result.batch_size =
      config.integer("training.batch_size", {.minimum = 1, .maximum = 1'000'000'000}, result.batch_size);
  result.local_steps = config.integer("training.local_steps", {.minimum = 1, .maximum = 1'000'000}, result.local_steps);
  result.learning_rate = config.number("training.learning_rate",
                                       {.minimum = 0.0, .maximum = 1e6, .exclude_minimum = true}, result.learning_rate);
  result.weight_decay = config.number("training.weight_decay", {.minimum = 0.0, .maximum = 1.0}, result.weight_decay);
  return result;
}

Result<Config> config_of(const JobSpec& job) {
  return task_config(job, read_config);
}

}  // namespace trib::tasks::linear_probe
