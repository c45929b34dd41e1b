#include "models/peft_adapter.h"

#include <spdlog/fmt/fmt.h>
#include <spdlog/fmt/ranges.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <boost/json/value_from.hpp>
#include <set>

#include "common/files.h"
#include "common/safetensors.h"
#include "models/json_file.h"

namespace trib::models {
namespace {

namespace json = boost::json;
using Path = std::filesystem::path;

constexpr std::string_view config_name = "adapter_config.json";
constexpr std::string_view tensors_name = "adapter_model.safetensors";
constexpr std::string_view labels_name = "labels.json";
constexpr std::string_view peft_prefix = "base_model.model.";
constexpr std::string_view head_prefix = "classifier.";
constexpr std::string_view lora_a = ".lora_A", lora_b = ".lora_B";

std::string_view without_suffix(std::string_view text, std::string_view suffix) {
  return text.substr(0, text.size() - suffix.size());
}

// PEFT's rule: a target is a module's whole name, or its end from a dot on.
bool is_targeted(std::string_view layer, const std::vector<std::string>& targets) {
  return std::ranges::any_of(
      targets, [&](const std::string& target) { return layer == target || layer.ends_with("." + target); });
}

// Checks that `state` is adapters as `config` says and a head, each adapter with both its factors. Messages name the
// tensor; the caller says where it came from.
Status check_state(const TensorMap& state, const AdapterConfig& config) {
  const auto bad = [](std::string_view name, std::string_view problem) {
    return Error{Errc::invalid_argument, fmt::format("tensor \"{}\" {}", name, problem)};
  };
  for (const auto& [name, tensor] : state) {
    const bool is_a = name.ends_with(lora_a), is_b = name.ends_with(lora_b);
    if (tensor.dtype() != DType::f32) return bad(name, fmt::format("is {}, not F32", to_string(tensor.dtype())));
    if (!is_a && !is_b) {
      if (!name.starts_with(head_prefix)) return bad(name, "belongs neither to a LoRA adapter nor to the classifier");
      continue;
    }
    const std::string layer(without_suffix(name, lora_a));
    if (!is_targeted(layer, config.targets)) {
      return bad(name, fmt::format("is of a layer that the targets do not name: {}", fmt::join(config.targets, ", ")));
    }
    const std::size_t rank_axis = is_a ? 0 : 1;
    if (tensor.shape().size() != 2 || tensor.shape()[rank_axis] != config.rank) {
      return bad(name, fmt::format("has shape {}, which is not of rank {}", to_string(tensor.shape()), config.rank));
    }
    const std::string partner = layer + std::string(is_a ? lora_b : lora_a);
    if (!state.contains(partner)) return bad(name, fmt::format("has no partner \"{}\"", partner));
  }
  return {};
}

Status check_labels(const TensorMap& state, const ClassifierConfig& config, const std::vector<std::string>& labels) {
  constexpr std::string_view output = "classifier.out_proj.weight";
  TRIB_ASSIGN(const HostTensor* weight, state.find(output));
  const auto count = static_cast<std::int64_t>(labels.size());
  if (count != config.label_count || weight->shape().empty() || weight->shape()[0] != count) {
    return Error{Errc::invalid_argument, fmt::format("{} labels for a classifier of {}, whose \"{}\" has shape {}",
                                                     count, config.label_count, output, to_string(weight->shape()))};
  }
  return {};
}

// PEFT's own layout: sorted keys, two spaces. Only keys that every version since 0.6 knows: older ones refuse others,
// and newer ones have defaults for them.
std::string config_text(const AdapterConfig& config, std::string_view base_model_name) {
  std::vector<std::string> targets;
  for (const std::string& target : config.targets) targets.push_back("    " + json::serialize(json::value(target)));
  return fmt::format(R"({{
  "alpha_pattern": {{}},
  "auto_mapping": null,
  "base_model_name_or_path": {},
  "bias": "none",
  "fan_in_fan_out": false,
  "inference_mode": true,
  "init_lora_weights": true,
  "layers_pattern": null,
  "layers_to_transform": null,
  "lora_alpha": {},
  "lora_dropout": 0.0,
  "modules_to_save": [
    "classifier"
  ],
  "peft_type": "LORA",
  "r": {},
  "rank_pattern": {{}},
  "revision": null,
  "target_modules": [
{}
  ],
  "task_type": "SEQ_CLS"
}}
)",
                     json::serialize(json::value(json::string(base_model_name))), config.alpha, config.rank,
                     fmt::join(targets, ",\n"));
}

// What PEFT can say and this library does not do; where the key is absent, PEFT's default is what we do.
Status check_is_plain_lora(const json::object& config, const Path& path) {
  struct Requirement {
    std::string_view key;
    json::value accepted;
  };
  const Requirement requirements[] = {{"peft_type", "LORA"},
                                      {"task_type", "SEQ_CLS"},
                                      {"bias", "none"},
                                      {"fan_in_fan_out", false},
                                      {"use_rslora", false},
                                      {"use_dora", false},
                                      {"lora_bias", false},
                                      {"rank_pattern", json::object()},
                                      {"alpha_pattern", json::object()},
                                      {"layer_replication", nullptr}};
  for (const auto& [key, accepted] : requirements) {
    const json::value* value = config.if_contains(key);
    if (value == nullptr || *value == accepted || value->is_null()) continue;
    return Error{Errc::unsupported, fmt::format("{}: \"{}\" is {}; only {} is supported", path.string(), key,
                                                json::serialize(*value), json::serialize(accepted))};
  }
  return {};
}

