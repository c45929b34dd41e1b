// cold_start_compare JOB.toml [METHOD …] [--seeds 1,2,3] [--epochs N] [--patience N] [--trace STEPS]
//   [--set section.key=value …]
// Trains baselines, and our model on one machine with no federation around it, on the data, split and features that the
// job file describes, and prints one line of metrics a method and seed: tab-separated, with a header. "ours" takes as
// many steps as the job has rounds, each of as many users as its sites take together, with its optimizer. A baseline
// takes as many epochs as are best on the validation part, up to N; "steps" says how many.
#include <spdlog/fmt/fmt.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "experiments/cold_start/baselines.h"
#include "experiments/cold_start/network.h"
#include "tasks/cold_start/config.h"
#include "tasks/cold_start/halves.h"
#include "tasks/cold_start/ranking.h"

namespace trib::experiments {
namespace {

using namespace tasks::cold_start;

struct Arguments {
  std::filesystem::path job;
  std::vector<std::string> methods, overrides;
  std::vector<std::uint64_t> seeds = {1};
  std::int64_t epochs = 200, patience = 5;
  std::int64_t trace = 0;  // print "ours" every so many steps
};

Result<Arguments> parse(int count, char** values) {
  Arguments arguments;
  for (int i = 1; i < count; ++i) {
    const std::string argument = values[i];
    const auto next = [&]() -> std::string { return ++i < count ? values[i] : ""; };
    try {
      if (argument == "--seeds") {
        arguments.seeds.clear();
        for (std::string rest = next(); !rest.empty();) {
          const std::size_t comma = std::min(rest.find(','), rest.size());
          arguments.seeds.push_back(std::stoull(rest.substr(0, comma)));
          rest.erase(0, comma + 1);
        }
      } else if (argument == "--epochs") {
        arguments.epochs = std::stoll(next());
      } else if (argument == "--patience") {
        arguments.patience = std::stoll(next());
      } else if (argument == "--trace") {
        arguments.trace = std::stoll(next());
      } else if (argument == "--set") {
        arguments.overrides.push_back(next());
      } else if (arguments.job.empty()) {
        arguments.job = argument;
      } else {
        arguments.methods.push_back(argument);
      }
    } catch (const std::exception&) {
      return Error{Errc::invalid_argument, fmt::format("{} needs a number, not '{}'", argument, values[i])};
    }
  }
  if (arguments.job.empty())
    return Error{Errc::invalid_argument,
                 "usage: cold_start_compare JOB.toml [METHOD …] [--seeds 1,2] [--epochs N] "
                 "[--patience N] [--trace STEPS] [--set section.key=value]"};
  if (arguments.methods.empty()) {
    for (const std::string_view name : baseline_names()) arguments.methods.emplace_back(name);
    arguments.methods.emplace_back("ours");
  }
  return arguments;
}

// Adds what is measured in one setting.
void evaluate(const Vectors& vectors, const Split& split, Part part, Setting setting,
              std::map<std::string, double>& metrics) {
  const std::int64_t items = std::ssize(vectors.items) / vectors.size;
  const RankingQueries queries = split.queries(setting, part);
  if (queries.users.empty()) return;
  std::vector<float> users;
  for (const std::int32_t user : queries.users) {
    const auto first = vectors.users.begin() + user * vectors.size;
    users.insert(users.end(), first, first + vectors.size);
  }
  const auto ranks =
      rank_all({users, std::ssize(queries.users), vectors.size}, {vectors.items, items, vectors.size}, queries);
  for (const auto& [name, value] : ranking_metrics(ranks, queries))
    metrics[std::string(setting_names[static_cast<std::size_t>(setting)]) + "." + name] = value;
}

double validate(const Vectors& vectors, const Split& split, Setting setting) {
  std::map<std::string, double> metrics;
  evaluate(vectors, split, Part::validation, setting, metrics);
  return metrics[std::string(setting_names[static_cast<std::size_t>(setting)]) + ".ndcg@20"];
}

void print(std::string_view method, std::uint64_t seed, std::int64_t step, double seconds,
           const std::map<std::string, double>& metrics) {
  std::string line = fmt::format("{}\t{}\t{}\t{:.1f}", method, seed, step, seconds);
  for (const std::string_view setting : setting_names) {
    for (const char* metric : {"recall@20", "ndcg@20", "hr@10", "mrr@10"}) {
      const auto found = metrics.find(fmt::format("{}.{}", setting, metric));
      line += found == metrics.end() ? std::string("\t-") : fmt::format("\t{:.4f}", found->second);
    }
  }
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::map<std::string, double> train_ours(const tasks::JobSpec& job, const Config& config, const Dataset& dataset,
                                         const Split& split, const Catalogue& catalogue, std::uint64_t seed,
                                         std::int64_t trace) {
  const Recommender<float> model(config.model, catalogue);
  const std::vector<UserRecord> users = user_records(dataset, split.training());
  std::vector<const UserRecord*> trained;
  for (const UserRecord& user : users)
    if (!user.items.empty()) trained.push_back(&user);
  ChaCha20Random random(RandomKey::from_seed(seed, 3));
  Weights weights;
  weights.values = model.initial_parameters(random);
  weights.rows = 1;
  weights.columns = std::ssize(weights.values);
  for (auto* zeros : {&weights.gradient, &weights.m, &weights.v}) zeros->assign(weights.values.size(), 0.0f);
  const double rate =
      std::min(1.0, static_cast<double>(config.batch_size * job.simulated_sites) / static_cast<double>(trained.size()));
  const double expected = rate * static_cast<double>(trained.size());
  const auto start = std::chrono::steady_clock::now();
  for (std::int64_t step = 1; step <= job.rounds; ++step) {
    std::vector<UserDraw> draws;
    const auto number = (static_cast<std::uint64_t>(step) << 24) + 1;
    for (const UserRecord* user : trained)
      if (random.bernoulli(rate)) draws.push_back(model.draw_user(*user, seed, number));
    model.add_gradient(weights.values, model.draw_step(seed, number), draws, weights.gradient);
    for (float& value : weights.gradient) value /= static_cast<float>(expected);
    weights.update(config.server_learning_rate, config.weight_decay);
    if (trace > 0 && step % trace == 0 && step < job.rounds)
      print("ours", seed, step, seconds_since(start),
            evaluate_model(model, weights.values, split, users, config.evaluated_part));
  }
  return evaluate_model(model, weights.values, split, users, config.evaluated_part);
}

Status run(int count, char** values) {
  TRIB_ASSIGN(const Arguments arguments, parse(count, values));
  TRIB_ASSIGN(const tasks::JobSpec job, tasks::read_job_file(arguments.job, arguments.overrides));
  TRIB_ASSIGN(Config config, config_of(job));
  TRIB_ASSIGN(const Dataset dataset, load_dataset(config, std::filesystem::absolute(arguments.job).parent_path()));
  std::string header = "method\tseed\tsteps\tseconds";
  for (const std::string_view setting : setting_names)
    header += fmt::format("\t{0} recall@20\t{0} ndcg@20\t{0} hr@10\t{0} mrr@10", setting);
  std::printf("%s\n", header.c_str());
  for (const std::uint64_t seed : arguments.seeds) {
    // A seed is a split and a training.
    config.split.seed = 41 + seed;
    TRIB_ASSIGN(const Split split, Split::make(dataset, config.split));
    const Catalogue catalogue = Catalogue::from(dataset, split.available(), config.min_word_count);
    for (const std::string& method : arguments.methods) {
      const auto start = std::chrono::steady_clock::now();
      std::map<std::string, double> metrics;
      std::int64_t steps = job.rounds;
      if (method == "ours") {
        metrics = train_ours(job, config, dataset, split, catalogue, seed, arguments.trace);
      } else {
        BaselineOptions options;
        options.seed = seed;
        options.epochs = arguments.epochs;
        options.patience = arguments.patience;
        const Validation validation{
            .warm = [&](const Vectors& vectors) { return validate(vectors, split, Setting::warm); },
            .cold = [&](const Vectors& vectors) { return validate(vectors, split, Setting::cold_item); }};
        TRIB_ASSIGN(const Vectors vectors, train_baseline(method, options, dataset, split, catalogue, validation));
        steps = vectors.epochs;
        for (const Setting setting : {Setting::warm, Setting::cold_item, Setting::cold_user, Setting::both_cold})
          evaluate(vectors, split, config.evaluated_part, setting, metrics);
      }
      print(method, seed, steps, seconds_since(start), metrics);
    }
  }
  return {};
}

}  // namespace
}  // namespace trib::experiments

int main(int count, char** values) {
  const trib::Status status = trib::experiments::run(count, values);
  if (status) return 0;
  std::fprintf(stderr, "cold_start_compare: %s\n", status.error().message.c_str());
  return 1;
}
