#include "tasks/job.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>

#include "tasks/task.h"

namespace trib::tasks {
namespace {

constexpr std::string_view orders[] = {"balanced", "uniform", "poisson"};  // of SelectionOrder
constexpr std::string_view noise_places[] = {"site", "aggregator"};
constexpr std::string_view clippings[] = {"flat", "automatic"};
constexpr std::string_view noises[] = {"discrete_gaussian", "float_gaussian"};

// A job's name becomes part of its id and of file names.
bool is_job_name(std::string_view name) {
  constexpr std::string_view accepted = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
  return !name.empty() && name.size() <= 64 && name.front() != '.' &&
         name.find_first_not_of(accepted) == std::string_view::npos;
}

SelectionSpec read_selection(ConfigReader& config, const PrivacySpec& privacy) {
  SelectionSpec selection;
  selection.clients_per_round =
      config.integer("selection.clients_per_round", {.minimum = 0, .maximum = 1'000'000}, selection.clients_per_round);
  selection.minimum_clients =
      config.integer("selection.minimum_clients", {.minimum = 1, .maximum = 1'000'000}, selection.minimum_clients);
  selection.over_selection =
      config.number("selection.over_selection", {.minimum = 1.0, .maximum = 10.0}, selection.over_selection);
  const std::string order = config.choice("selection.order", orders, "balanced");
  selection.order = static_cast<SelectionOrder>(std::ranges::find(orders, order) - std::begin(orders));
  selection.expected_clients =
      config.integer("selection.expected_clients", {.minimum = 0, .maximum = 1'000'000}, selection.expected_clients);
  selection.round_deadline_ms = config.duration_ms("selection.round_deadline", {.minimum = 1, .maximum = 604'800'000},
                                                   selection.round_deadline_ms);
  selection.start_deadline_ms = config.duration_ms(
      "selection.start_deadline", {.minimum = 0, .maximum = 31'536'000'000}, selection.start_deadline_ms);
  selection.round_retries =
      config.integer("selection.round_retries", {.minimum = 0, .maximum = 1000}, selection.round_retries);

  if (selection.clients_per_round > 0 && selection.minimum_clients > selection.clients_per_round) {
    config.fail(
        "selection.minimum_clients",
        fmt::format("must be at most selection.clients_per_round = {}: a round with fewer sites than that could "
                    "never be committed",
                    selection.clients_per_round));
  }
  if (selection.expected_clients > 0 && selection.expected_clients < selection.minimum_clients) {
    config.fail("selection.expected_clients",
                fmt::format("must be 0 or at least selection.minimum_clients = {}", selection.minimum_clients));
  }
  const bool poisson = selection.order == SelectionOrder::poisson;
  if (poisson && (selection.clients_per_round < 1 || selection.expected_clients < selection.clients_per_round)) {
    config.fail("selection.order",
                fmt::format("\"poisson\" needs selection.clients_per_round (the expected cohort, {}) of at least 1 and "
                            "selection.expected_clients (the declared number of clients, {}) of at least that",
                            selection.clients_per_round, selection.expected_clients));
  }
  if (poisson && (selection.over_selection > 1.0 || privacy.rounds_per_client > 0)) {
    config.fail("selection.order",
                "\"poisson\" goes with selection.over_selection = 1.0 and privacy.rounds_per_client = 0: whoever is "
                "passed over or left out would not be sampled independently");
  }
  if (privacy.enabled && poisson != (privacy.noise_by == NoiseBy::aggregator)) {
    config.fail("privacy.noise_by",
                poisson ? "must be \"aggregator\" with selection.order = \"poisson\", whose clients are one person "
                          "each: their own noise would drown what they contribute"
                        : "\"aggregator\" needs selection.order = \"poisson\": its privacy rests on a secret sample");
  }
  if (privacy.enabled && selection.over_selection > 1.0) {
    config.fail("selection.over_selection",
                "must be 1.0 while privacy.enabled = true: a site that is chosen and comes too late has spent its "
                "privacy budget for nothing");
  }
  return selection;
}

PrivacySpec read_privacy(ConfigReader& config, std::int64_t rounds) {
  PrivacySpec spec;
  spec.enabled = config.boolean("privacy.enabled", spec.enabled);
  spec.epsilon =
      config.number("privacy.epsilon", {.minimum = 0.0, .maximum = 64.0, .exclude_minimum = true}, spec.epsilon);
  spec.delta = config.number("privacy.delta", {.minimum = 0.0, .maximum = 1e-2, .exclude_minimum = true}, spec.delta);
  // Without privacy records are clipped only where the file says so: then the job differs in nothing but the noise.
  spec.clip_norm =
      config.number("privacy.clip_norm", {.minimum = 1e-9, .maximum = 1e6}, spec.enabled ? spec.clip_norm : 0.0);
  const std::string clipping = config.choice("privacy.clipping", clippings, "flat");
  spec.clipping = clipping == "automatic" ? privacy::Clipping::automatic : privacy::Clipping::flat;
  const std::string noise = config.choice("privacy.noise", noises, "discrete_gaussian");
  spec.noise = noise == "float_gaussian" ? privacy::NoiseKind::float_gaussian : privacy::NoiseKind::discrete_gaussian;
  spec.noise_by =
      config.choice("privacy.noise_by", noise_places, "site") == "aggregator" ? NoiseBy::aggregator : NoiseBy::site;
  const std::string accountant = config.choice("privacy.accountant", privacy::accountant_names, "rdp");
  spec.accountant = accountant == "pld" ? privacy::Accountant::pld : privacy::Accountant::rdp;
  spec.rounds_per_client =
      config.integer("privacy.rounds_per_client", {.minimum = 0, .maximum = 1'000'000}, spec.rounds_per_client);
  if (spec.rounds_per_client > rounds) {
    config.fail("privacy.rounds_per_client",
                fmt::format("must be at most job.rounds = {}, or 0 for all of them", rounds));
  }
  return spec;
}

Result<JobSpec> read_job(ConfigReader config) {
  JobSpec job = read_job_sections(config);
  job.file_text = config.to_toml();
  TRIB_ASSIGN(const TaskDefinition* task, find_task(job.task));
  TRIB_TRY(task->check(job, config));
  if (job.trusts_aggregator() && !task->sends_changes) {
    config.fail("privacy.noise_by", fmt::format("\"aggregator\" is not for task \"{}\": what its clients send is a "
                                                "model and no change of one, so its norm cannot be bounded",
                                                job.task));
  }
  TRIB_TRY(config.finish());
  return job;
}

}  // namespace

JobSpec read_job_sections(ConfigReader& config) {
  JobSpec job;
  job.name = config.text("job.name");
  if (config.has("job.name") && !is_job_name(job.name)) {
    config.fail("job.name", "must be 1 to 64 letters, digits, '.', '_' or '-', and not begin with '.'");
  }
  std::vector<std::string_view> task_names;
  for (const TaskDefinition& task : registered_tasks()) task_names.push_back(task.name);
  job.task = config.choice("job.task", task_names);
  job.rounds = config.integer("job.rounds", {.minimum = 1, .maximum = 1'000'000});
  job.evaluate_every = config.integer("job.evaluate_every", {.minimum = 1, .maximum = 1'000'000}, job.evaluate_every);
  job.seed = static_cast<std::uint64_t>(config.integer("job.seed", {.minimum = 0}, 0));
  job.privacy = read_privacy(config, job.rounds);
  job.selection = read_selection(config, job.privacy);
  job.site_evaluation.enabled = config.boolean("site_evaluation.enabled", job.site_evaluation.enabled);
  job.site_evaluation.epsilon =
      config.number("site_evaluation.epsilon", {.minimum = 0.0, .maximum = 64.0, .exclude_minimum = true},
                    job.site_evaluation.epsilon);
  job.data_set = config.text("data.set", job.data_set);
  if (job.data_set.empty()) config.fail("data.set", "must name a data set of the sites' configuration");
  job.simulated_sites = config.integer("simulate.sites", {.minimum = 1, .maximum = 1'000'000}, job.simulated_sites);
  return job;
}

Result<JobSpec> read_job_file(const std::filesystem::path& path, const std::vector<std::string>& overrides) {
  TRIB_ASSIGN(ConfigReader config, ConfigReader::from_file(path, overrides));
  return read_job(std::move(config));
}

Result<JobSpec> read_job_text(std::string_view text, std::string_view name_for_errors) {
  TRIB_ASSIGN(ConfigReader config, ConfigReader::from_text(text, name_for_errors));
  return read_job(std::move(config));
}

Result<JobSpec> pin_job(const JobSpec& job, const AggregatorContext& context) {
  TRIB_ASSIGN(const TaskDefinition* task, find_task(job.task));
  if (!task->pin) return job;
  TRIB_ASSIGN(const std::vector<std::string> overrides, task->pin(job, context));
  TRIB_ASSIGN(ConfigReader config, ConfigReader::from_text(job.file_text, job.name, overrides));
  return read_job(std::move(config));
}

}  // namespace trib::tasks
