#include "tasks/analytic_cil/analytic_cil.h"

#include "tasks/analytic_cil/benchmark.h"
#include "tasks/analytic_cil/client_half.h"
#include "tasks/analytic_cil/config.h"
#include "tasks/analytic_cil/model_files.h"
#include "tasks/analytic_cil/server_half.h"
#include "tasks/analytic_cil/statistics.h"
#include "tasks/class_stream/simulate.h"

namespace trib::tasks::analytic_cil {

TaskDefinition definition() {
  return {
      .name = "analytic_cil",
      .summary = "classes that arrive over time, learned in closed form on a frozen backbone (G-ACIL)",
      .check = [](const JobSpec& job, ConfigReader& config) -> Status {
        read_config(job, config);
        return {};
      },
      .make_client = make_client,
      .make_server = make_server,
      .round_mechanism = [](const JobSpec& job, std::int64_t declared_records) -> Result<privacy::Mechanism> {
        return analytic_cil::round_mechanism(job, declared_records);
      },
      .split_data = [](const JobSpec& job, const std::filesystem::path& data_directory, std::int64_t sites,
                       RandomSource& random,
                       const std::filesystem::path& directory) -> Result<std::vector<TaskDefinition::SiteData>> {
        TRIB_ASSIGN(const Config config, config_of(job));
        return class_stream::deal_stream(job, config, data_directory, sites, random, directory);
      },
      .canary_overrides = {},
      .make_canaries = {},
      .pin = pin_to_aggregator,
      .predict = predict,
      .benchmarks = benchmarks(),
  };
}

}  // namespace trib::tasks::analytic_cil
