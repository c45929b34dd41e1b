#include "tasks/class_stream/config.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <set>

namespace trib::tasks::class_stream {
namespace {

constexpr std::string_view formats[] = {"auto", "tsv", "csv", "jsonl"};

std::optional<Sha256> read_hash(ConfigReader& config, std::string_view key) {
  const std::string hash = config.text(key, "");
  if (hash.empty()) return std::nullopt;
  if (const Result<Sha256> parsed = sha256_from_hex(hash)) return *parsed;
  config.fail(key, "must be a SHA-256 as 64 hexadecimal digits, or \"\"");
  return std::nullopt;
}

void read_model(ConfigReader& config, Config& result) {
  result.vector_width = config.integer("features.vector_width", {.minimum = 0, .maximum = 65'536}, 0);
  if (result.vector_width == 0) result.features = features::read_features_config(config);
  result.features_sha256 = read_hash(config, "features.sha256");
  result.center_file = config.text("features.center_file", "");
  result.center_sha256 = read_hash(config, "features.center_sha256");
  result.labels = config.texts("model.labels");
  if (!config.has("model.labels")) return;
  if (result.labels.size() < 2) config.fail("model.labels", "must list at least two labels");
  if (std::set(result.labels.begin(), result.labels.end()).size() != result.labels.size()) {
    config.fail("model.labels", "must not list a label twice");
  }
  if (std::ranges::any_of(result.labels, &std::string::empty)) {
    config.fail("model.labels", "must not hold an empty label");
  }
}

void read_buffer(ConfigReader& config, Config& result) {
  result.buffer_width = config.integer("buffer.width", {.minimum = 0, .maximum = 32'768}, result.buffer_width);
  result.buffer_seed = static_cast<std::uint64_t>(
      config.integer("buffer.seed", {.minimum = 0}, static_cast<std::int64_t>(result.buffer_seed)));
}

void read_protocol(const JobSpec& job, ConfigReader& config, Config& result) {
  result.phases = config.integer("protocol.phases", {.minimum = 1, .maximum = 1'000'000}, job.rounds);
  result.steps_per_phase = config.integer("protocol.steps_per_phase", {.minimum = 1, .maximum = 1'000'000}, 1);
  if (result.step_count() > job.rounds) {
    config.fail(
        "protocol.phases",
        fmt::format("{} phases of {} rounds need job.rounds = {} at least, and it is {}: the records of the last "
                    "would never be asked for",
                    result.phases, result.steps_per_phase, result.step_count(), job.rounds));
  }
  result.stream.tasks = result.phases;
  result.stream.disjoint_percent =
      config.integer("protocol.disjoint_percent", {.minimum = 0, .maximum = 100}, result.stream.disjoint_percent);
  result.stream.blurry_percent =
      config.integer("protocol.blurry_percent", {.minimum = 0, .maximum = 100}, result.stream.blurry_percent);
  // 0: of a class that no phase has, which is never predicted.
  result.label_phases =
      config.integers("protocol.label_phases", {.minimum = 0, .maximum = result.phases}, std::vector<std::int64_t>{});
  if (!result.label_phases.empty() && result.label_phases.size() != result.labels.size()) {
    config.fail("protocol.label_phases", fmt::format("must have one phase for each of the {} labels, and has {}",
                                                     result.labels.size(), result.label_phases.size()));
  }
}

void read_data(ConfigReader& config, Config& result) {
  result.format = config.choice("data.format", formats, result.format);
  result.item_column = config.text("data.text_column", result.item_column);
  result.label_column = config.text("data.label_column", result.label_column);
  result.phase_column = config.text("data.phase_column", result.phase_column);
  const std::set<std::string> columns{result.item_column, result.label_column, result.phase_column};
  if (columns.size() != 3) {
    config.fail("data.phase_column",
                "must be another column than data.text_column and data.label_column, and these two "
                "must differ");
  }

  result.evaluation_file = config.text("evaluation.file", "");
  result.evaluation_limit =
      config.integer("evaluation.limit", {.minimum = 0, .maximum = 1'000'000'000}, result.evaluation_limit);

  result.simulated_file = config.text("simulate.train", "");
  result.dirichlet_alpha = config.number(
      "simulate.dirichlet_alpha", {.minimum = 0.0, .maximum = 1e6, .exclude_minimum = true}, result.dirichlet_alpha);
  result.minimum_records =
      config.integer("simulate.min_records", {.minimum = 1, .maximum = 1'000'000'000}, result.minimum_records);
}

}  // namespace

Config read_config(const JobSpec& job, ConfigReader& config) {
  Config result;
  result.buffer_seed = job.seed;
  read_model(config, result);
  read_buffer(config, result);
  read_protocol(job, config, result);
  read_data(config, result);
  if (job.site_evaluation.enabled) {
    config.fail("site_evaluation.enabled",
                "must be false: this task evaluates on the aggregator's public test set alone, since no model goes to "
                "the sites");
  }
  return result;
}

std::vector<bool> Config::exposed_classes(std::span<const double> counts, std::int64_t round) const {
  std::vector<bool> exposed(labels.size(), true);
  for (std::size_t c = 0; c < exposed.size(); ++c) {
    if (!counts.empty()) {
      exposed[c] = counts[c] > 0.5;
    } else if (!label_phases.empty()) {
      exposed[c] = label_phases[c] >= 1 && label_phases[c] <= phase_of(round);
    }
  }
  return exposed;
}

}  // namespace trib::tasks::class_stream
