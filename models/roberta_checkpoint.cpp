#include "models/roberta_checkpoint.h"

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

#include "common/safetensors.h"
#include "models/json_file.h"

namespace trib::models {
namespace {

std::string in_quotes(std::string_view text) {
  std::string result(text);
  result.insert(result.begin(), '"');
  result.push_back('"');
  return result;
}

Result<std::int64_t> positive(const boost::json::object& config, std::string_view key,
                              const std::filesystem::path& path) {
  const boost::json::value* value = config.if_contains(key);
  if (value == nullptr) return corrupt_file(path, in_quotes(key) + " is missing");
  if (!value->is_int64() || value->get_int64() <= 0)
    return corrupt_file(path, in_quotes(key) + " must be a positive integer");
  return value->get_int64();
}

Result<double> number(const boost::json::object& config, std::string_view key, double fallback,
                      const std::filesystem::path& path) {
  const boost::json::value* value = config.if_contains(key);
  if (value == nullptr) return fallback;
  if (!value->is_number() || !(value->to_number<double>() > 0))
    return corrupt_file(path, in_quotes(key) + " must be a positive number");
  return value->to_number<double>();
}

// The text at `key`, or "" if it is absent.
std::string text(const boost::json::object& config, std::string_view key) {
  const boost::json::value* value = config.if_contains(key);
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}

}  // namespace

Result<RobertaConfig> read_roberta_config(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "config.json";
  TRIB_ASSIGN(const boost::json::object json, read_json_object(path));
  auto refuse = [&](std::string_view key, std::string_view accepted) {
    return Error{Errc::unsupported, path.string() + ": " + in_quotes(key) + " is " + in_quotes(text(json, key)) +
                                        "; only " + std::string(accepted) + " is supported"};
  };
  if (text(json, "model_type") != "roberta") return refuse("model_type", "\"roberta\"");
  if (text(json, "hidden_act") != "gelu") return refuse("hidden_act", "\"gelu\" (the exact form)");
  if (std::string scheme = text(json, "position_embedding_type"); !scheme.empty() && scheme != "absolute")
    return refuse("position_embedding_type", "\"absolute\"");
  RobertaConfig config;
  TRIB_ASSIGN(config.hidden_size, positive(json, "hidden_size", path));
  TRIB_ASSIGN(config.intermediate_size, positive(json, "intermediate_size", path));
  TRIB_ASSIGN(config.layers, positive(json, "num_hidden_layers", path));
  TRIB_ASSIGN(config.heads, positive(json, "num_attention_heads", path));
  TRIB_ASSIGN(config.vocabulary_size, positive(json, "vocab_size", path));
  TRIB_ASSIGN(config.max_positions, positive(json, "max_position_embeddings", path));
  TRIB_ASSIGN(config.layer_norm_epsilon, number(json, "layer_norm_eps", config.layer_norm_epsilon, path));
  TRIB_ASSIGN(config.initializer_range, number(json, "initializer_range", config.initializer_range, path));
  if (json.contains("pad_token_id")) {
    TRIB_ASSIGN(config.pad_token, positive(json, "pad_token_id", path));
  }
  if (config.hidden_size % config.heads != 0)
    return corrupt_file(path, "\"hidden_size\" (" + std::to_string(config.hidden_size) +
                                  ") is not a multiple of \"num_attention_heads\" (" + std::to_string(config.heads) +
                                  ")");
  if (config.longest_record() < 2)
    return corrupt_file(path, "\"max_position_embeddings\" leaves no room behind the padding position");
  return config;
}

Result<RobertaCheckpoint> RobertaCheckpoint::read(const std::filesystem::path& directory) {
  std::filesystem::path path = directory / "model.safetensors";
  TRIB_ASSIGN(SafetensorsFile file, read_safetensors(path));
  return RobertaCheckpoint(std::move(path), std::move(file.tensors));
}

const HostTensor* RobertaCheckpoint::find(const std::string& name) const {
  if (tensors_.contains(name)) return &tensors_.at(name);
  constexpr std::string_view prefix = "roberta.";
  if (name.starts_with(prefix) && tensors_.contains(name.substr(prefix.size())))
    return &tensors_.at(name.substr(prefix.size()));
  return nullptr;
}

Result<HostTensor> RobertaCheckpoint::tensor(const std::string& name, const Shape& expected) const {
  const HostTensor* found = find(name);
  if (found == nullptr)
    return corrupt_file(path_, "tensor " + in_quotes(name) + " " + to_string(expected) + " is missing");
  if (found->shape() != expected)
    return corrupt_file(path_, "tensor " + in_quotes(name) + " has shape " + to_string(found->shape()) +
                                   "; config.json makes it " + to_string(expected));
  Result<HostTensor> converted = found->to_f32();
  if (!converted) return converted.error().with_context(path_.string() + ": tensor " + in_quotes(name));
  if (!converted->all_finite()) return corrupt_file(path_, "tensor " + in_quotes(name) + " holds NaN or infinity");
  return converted;
}

}  // namespace trib::models
