// A RoBERTa base model as Hugging Face stores it: config.json and model.safetensors.
#pragma once

#include <filesystem>
#include <string>

#include "common/result.h"
#include "models/checkpoint.h"

namespace trib::models {

struct RobertaConfig {
  std::int64_t hidden_size = 0, intermediate_size = 0, layers = 0, heads = 0;
  std::int64_t vocabulary_size = 0, max_positions = 0, pad_token = 1;
  double layer_norm_epsilon = 1e-5, initializer_range = 0.02;

  // Positions start behind the padding token's (RobertaEmbeddings), so some of the table is never used.
  std::int64_t first_position() const { return pad_token + 1; }
  std::int64_t longest_record() const { return max_positions - first_position(); }
};

// Errc::not_found, io_error, corrupt, or unsupported (another architecture, activation or position scheme).
Result<RobertaConfig> read_roberta_config(const std::filesystem::path& directory);

}  // namespace trib::models
