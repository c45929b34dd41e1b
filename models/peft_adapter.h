// Adapters as Hugging Face PEFT writes and reads them: adapter_config.json and adapter_model.safetensors.
#pragma once

#include <filesystem>

#include "models/text_classifier.h"

namespace trib::models {

struct PeftAdapter {
  AdapterConfig config;
  TensorMap state;  // names as TextClassifier::state() gives them
};

// `labels` go into adapter_config.json's neighbour, labels.json, which PEFT ignores.
Status write_peft_adapter(const std::filesystem::path& directory, const TensorMap& state, const ClassifierConfig& config,
                          const std::vector<std::string>& labels, std::string_view base_model_name);
Result<PeftAdapter> read_peft_adapter(const std::filesystem::path& directory);
Result<std::vector<std::string>> read_adapter_labels(const std::filesystem::path& directory);

}  // namespace trib::models
