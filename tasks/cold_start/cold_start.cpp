#include "tasks/cold_start/cold_start.h"

#include "tasks/cold_start/benchmark.h"
#include "tasks/cold_start/halves.h"

namespace trib::tasks::cold_start {

TaskDefinition definition() {
  return {
      .name = "cold_start",
      .summary = "recommend items to users, new ones of either kind too, by contrastive two-tower models",
      .sends_changes = true,
      .check = [](const JobSpec& job, ConfigReader& config) -> Status {
        read_config(job, config);
        return {};
      },
      .make_client = make_client,
      .make_server = make_server,
      .round_mechanism = [](const JobSpec& job, std::int64_t declared_records) -> Result<privacy::Mechanism> {
        TRIB_ASSIGN(const Config config, config_of(job));
        return cold_start::round_mechanism(job, config, declared_records);
      },
      .split_data = split_data,
      .canary_overrides = {},
      .make_canaries = {},
      .pin = {},
      .predict = {},
      .benchmarks = {recommend_benchmark()},
  };
}

}  // namespace trib::tasks::cold_start
