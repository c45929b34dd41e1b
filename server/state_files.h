// States at rest: whole safetensors files named by the SHA-256 of their bytes, written before any row names them.
#pragma once

#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <string_view>

#include "common/result.h"
#include "common/tensor_map.h"

namespace trib::server {

// Calls may come from any thread; a state is written by one at a time.
class StateFiles {
 public:
  virtual ~StateFiles() = default;
  // Writes the state durably and returns its name: the SHA-256, hex, of the file. Job and round are in the file's
  // metadata, so that no two rounds ever share a file. Errc::no_space or io_error.
  virtual Result<std::string> write(const TensorMap& state, std::string_view job, std::int64_t round) = 0;
  // Errc::not_found, or corrupt if the bytes are not those that were written.
  virtual Result<TensorMap> read(std::string_view sha256) = 0;
  // Removes one state; a state that is not there is fine.
  virtual Status remove(std::string_view sha256) = 0;
  // Removes every state, and every half-written one, that is not in `referenced`. Only before anything writes.
  virtual Status sweep(const std::set<std::string>& referenced) = 0;
};

// state-<sha256>.safetensors in one directory.
class DirectoryStateFiles final : public StateFiles {
 public:
  // Creates the directory if it is missing.
  static Result<std::unique_ptr<DirectoryStateFiles>> open(const std::filesystem::path& directory);
  Result<std::string> write(const TensorMap& state, std::string_view job, std::int64_t round) override;
  Result<TensorMap> read(std::string_view sha256) override;
  Status remove(std::string_view sha256) override;
  Status sweep(const std::set<std::string>& referenced) override;

 private:
  explicit DirectoryStateFiles(std::filesystem::path directory) : directory_(std::move(directory)) {}
  std::filesystem::path path_of(std::string_view sha256) const;
  std::filesystem::path directory_;
};

}  // namespace trib::server
