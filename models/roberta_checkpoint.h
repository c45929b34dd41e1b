// A RoBERTa base model as Hugging Face stores it: config.json and model.safetensors.
#pragma once

#include <filesystem>
#include <string>

#include "common/result.h"
#include "common/tensor_map.h"

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

// The tensors of a base model, converted to float32 as they are asked for.
class RobertaCheckpoint {
 public:
  static Result<RobertaCheckpoint> read(const std::filesystem::path& directory);

  // `name` as in RobertaForSequenceClassification ("roberta.embeddings.…"); a file of a bare RobertaModel, which lacks
  // the "roberta." prefix, serves too. Errors name the file, the tensor and what was expected.
  Result<HostTensor> tensor(const std::string& name, const Shape& shape) const;
  bool contains(const std::string& name) const { return find(name) != nullptr; }

 private:
  RobertaCheckpoint(std::filesystem::path path, TensorMap tensors)
      : path_(std::move(path)), tensors_(std::move(tensors)) {}
  const HostTensor* find(const std::string& name) const;
  std::filesystem::path path_;
  TensorMap tensors_;
};

}  // namespace trib::models
