// Base models on this machine, found by name and told apart by hash: they never travel.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "common/hash.h"
#include "common/result.h"
#include "tasks/task.h"

namespace trib::tasks {

// What a job says of a base model.
struct BaseModelName {
  std::string base;              // directory name, or the path to it at the aggregator
  std::optional<Sha256> sha256;  // what it must be (models::base_model_hash)
};

struct BaseModel {
  std::filesystem::path directory;
  Sha256 hash{};
};

// The directory called like `name.base` that holds a base model with the hash name.sha256 (any hash if the job names
// none). Tried are, in order: at the aggregator, which gives its `data_directory`, the path itself; then the
// sub-directory of that name in each model directory. Errc::not_found lists where it looked, and gives both hashes if
// none of those found is the right one.
Result<BaseModel> find_base_model(const BaseModelName& name, const std::filesystem::path& data_directory,
                                  const std::vector<std::filesystem::path>& model_directories, SharedResources& shared);

}  // namespace trib::tasks
