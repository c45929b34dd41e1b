#include "server/state_files.h"

#include <system_error>

#include "common/failpoint.h"
#include "common/files.h"
#include "common/hash.h"
#include "common/safetensors.h"

namespace trib::server {
namespace {

constexpr std::string_view prefix = "state-";
constexpr std::string_view suffix = ".safetensors";

}  // namespace

Result<std::unique_ptr<DirectoryStateFiles>> DirectoryStateFiles::open(const std::filesystem::path& directory) {
  TRIB_TRY(make_directories(directory));
  return std::unique_ptr<DirectoryStateFiles>(new DirectoryStateFiles(directory));
}

std::filesystem::path DirectoryStateFiles::path_of(std::string_view sha256) const {
  return directory_ / (std::string(prefix) + std::string(sha256) + std::string(suffix));
}

Result<std::string> DirectoryStateFiles::write(const TensorMap& state, std::string_view job, std::int64_t round) {
  const auto bytes = serialize_safetensors(state, {{"job", std::string(job)}, {"round", std::to_string(round)}});
  const std::string name = to_hex(trib::sha256(std::span<const std::byte>(bytes)));
  TRIB_FAILPOINT("state.before_write");
  TRIB_TRY(write_file_durably(path_of(name), bytes));
  TRIB_FAILPOINT("state.after_write");
  return name;
}

Result<TensorMap> DirectoryStateFiles::read(std::string_view sha256) {
  const auto path = path_of(sha256);
  TRIB_ASSIGN(const std::string bytes, read_file(path));
  if (to_hex(trib::sha256(bytes)) != sha256)
    return Error{Errc::corrupt, path.string() +
                                    ": the bytes do not have the SHA-256 of the name; restore the file "
                                    "from a backup"};
  TRIB_ASSIGN(auto file, parse_safetensors(std::as_bytes(std::span(bytes)), path.string()));
  return std::move(file.tensors);
}

Status DirectoryStateFiles::remove(std::string_view sha256) {
  std::error_code error;
  std::filesystem::remove(path_of(sha256), error);
  if (error) return error_from_errno(error.value(), "removing " + path_of(sha256).string());
  return {};
}

Status DirectoryStateFiles::sweep(const std::set<std::string>& referenced) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory_, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(prefix)) continue;  // not ours
    // A state is kept if a row names it; a temporary file beside one (its name goes on) never is.
    const bool is_state = name.size() > prefix.size() + suffix.size() && name.ends_with(suffix);
    const auto hash = is_state ? name.substr(prefix.size(), name.size() - prefix.size() - suffix.size()) : "";
    if (referenced.contains(hash)) continue;
    std::filesystem::remove(entry.path(), error);
    if (error) return error_from_errno(error.value(), "removing " + entry.path().string());
  }
  if (error) return error_from_errno(error.value(), "reading " + directory_.string());
  return {};
}

}  // namespace trib::server
