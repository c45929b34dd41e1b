#include "tasks/lora_text/base_model.h"

#include <spdlog/fmt/fmt.h>
#include <spdlog/fmt/ranges.h>

#include <algorithm>

namespace trib::tasks::lora_text {
namespace {

// Everything that makes two loaded classifiers different.
std::string resource_key(const BaseModel& base, const models::ClassifierConfig& config, kernels::Device& device) {
  return fmt::format(
      "lora_text/model/{}/labels={}/rank={}/alpha={}/targets={}/train_a={}/blocks={}/head={}/precision={}/"
      "base_bits={}/max_tokens={}/head_seed={}/device={}",
      to_hex(base.hash), config.label_count, config.adapter.rank, config.adapter.alpha,
      fmt::join(config.adapter.targets, ","), config.adapter.train_a, config.adapter.blocks,
      static_cast<int>(config.head), static_cast<int>(config.precision), config.base_bits, config.max_tokens,
      config.head_seed, fmt::ptr(&device));
}

bool has_fixed_a(const Config& config) {
  return config.algorithm != Algorithm::fedavg;
}

Result<std::shared_ptr<SharedModel>> load(const BaseModel& base, const models::ClassifierConfig& config,
                                          kernels::Device& device) {
  auto model = std::make_shared<SharedModel>();
  TRIB_ASSIGN(model->classifier, models::TextClassifier::load(device, base.directory, config));
  TRIB_ASSIGN(models::Tokenizer tokenizer, models::Tokenizer::load(base.directory));
  model->tokenizer = std::make_unique<models::Tokenizer>(std::move(tokenizer));
  model->adapters = {.layers = model->classifier->adapted_layers(), .rank = config.adapter.rank};

  const std::vector<std::string>& names = model->classifier->parameter_names();
  for (std::size_t i = 0; i < names.size(); ++i) {
    model->trained.push_back({names[i], DType::f32, model->classifier->parameters()[i].shape()});
  }
  for (const auto& [name, tensor] : model->classifier->state()) {
    if (name.ends_with(".lora_A") || name.ends_with(".lora_B")) continue;
    TRIB_ASSIGN(model->initial_head[name], tensor.to_f32());
    const bool trains = std::ranges::find(names, name) != names.end();
    (trains ? model->trained_head : model->frozen_head).push_back(name);
  }
  return model;
}

}  // namespace

Result<std::shared_ptr<SharedModel>> load_shared_model(const BaseModel& base, const models::ClassifierConfig& config,
                                                       kernels::Device& device, SharedResources& shared) {
  return shared.get<SharedModel>(resource_key(base, config, device), [&] { return load(base, config, device); });
}

Result<Replicas> load_replicas(const BaseModel& base, const models::ClassifierConfig& config,
                               const std::vector<kernels::Device*>& devices, SharedResources& shared) {
  Replicas replicas;
  std::vector<kernels::Stream*> streams;
  std::string key = "lora_text/collective";
  for (kernels::Device* device : devices) {
    TRIB_ASSIGN(std::shared_ptr<SharedModel> model, load_shared_model(base, config, *device, shared));
    streams.push_back(&model->classifier->stream());
    key.append("/").append(resource_key(base, config, *device));
    replicas.models.push_back(std::move(model));
  }
  if (devices.size() == 1) return replicas;
  using Made = Result<std::shared_ptr<kernels::Collective>>;
  TRIB_ASSIGN(replicas.collective, shared.get<kernels::Collective>(key, [&]() -> Made {
    TRIB_ASSIGN(std::unique_ptr<kernels::Collective> collective, kernels::make_collective(streams));
    return std::shared_ptr<kernels::Collective>(std::move(collective));
  }));
  return replicas;
}

TensorSchema constants_schema(const SharedModel& model, const Config& config) {
  std::vector<TensorSpec> specs;
  if (has_fixed_a(config)) {
    for (const auto& layer : model.adapters.layers) {
      specs.push_back({a_name(layer), DType::f32, {model.adapters.rank, layer.in_features}});
    }
  }
  for (const std::string& name : model.frozen_head) {
    specs.push_back({name, DType::f32, model.initial_head.at(name).shape()});
  }
  return TensorSchema(std::move(specs));
}

TensorSchema broadcast_schema(const SharedModel& model, const Config& config) {
  std::vector<TensorSpec> specs = model.trained;
  if (config.algorithm == Algorithm::fedsvd) {
    for (const auto& layer : model.adapters.layers) {
      specs.push_back({rotation_name(layer), DType::f64, {model.adapters.rank, model.adapters.rank}});
    }
  }
  return TensorSchema(std::move(specs));
}

TensorSchema contribution_schema(const SharedModel& model) {
  return TensorSchema(model.trained);
}

Status set_classifier(SharedModel& model, const Config& config, const TensorMap& constants,
                      const TensorMap& broadcast) {
  if (constants.empty() && !constants_schema(model, config).specs().empty()) {
    return Error{Errc::invalid_argument, "the constants of the job have to be set before its first round"};
  }
  models::TextClassifier& classifier = *model.classifier;
  TRIB_ASSIGN(TensorMap state, explicit_adapters(classifier.stream(), model.adapters, constants, broadcast));
  for (const std::string& name : model.trained_head) state[name] = broadcast.at(name);
  for (const std::string& name : model.frozen_head) state[name] = constants.at(name);
  return classifier.set_state(state);
}

}  // namespace trib::tasks::lora_text
