#include <algorithm>

#include "tasks/cold_start/halves.h"
#include "tasks/cold_start/ranking.h"

namespace trib::tasks::cold_start {

TensorMap to_tensors(std::span<const float> parameters, const models::ParameterLayout& layout) {
  TensorMap tensors;
  for (const auto& block : layout.blocks())
    tensors[block.name] = HostTensor::from_f32(block.shape, parameters.subspan(block.offset, block.size));
  return tensors;
}

Result<std::vector<float>> from_tensors(const TensorMap& tensors, const models::ParameterLayout& layout) {
  std::vector<float> parameters(layout.size());
  for (const auto& block : layout.blocks()) {
    TRIB_ASSIGN(const HostTensor* tensor, tensors.find(block.name));
    std::ranges::copy(tensor->as<float>(), parameters.begin() + static_cast<std::ptrdiff_t>(block.offset));
  }
  return parameters;
}

TensorSchema parameter_schema(const models::ParameterLayout& layout) {
  std::vector<TensorSpec> specs;
  for (const auto& block : layout.blocks()) specs.push_back({block.name, DType::f32, block.shape});
  return TensorSchema(std::move(specs));
}

std::map<std::string, double> evaluate_model(const Recommender<float>& model, std::span<const float> parameters,
                                             const Split& split, const std::vector<UserRecord>& users, Part part) {
  std::map<std::string, double> metrics;
  const std::vector<float> items = model.item_vectors(parameters);
  for (const Setting setting : {Setting::warm, Setting::cold_item, Setting::cold_user, Setting::both_cold}) {
    const RankingQueries queries = split.queries(setting, part);
    if (queries.users.empty()) continue;
    std::vector<const UserRecord*> asked;
    for (const std::int32_t user : queries.users) asked.push_back(&users[static_cast<std::size_t>(user)]);
    const std::vector<float> vectors = model.user_vectors(parameters, items, asked);
    const std::int64_t size = std::ssize(vectors) / std::ssize(asked), item_count = std::ssize(items) / size;
    const auto ranks = rank_all({vectors, std::ssize(asked), size}, {items, item_count, size}, queries);
    for (const auto& [name, value] : ranking_metrics(ranks, queries))
      metrics[std::string(setting_names[static_cast<std::size_t>(setting)]) + "." + name] = value;
  }
  return metrics;
}

}  // namespace trib::tasks::cold_start
