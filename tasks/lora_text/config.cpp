#include "tasks/lora_text/config.h"

#include <spdlog/fmt/fmt.h>
#include <spdlog/fmt/ranges.h>

#include <algorithm>
#include <set>

#include "tasks/halves.h"

namespace trib::tasks::lora_text {
namespace {

constexpr std::string_view algorithms[] = {"fedsvd", "ffa", "ffa-orthonormal", "fedavg"};  // in the order of Algorithm
constexpr std::string_view heads[] = {"frozen", "out_proj", "all"};                        // of models::HeadTraining
constexpr std::string_view precisions[] = {"fp32", "bf16", "fp8", "tf32"};                 // of models::Precision
constexpr std::string_view formats[] = {"auto", "tsv", "csv", "jsonl"};
constexpr std::string_view targets[] = {"query",       "key", "value", "attention.output.dense", "intermediate.dense",
                                        "output.dense"};

// The enumerator whose name stands at the same place in `names`.
template <typename Enum, std::size_t n>
Enum choose(ConfigReader& config, std::string_view key, const std::string_view (&names)[n], Enum fallback) {
  const std::string_view fallback_name = names[static_cast<std::size_t>(fallback)];
  const std::string chosen = config.choice(key, names, std::string(fallback_name));
  return static_cast<Enum>(std::ranges::find(names, chosen) - std::begin(names));
}

void read_model(ConfigReader& config, Config& result) {
  result.base = config.text("model.base");
  if (config.has("model.base") && std::filesystem::path(result.base).filename().empty()) {
    config.fail("model.base", "must name a directory with a base model, such as \"roberta-mini-imdb\"");
  }
  if (const std::string hash = config.text("model.base_sha256", ""); !hash.empty()) {
    if (const Result<Sha256> parsed = sha256_from_hex(hash)) {
      result.base_sha256 = *parsed;
    } else {
      config.fail("model.base_sha256", "must be the SHA-256 of the base model as 64 hexadecimal digits, or \"\"");
    }
  }
  result.labels = config.texts("model.labels");
  if (config.has("model.labels")) {
    if (result.labels.size() < 2) config.fail("model.labels", "must list at least two labels");
    if (std::set(result.labels.begin(), result.labels.end()).size() != result.labels.size()) {
      config.fail("model.labels", "must not list a label twice");
    }
    if (std::ranges::any_of(result.labels, &std::string::empty)) {
      config.fail("model.labels", "must not hold an empty label");
    }
  }
  result.classifier.label_count = static_cast<std::int64_t>(result.labels.size());
  result.classifier.precision = choose(config, "model.precision", precisions, models::Precision::fp32);
  const std::int64_t bits = result.classifier.base_bits =
      config.integer("model.base_bits", {.minimum = 4, .maximum = 16}, result.classifier.base_bits);
  if (bits != 16 && bits != 8 && bits != 4) {
    config.fail("model.base_bits", fmt::format("must be 16, 8 or 4, not {}", bits));
  } else if (bits != 16 && result.classifier.precision != models::Precision::bf16) {
    config.fail("model.base_bits",
                "below 16 needs model.precision = \"bf16\": weights come back to bfloat16 in a product");
  }
  result.classifier.max_tokens =
      config.integer("model.max_tokens", {.minimum = 3, .maximum = 4096}, result.classifier.max_tokens);
}

void read_adapter(ConfigReader& config, models::AdapterConfig& adapter) {
  adapter.rank = config.integer("adapter.rank", {.minimum = 1, .maximum = 1024}, adapter.rank);
  adapter.alpha =
      config.number("adapter.alpha", {.minimum = 0.0, .maximum = 1e6, .exclude_minimum = true}, adapter.alpha);
  adapter.targets = config.texts("adapter.targets", adapter.targets);
  if (adapter.targets.empty()) config.fail("adapter.targets", "must name at least one kind of layer");
  for (const std::string& target : adapter.targets) {
    if (std::ranges::find(targets, target) == std::end(targets)) {
      config.fail("adapter.targets", fmt::format("\"{}\" is no kind of layer that can be adapted; accepted: \"{}\"",
                                                 target, fmt::join(targets, "\", \"")));
    }
    if (std::ranges::count(adapter.targets, target) > 1) {
      config.fail("adapter.targets", fmt::format("must not list \"{}\" twice", target));
    }
  }
  adapter.blocks = config.integer("adapter.blocks", {.minimum = 1, .maximum = 1024}, adapter.blocks);
}

void read_training(ConfigReader& config, Config& result) {
  result.algorithm = choose(config, "training.algorithm", algorithms, result.algorithm);
  result.classifier.adapter.train_a = result.algorithm == Algorithm::fedavg;
  result.batch_size =
      config.integer("training.batch_size", {.minimum = 1, .maximum = 1'000'000'000}, result.batch_size);
  result.local_steps = config.integer("training.local_steps", {.minimum = 1, .maximum = 1'000'000}, result.local_steps);
  result.learning_rate = config.number("training.learning_rate",
                                       {.minimum = 0.0, .maximum = 1e6, .exclude_minimum = true}, result.learning_rate);
  result.classifier.head = choose(config, "training.head", heads, models::HeadTraining::out_proj);
}

void read_data(ConfigReader& config, Config& result) {
  result.table.format = config.choice("data.format", formats, result.table.format);
  result.table.text_column = config.text("data.text_column", result.table.text_column);
  result.table.label_column = config.text("data.label_column", result.table.label_column);
  if (result.table.text_column == result.table.label_column) {
    config.fail("data.label_column", "must be another column than data.text_column");
  }

  result.evaluation_file = config.text("evaluation.file", "");
  result.evaluation_limit =
      config.integer("evaluation.limit", {.minimum = 0, .maximum = 1'000'000'000}, result.evaluation_limit);
  result.average_states = config.number(
      "evaluation.average_states", {.minimum = 0.0, .maximum = 1.0, .exclude_maximum = true}, result.average_states);

  result.simulated_file = config.text("simulate.train", "");
  result.dirichlet_alpha = config.number(
      "simulate.dirichlet_alpha", {.minimum = 0.0, .maximum = 1e6, .exclude_minimum = true}, result.dirichlet_alpha);
  result.minimum_records =
      config.integer("simulate.min_records", {.minimum = 1, .maximum = 1'000'000'000}, result.minimum_records);
}

}  // namespace

std::string_view to_string(Algorithm algorithm) {
  return algorithms[static_cast<std::size_t>(algorithm)];
}

double learning_rate_of(const Config& config, std::string_view parameter) {
  const double factor = parameter.ends_with(".lora_B") ? static_cast<double>(config.classifier.adapter.blocks) : 1.0;
  return config.learning_rate * factor;
}

Config read_config(const JobSpec& job, ConfigReader& config) {
  Config result;
  read_model(config, result);
  read_adapter(config, result.classifier.adapter);
  read_training(config, result);
  read_data(config, result);
  result.classifier.head_seed = job.seed;
  return result;
}

Result<Config> config_of(const JobSpec& job) {
  return task_config(job, read_config);
}

}  // namespace trib::tasks::lora_text
