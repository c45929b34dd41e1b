#include "tasks/linear_probe/linear_probe.h"

#include "tasks/class_stream/pin.h"
#include "tasks/class_stream/simulate.h"
#include "tasks/linear_probe/config.h"
#include "tasks/linear_probe/halves.h"

namespace trib::tasks::linear_probe {

TaskDefinition definition() {
  return {
      .name = "linear_probe",
      .summary = "a linear classifier on frozen features by federated SGD: what analytic_cil is measured against",
      .check = [](const JobSpec& job, ConfigReader& config) -> Status {
        read_config(job, config);
        return {};
      },
      .make_client = make_client,
      .make_server = make_server,
      .round_mechanism = round_mechanism,
      .split_data = [](const JobSpec& job, const std::filesystem::path& data_directory, std::int64_t sites,
                       RandomSource& random,
                       const std::filesystem::path& directory) -> Result<std::vector<TaskDefinition::SiteData>> {
        TRIB_ASSIGN(const Config config, config_of(job));
        return class_stream::deal_stream(job, config.stream, data_directory, sites, random, directory);
      },
      .canary_overrides = {},
      .make_canaries = {},
      .pin = [](const JobSpec& job, const AggregatorContext& context) -> Result<std::vector<std::string>> {
        TRIB_ASSIGN(const Config config, config_of(job));
        return class_stream::pin_stream(job, config.stream, context);
      },
      .predict = {},
      .benchmarks = {},
  };
}

}  // namespace trib::tasks::linear_probe
