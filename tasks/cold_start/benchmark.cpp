#include "tasks/cold_start/benchmark.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <set>

#include "privacy/cohort.h"
#include "tasks/cold_start/halves.h"
#include "tasks/cold_start/ranking.h"

namespace trib::tasks::cold_start {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

double resident_bytes() {
  std::ifstream file("/proc/self/statm");
  double pages = 0.0;
  file >> pages >> pages;
  return pages * static_cast<double>(::sysconf(_SC_PAGESIZE));
}

double time_ranking(const RecommendBenchmarkRequest& request, RandomSource& random, Progress& progress) {
  std::vector<float> users(static_cast<std::size_t>(request.users * request.size));
  std::vector<float> items(static_cast<std::size_t>(request.items * request.size));
  models::fill_normal(std::span<float>(users), 1.0, random);
  models::fill_normal(std::span<float>(items), 1.0, random);
  RankingQueries queries;
  queries.candidate.assign(static_cast<std::size_t>(request.items), 1);
  for (std::int32_t user = 0; user < request.users; ++user) {
    std::set<std::int32_t> relevant, excluded;
    for (std::int64_t i = 0; i < request.relevant; ++i) {
      relevant.insert(static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(request.items))));
      const auto other = static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(request.items)));
      if (!relevant.contains(other)) excluded.insert(other);
    }
    queries.users.push_back(user);
    queries.relevant.emplace_back(relevant.begin(), relevant.end());
    queries.excluded.emplace_back(excluded.begin(), excluded.end());
  }
  std::vector<double> times;
  for (int run = 0; run < 5 && !progress.cancelled(); ++run) {
    const auto start = Clock::now();
    const auto ranks = rank_all({users, request.users, request.size}, {items, request.items, request.size}, queries);
    const auto metrics = ranking_metrics(ranks, queries);
    times.push_back(seconds_since(start));
    progress.fraction("ranking", (run + 1) / 5.0);
  }
  return times.empty() ? 0.0 : median(times);
}

Status time_round(const RecommendBenchmarkRequest& request, Progress& progress,
                  std::map<std::string, double>& figures) {
  TRIB_ASSIGN(const JobSpec job,
              read_job_text(
                  "[job]\nname = \"bench\"\ntask = \"cold_start\"\nrounds = 1\n"
                  "[catalogue]\nusers = 2000\nitems = " +
                      std::to_string(request.items) +
                      "\ninteractions_per_user = 60\n[model]\nnegatives = 256\nsize = " + std::to_string(request.size) +
                      "\n[training]\nbatch_size = 1\n[simulate]\none_user_a_site = true\n[selection]\n"
                      "order = \"poisson\"\nclients_per_round = 1000\nexpected_clients = 10000\n"
                      "[privacy]\nnoise_by = \"aggregator\"\n[evaluation]\nenabled = false\n",
                  "benchmark"));
  TRIB_ASSIGN(const Config config, config_of(job));
  TRIB_ASSIGN(const Dataset dataset, load_dataset(config, {}));
  TRIB_ASSIGN(const Split split, Split::make(dataset, config.split));
  const Catalogue catalogue = Catalogue::from(dataset, split.available(), config.min_word_count);
  const Recommender<float> model(config.model, catalogue);
  ChaCha20Random random(RandomKey::from_seed(3));
  const std::vector<float> parameters = model.initial_parameters(random);
  const std::vector<UserRecord> users = user_records(dataset, split.training());

  TRIB_ASSIGN(const auto ledger, privacy::Ledger::in_memory({{"default", 1e9, 1e-5}}, system_clock()));
  TRIB_ASSIGN(const privacy::Mechanism mechanism, privacy::cohort_mechanism({.epsilon = 8.0,
                                                                             .delta = 1e-5,
                                                                             .population = 10'000,
                                                                             .expected_cohort = 1000,
                                                                             .rounds = 1,
                                                                             .clip_norm = 1.0}));
  const privacy::Charge charge{.job = "bench",
                               .round = 1,
                               .data_set = "default",
                               .declared_records = 10'000,
                               .target_delta = 1e-5,
                               .mechanism = mechanism};
  const TensorSchema schema = parameter_schema(model.layout());
  const auto start = Clock::now();
  TRIB_ASSIGN(const auto sum,
              privacy::CohortSum::open(*ledger, charge, RandomKey::from_system(), schema, kernels::cpu_device()));
  std::vector<double> clients;
  double early = resident_bytes();
  const StepDraw step = model.draw_step(0, 1);
  for (std::int64_t client = 0; client < request.clients; ++client) {
    if (progress.cancelled()) return Error{Errc::cancelled, "the benchmark was cancelled"};
    const auto began = Clock::now();
    const UserDraw draw = model.draw_user(users[static_cast<std::size_t>(client) % users.size()], 0, 1);
    std::vector<float> gradient(parameters.size(), 0.0f);
    model.add_gradient(parameters, step, std::span(&draw, 1), gradient);
    const TensorMap contribution = to_tensors(gradient, model.layout());
    clients.push_back(seconds_since(began));
    TRIB_TRY(sum->add(contribution));
    if (client == 49) early = resident_bytes();
    if (client % 50 == 0)
      progress.fraction("cross-device round", static_cast<double>(client) / static_cast<double>(request.clients));
  }
  const double late = resident_bytes();
  TRIB_ASSIGN(const TensorMap released, sum->release());
  figures["round_seconds"] = seconds_since(start);
  figures["client_seconds"] = median(clients);
  figures["clients"] = static_cast<double>(request.clients);
  figures["contribution_bytes"] = static_cast<double>(schema.byte_count());
  figures["memory_growth_bytes"] = late - early;
  return {};
}

}  // namespace

Result<std::map<std::string, double>> benchmark_recommend(const RecommendBenchmarkRequest& request,
                                                          Progress& progress) {
  std::map<std::string, double> figures;
  ChaCha20Random random(RandomKey::from_seed(1));
  figures["users"] = static_cast<double>(request.users);
  figures["items"] = static_cast<double>(request.items);
  figures["ranking_seconds"] = time_ranking(request, random, progress);
  TRIB_TRY(time_round(request, progress, figures));
  return figures;
}

}  // namespace trib::tasks::cold_start
