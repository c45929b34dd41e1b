#include "tasks/base_model.h"

#include <spdlog/fmt/fmt.h>
#include <spdlog/fmt/ranges.h>

#include <string>

#include "models/text_classifier.h"

namespace trib::tasks {
namespace {

// Hashing reads every byte of the model: once for each directory and process.
Result<Sha256> hash_once(const std::filesystem::path& directory, SharedResources& shared) {
  const auto compute = [&]() -> Result<std::shared_ptr<Sha256>> {
    TRIB_ASSIGN(const Sha256 hash, models::base_model_hash(directory));
    return std::make_shared<Sha256>(hash);
  };
  TRIB_ASSIGN(const auto hash, shared.get<Sha256>("base_model/hash/" + directory.native(), compute));
  return *hash;
}

}  // namespace

Result<BaseModel> find_base_model(const BaseModelName& name, const std::filesystem::path& data_directory,
                                  const std::vector<std::filesystem::path>& model_directories,
                                  SharedResources& shared) {
  const std::filesystem::path base = name.base;
  std::vector<std::filesystem::path> candidates;
  if (!data_directory.empty()) candidates.push_back((data_directory / base).lexically_normal());
  for (const std::filesystem::path& directory : model_directories) candidates.push_back(directory / base.filename());

  std::vector<std::string> looked, differing;
  for (const std::filesystem::path& candidate : candidates) {
    looked.push_back(candidate.native());
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(candidate / "config.json", ignored)) continue;
    TRIB_ASSIGN(const Sha256 hash, hash_once(candidate, shared));
    if (!name.sha256 || hash == *name.sha256) return BaseModel{candidate, hash};
    differing.push_back(fmt::format("{} has {}", candidate.native(), to_hex(hash)));
  }
  if (!differing.empty()) {
    return Error{Errc::not_found,
                 fmt::format("base model {} is not the one of the job: the job names SHA-256 {}, but {}; install the "
                             "same files that the aggregator has",
                             base.filename().native(), to_hex(*name.sha256), fmt::join(differing, ", "))};
  }
  if (looked.empty()) {
    return Error{Errc::not_found, fmt::format("base model {} was not found: no model directory is configured",
                                              base.filename().native())};
  }
  return Error{Errc::not_found,
               fmt::format("base model {} was not found; looked for its config.json in: {}. Put it there, or add the "
                           "directory that holds it to the model directories",
                           base.filename().native(), fmt::join(looked, ", "))};
}

}  // namespace trib::tasks
