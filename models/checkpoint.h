// The tensors of a model as Hugging Face stores them.
#pragma once

#include <filesystem>
#include <string>

#include "common/result.h"
#include "common/tensor_map.h"

namespace trib::models {

// The tensors of a base model, converted to float32 as they are asked for.
class Checkpoint {
 public:
  // Reads model.safetensors. Files of a bare model lack the prefix ("roberta.") that the names have in a model with a
  // head: both serve.
  static Result<Checkpoint> read(const std::filesystem::path& directory, std::string prefix = {});

  // `name` as in a model with a head ("roberta.embeddings.…"). Errors name the file, the tensor and what was expected.
  Result<HostTensor> tensor(const std::string& name, const Shape& shape) const;
  bool contains(const std::string& name) const { return find(name) != nullptr; }

 private:
  Checkpoint(std::filesystem::path path, std::string prefix, TensorMap tensors)
      : path_(std::move(path)), prefix_(std::move(prefix)), tensors_(std::move(tensors)) {}
  const HostTensor* find(const std::string& name) const;
  std::filesystem::path path_;
  std::string prefix_;
  TensorMap tensors_;
};

}  // namespace trib::models
