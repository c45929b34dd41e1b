#include "tasks/lora_text/lora_text.h"

#include <spdlog/fmt/fmt.h>

#include "tasks/lora_text/base_model.h"
#include "tasks/lora_text/canaries.h"
#include "tasks/lora_text/client_half.h"
#include "tasks/lora_text/config.h"
#include "tasks/lora_text/predict.h"
#include "tasks/lora_text/server_half.h"
#include "tasks/lora_text/simulate.h"

namespace trib::tasks::lora_text {
namespace {

// The aggregator's own base model becomes the job's.
Result<std::vector<std::string>> pin_base_model(const JobSpec& job, const AggregatorContext& context) {
  TRIB_ASSIGN(const Config config, config_of(job));
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
      .pin = pin_base_model,
      .predict = predict_text,
  };
}

}  // namespace trib::tasks::lora_text
