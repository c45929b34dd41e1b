#include "models/checkpoint.h"

#include "common/safetensors.h"
#include "models/json_file.h"

namespace trib::models {

Result<Checkpoint> Checkpoint::read(const std::filesystem::path& directory, std::string prefix) {
  std::filesystem::path path = directory / "model.safetensors";
  TRIB_ASSIGN(SafetensorsFile file, read_safetensors(path));
  return Checkpoint(std::move(path), std::move(prefix), std::move(file.tensors));
}

const HostTensor* Checkpoint::find(const std::string& name) const {
  if (tensors_.contains(name)) return &tensors_.at(name);
  if (name.starts_with(prefix_) && tensors_.contains(name.substr(prefix_.size())))
    return &tensors_.at(name.substr(prefix_.size()));
  return nullptr;
}

Result<HostTensor> Checkpoint::tensor(const std::string& name, const Shape& expected) const {
  const std::string what = "tensor \"" + name + "\"";
  const HostTensor* found = find(name);
  if (found == nullptr) return corrupt_file(path_, what + " " + to_string(expected) + " is missing");
  if (found->shape() != expected)
    return corrupt_file(
        path_, what + " has shape " + to_string(found->shape()) + "; config.json makes it " + to_string(expected));
  Result<HostTensor> converted = found->to_f32();
  if (!converted) return converted.error().with_context(path_.string() + ": " + what);
  if (!converted->all_finite()) return corrupt_file(path_, what + " holds NaN or infinity");
  return converted;
}

}  // namespace trib::models
