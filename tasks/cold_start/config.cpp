#include "tasks/cold_start/config.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>

#include "tasks/halves.h"

namespace trib::tasks::cold_start {
namespace {

constexpr std::string_view sources[] = {"synthetic", "ml-100k", "ml-1m"};  // in the order of Source
constexpr std::string_view losses[] = {"softmax", "bpr"};
constexpr std::string_view optimizers[] = {"adam", "sgd"};
constexpr std::string_view parts[] = {"validation", "test"};

template <typename Enum, std::size_t n>
Enum choose(ConfigReader& config, std::string_view key, const std::string_view (&names)[n], Enum fallback) {
  const std::string chosen = config.choice(key, names, std::string(names[static_cast<std::size_t>(fallback)]));
  return static_cast<Enum>(std::ranges::find(names, chosen) - std::begin(names));
}

void read_data(ConfigReader& config, Config& result) {
  result.source = choose(config, "catalogue.source", sources, result.source);
  result.directory = config.text("catalogue.directory", "");
  if (result.source != Source::synthetic && result.directory.empty())
    config.fail("catalogue.directory", "must name the folder with the original MovieLens files, unpacked");
  result.min_word_count =
      config.integer("catalogue.min_word_count", {.minimum = 1, .maximum = 1'000'000}, result.min_word_count);
  SyntheticOptions& made = result.synthetic;
  made.users = config.integer("catalogue.users", {.minimum = 2, .maximum = 1'000'000}, made.users);
  made.items = config.integer("catalogue.items", {.minimum = 10, .maximum = 1'000'000}, made.items);
  made.interactions_per_user =
      config.integer("catalogue.interactions_per_user", {.minimum = 2, .maximum = 100'000}, made.interactions_per_user);
  made.seed = static_cast<std::uint64_t>(
      config.integer("catalogue.seed", {.minimum = 0}, static_cast<std::int64_t>(made.seed)));

  SplitOptions& split = result.split;
  constexpr ConfigReader::NumberRange share{.minimum = 0.0, .maximum = 0.9};
  split.cold_items = config.number("split.cold_items", share, split.cold_items);
  split.cold_users = config.number("split.cold_users", share, split.cold_users);
  split.validation = config.number("split.validation", {.minimum = 0.0, .maximum = 0.45}, split.validation);
  split.test = config.number("split.test", {.minimum = 0.0, .maximum = 0.45}, split.test);
  split.seed =
      static_cast<std::uint64_t>(config.integer("split.seed", {.minimum = 0}, static_cast<std::int64_t>(split.seed)));

  result.evaluate = config.boolean("evaluation.enabled", result.evaluate);
  result.evaluated_part = choose(config, "evaluation.on", parts, result.evaluated_part);
  result.one_user_a_site = config.boolean("simulate.one_user_a_site", result.one_user_a_site);
  result.dirichlet_alpha = config.number(
      "simulate.dirichlet_alpha", {.minimum = 0.0, .maximum = 1e6, .exclude_minimum = true}, result.dirichlet_alpha);
}

void read_model(ConfigReader& config, ModelConfig& model) {
  constexpr ConfigReader::NumberRange probability{.minimum = 0.0, .maximum = 1.0};
  model.size = config.integer("model.size", {.minimum = 1, .maximum = 4096}, model.size);
  model.hidden = config.integer("model.hidden", {.minimum = 1, .maximum = 4096}, model.hidden);
  model.loss = choose(config, "model.loss", losses, model.loss);
  model.negatives = config.integer("model.negatives", {.minimum = 0, .maximum = 1'000'000}, model.negatives);
  if (model.loss == RecommendationLoss::bpr && model.negatives == 0)
    config.fail("model.negatives", "must be above 0 with model.loss = \"bpr\": a target is compared with each of them");
  model.input_share = config.number("model.input_share", {.minimum = 0.0, .maximum = 0.99}, model.input_share);
  model.item_dropout = config.number("model.item_dropout", probability, model.item_dropout);
  model.user_dropout = config.number("model.user_dropout", probability, model.user_dropout);
  model.contrast_weight =
      config.number("model.contrast_weight", {.minimum = 0.0, .maximum = 1e3}, model.contrast_weight);
  model.contrast_temperature =
      config.number("model.contrast_temperature", {.minimum = 1e-3, .maximum = 1e3}, model.contrast_temperature);
  model.contrast_items =
      config.integer("model.contrast_items", {.minimum = 1, .maximum = 100'000}, model.contrast_items);
  model.contrast_negatives =
      config.integer("model.contrast_negatives", {.minimum = 0, .maximum = 100'000}, model.contrast_negatives);
  model.private_steps = config.integer("model.private_steps", {.minimum = 0, .maximum = 1000}, model.private_steps);
  model.private_rate = config.number("model.private_rate", {.minimum = 0.0, .maximum = 1e3}, model.private_rate);

  model.gates = config.boolean("ablation.gates", model.gates);
  model.fusion = config.boolean("ablation.fusion", model.fusion);
  model.item_content = config.boolean("ablation.item_content", model.item_content);
  model.item_embedding = config.boolean("ablation.item_embedding", model.item_embedding);
  model.user_attributes = config.boolean("ablation.user_attributes", model.user_attributes);
  model.user_history = config.boolean("ablation.user_history", model.user_history);
  if (!config.boolean("ablation.contrast", true)) model.contrast_weight = 0.0;
  if (!model.item_embedding && model.contrast_weight > 0.0)
    config.fail("ablation.item_embedding", "needs ablation.contrast = false too: there is no second view of an item");
}

}  // namespace

Config read_config(const JobSpec&, ConfigReader& config) {
  Config result;
  read_data(config, result);
  read_model(config, result.model);
  result.batch_size =
      config.integer("training.batch_size", {.minimum = 1, .maximum = 1'000'000'000}, result.batch_size);
  result.local_steps = config.integer("training.local_steps", {.minimum = 1, .maximum = 1'000'000}, result.local_steps);
  result.learning_rate = config.number("training.learning_rate",
                                       {.minimum = 0.0, .maximum = 1e6, .exclude_minimum = true}, result.learning_rate);
  result.optimizer = choose(config, "server.optimizer", optimizers, result.optimizer);
  result.server_learning_rate = config.number(
      "server.learning_rate", {.minimum = 0.0, .maximum = 1e6, .exclude_minimum = true}, result.server_learning_rate);
  result.weight_decay = config.number("server.weight_decay", {.minimum = 0.0, .maximum = 1.0}, result.weight_decay);
  return result;
}

Result<Config> config_of(const JobSpec& job) {
  return task_config(job, read_config);
}

Result<Dataset> load_dataset(const Config& config, const std::filesystem::path& data_directory) {
  if (config.source == Source::movielens_100k) return read_movielens_100k(data_directory / config.directory);
  if (config.source == Source::movielens_1m) return read_movielens_1m(data_directory / config.directory);
  return make_synthetic(config.synthetic);
}

}  // namespace trib::tasks::cold_start
