#include <spdlog/fmt/fmt.h>

#include <filesystem>
#include <system_error>

#include "models/text_classifier.h"

namespace trib::models {

Result<Sha256> base_model_hash(const std::filesystem::path& directory) {
  struct File {
    std::string_view name;
    bool required;
  };
  constexpr File files[] = {{"config.json", true}, {"model.safetensors", true}, {"vocab.json", false},
                            {"merges.txt", false}, {"tokenizer.json", false},   {"preprocessor_config.json", false}};
  Sha256Hasher hasher;
  hasher.update("tributary base model 1\n");
  for (const File& file : files) {
    const std::filesystem::path path = directory / file.name;
    std::error_code error;
    const std::uintmax_t size = std::filesystem::file_size(path, error);
    if (error == std::errc::no_such_file_or_directory) {
      if (!file.required) continue;
      return Error{Errc::not_found,
                   fmt::format("{}: no base model there: {} is missing", directory.string(), file.name)};
    }
    if (error) return Error{Errc::io_error, fmt::format("cannot read {}: {}", path.string(), error.message())};
    TRIB_ASSIGN(const Sha256 content, sha256_file(path));
    hasher.update(fmt::format("{} {} {}\n", file.name, size, to_hex(content)));
  }
  return hasher.finish();
}

}  // namespace trib::models
