// Adapters as Hugging Face PEFT writes and reads them: adapter_config.json and adapter_model.safetensors.
#pragma once

#include <filesystem>

#include "models/text_classifier.h"

namespace trib::models {

struct PeftAdapter {
  AdapterConfig config;  // rank, alpha and targets; always one block, B alone trained
  TensorMap state;       // float32, names as TextClassifier::state() gives them
};

// Writes what PeftModel.from_pretrained() loads onto a sequence classifier: `state` holds lora_A and lora_B of every
// adapted layer and the classification head, float32, named as TextClassifier::state() names them, and nothing else.
// `labels` go into a neighbour, labels.json, which PEFT ignores; `base_model_name` is what adapter_config.json calls
// the base. The directory is made if it is not there. Block-LoRA is written as the sum of its blocks, so with the rank
// of one. Errc::invalid_argument names the tensor that does not fit the config; io_error or no_space from writing.
Status write_peft_adapter(const std::filesystem::path& directory, const TensorMap& state,
                          const ClassifierConfig& config, const std::vector<std::string>& labels,
                          std::string_view base_model_name);

// Errc::not_found, corrupt, or unsupported for what PEFT can say and this cannot (rsLoRA, DoRA, ranks by layer, trained
// biases, targets as a pattern); the message names the file and the key or tensor.
Result<PeftAdapter> read_peft_adapter(const std::filesystem::path& directory);
Result<std::vector<std::string>> read_adapter_labels(const std::filesystem::path& directory);

}  // namespace trib::models