Result<std::vector<std::string>> string_list(const json::value& value, std::string_view what, const Path& path) {
  std::vector<std::string> result;
  const json::array* array = value.if_array();
  if (array == nullptr || array->empty()) return corrupt_file(path, fmt::format("{} must be a list of strings", what));
  for (const json::value& entry : *array) {
    if (!entry.is_string()) return corrupt_file(path, fmt::format("{} must be a list of strings", what));
    result.emplace_back(std::string_view(entry.get_string()));
  }
  return result;
}

Result<AdapterConfig> read_config(const Path& path) {
  TRIB_ASSIGN(const json::object object, read_json_object(path));
  TRIB_TRY(check_is_plain_lora(object, path));
  AdapterConfig config;
  const json::value *rank = object.if_contains("r"), *alpha = object.if_contains("lora_alpha");
  if (rank == nullptr || !rank->is_int64() || rank->get_int64() <= 0) {
    return corrupt_file(path, "\"r\" must be a positive whole number");
  }
  if (alpha == nullptr || !alpha->is_number() || !(alpha->to_number<double>() > 0.0)) {
    return corrupt_file(path, "\"lora_alpha\" must be a positive number");
  }
  config.rank = rank->get_int64();
  config.alpha = alpha->to_number<double>();
  const json::value* targets = object.if_contains("target_modules");
  if (targets != nullptr && targets->is_string()) {
    return Error{Errc::unsupported, fmt::format("{}: \"target_modules\" is the pattern {}; only a list of names is "
                                                "supported",
                                                path.string(), json::serialize(*targets))};
  }
  TRIB_ASSIGN(config.targets, string_list(targets != nullptr ? *targets : json::value(), "\"target_modules\"", path));
  return config;
}

// "base_model.model.LAYER.lora_A.weight" as "LAYER.lora_A"; the head's names only lose the prefix.
std::string state_name(std::string_view peft_name) {
  peft_name.remove_prefix(peft_prefix.size());
  for (const std::string_view factor : {std::string_view(".lora_A.weight"), std::string_view(".lora_B.weight")}) {
    if (peft_name.ends_with(factor)) return std::string(without_suffix(peft_name, ".weight"));
  }
  return std::string(peft_name);
}

std::string peft_name(std::string_view state_name) {
  const bool is_factor = state_name.ends_with(lora_a) || state_name.ends_with(lora_b);
  return fmt::format("{}{}{}", peft_prefix, state_name, is_factor ? ".weight" : "");
}

}  // namespace

Status write_peft_adapter(const Path& directory, const TensorMap& state, const ClassifierConfig& config,
                          const std::vector<std::string>& labels, std::string_view base_model_name) {
  for (const Status& status : {check_state(state, config.adapter), check_labels(state, config, labels)}) {
    if (!status) return status.error().with_context("cannot write an adapter to " + directory.string());
  }
  TensorMap tensors;
  for (const auto& [name, tensor] : state) tensors[peft_name(name)] = tensor;
  TRIB_TRY(make_directories(directory));
  TRIB_TRY(write_safetensors(directory / tensors_name, tensors, {{"format", "pt"}}));
  TRIB_TRY(write_file_durably(directory / labels_name, json::serialize(json::value_from(labels)) + "\n"));
  return write_file_durably(directory / config_name, config_text(config.adapter, base_model_name));
}

Result<PeftAdapter> read_peft_adapter(const Path& directory) {
  PeftAdapter adapter;
  TRIB_ASSIGN(adapter.config, read_config(directory / config_name));
  const Path path = directory / tensors_name;
  TRIB_ASSIGN(const SafetensorsFile file, read_safetensors(path));
  for (const auto& [name, tensor] : file.tensors) {
    if (!name.starts_with(peft_prefix)) {
      return corrupt_file(path, fmt::format("tensor \"{}\" must start with \"{}\"", name, peft_prefix));
    }
    Result<HostTensor> converted = tensor.to_f32();
    if (!converted) return converted.error().with_context(fmt::format("{}: tensor \"{}\"", path.string(), name));
    adapter.state[state_name(name)] = *std::move(converted);
  }
  if (const Status status = check_state(adapter.state, adapter.config); !status) {
    return corrupt_file(path, status.error().message);
  }
  return adapter;
}

Result<std::vector<std::string>> read_adapter_labels(const Path& directory) {
  const Path path = directory / labels_name;
  TRIB_ASSIGN(const std::string text, read_file(path));
  boost::system::error_code error;
  const json::value value = json::parse(text, error);
  if (error) return corrupt_file(path, "not JSON: " + error.message());
  TRIB_ASSIGN(std::vector<std::string> labels, string_list(value, "it", path));
  if (std::set<std::string>(labels.begin(), labels.end()).size() != labels.size()) {
    return corrupt_file(path, "names a label twice");
  }
  return labels;
}

}  // namespace trib::models
