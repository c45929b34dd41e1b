#include "tasks/lora_text/lora_text.h"

#include <spdlog/fmt/fmt.h>

#include <filesystem>

#include "tasks/lora_text/base_model.h"
#include "tasks/lora_text/benchmark.h"
#include "tasks/lora_text/canaries.h"
#include "tasks/lora_text/client_half.h"
#include "tasks/lora_text/config.h"
#include "tasks/lora_text/predict.h"
#include "tasks/lora_text/server_half.h"
#include "tasks/lora_text/simulate.h"

namespace trib::tasks::lora_text {
namespace {

// The aggregator's own base model becomes the job's; a test set that is not there is said now, not rounds later.
Result<std::vector<std::string>> pin_to_aggregator(const JobSpec& job, const AggregatorContext& context) {
  TRIB_ASSIGN(const Config config, config_of(job));
  if (!config.evaluation_file.empty() && !std::filesystem::exists(context.data_directory / config.evaluation_file)) {
    return Error{
        Errc::not_found,
        fmt::format("evaluation.file = \"{}\": there is no such file in the aggregator's data directory {} "
                    "(tasks.data in server.toml): copy the public test set there, name another, or leave it out",
                    config.evaluation_file, context.data_directory.string())};
  }
  SharedResources own;
  TRIB_ASSIGN(const BaseModel base, find_base_model(config, context.data_directory, context.model_directories,
                                                    context.shared ? *context.shared : own));
  return std::vector<std::string>{fmt::format("model.base_sha256=\"{}\"", to_hex(base.hash))};
}

}  // namespace

TaskDefinition definition() {
  return {
      .name = "lora_text",
      .summary = "classify texts with LoRA adapters on a RoBERTa encoder (FedSVD, FFA-LoRA, FedAvg)",
      .sends_changes = false,
      .check = [](const JobSpec& job, ConfigReader& config) -> Status {
        read_config(job, config);
        return {};
      },
      .make_client = make_client,
      .make_server = make_server,
      .round_mechanism = [](const JobSpec& job, std::int64_t declared_records) -> Result<privacy::Mechanism> {
        TRIB_ASSIGN(const Config config, config_of(job));
        return lora_text::round_mechanism(job, config, declared_records);
      },
      .split_data = split_data,
      .canary_overrides = canary_overrides,
      .make_canaries = make_canaries,
      .pin = pin_to_aggregator,
      .predict = predict_text,
      .benchmarks = {train_benchmark()},
  };
}

}  // namespace trib::tasks::lora_text
