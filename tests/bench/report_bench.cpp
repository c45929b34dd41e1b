// What the aggregator's privacy report, a site's history and a scrape cost, of a running job with 100 sites and 200
// rounds of which 150 are committed. Processor time is what to read: it is one thread.
#include <benchmark/benchmark.h>

#include <filesystem>

#include "common/net/x509.h"
#include "server/metrics.h"
#include "server/privacy_report.h"
#include "server/sqlite_store.h"

namespace trib::server {
namespace {

constexpr int site_count = 100, committed_rounds = 150;
constexpr const char* job_file = R"([job]
name = "j"
task = "lora_text"
rounds = 200
[data]
set = "letters"
[model]
base = "b"
labels = ["a", "b"]
[training]
batch_size = 16
)";

WallTime minutes(std::int64_t count) {
  return WallTime(std::chrono::minutes(29'000'000 + count));
}

// Every site declares another number of records, so has noise of its own.
std::unique_ptr<SqliteStore> make_store() {
  auto store = SqliteStore::open(":memory:").value();
  const auto issuer = net::CertificateIssuer::create("bench", system_clock());
  JobRecord job;
  job.id = "j-1";
  job.task = "lora_text";
  job.file_text = job_file;
  job.file_name = "job.toml";
  store->create_job(job).value();
  RoundCommit initial;
  initial.job = job.id;
  store->commit_round(initial).value();
  std::vector<std::string> names;
  for (int i = 0; i < site_count; ++i) {
    names.push_back("site-" + std::to_string(i));
    Sha256 secret{};
    secret[0] = static_cast<std::uint8_t>(i);
    const auto key = net::PrivateKey::generate();
    const WallTime now = system_clock().wall_now();
    const auto certificate =
        issuer
            .issue(net::make_certificate_request(key, names.back()),
                   {.common_name = names.back(), .role = "site", .host_names = {}}, now, now + std::chrono::hours(720))
            .value();
    store->put_invite({secret, names.back(), false, minutes(0), std::nullopt, ""}).value();
    store
        ->redeem_invite(secret, key.public_key_sha256(),
                        {certificate.serial(), names.back(), false, certificate.not_after(), certificate.to_pem()},
                        minutes(0))
        .value();
    JobSiteRecord part;
    part.site = names.back();
    part.accepted = true;
    part.declared_records = 4000 + 10 * i;
    part.epsilon_budget = 8.0;
    part.delta = 1e-5;
    store->put_job_site(job.id, part).value();
  }
  for (std::int64_t round = 1; round <= committed_rounds; ++round) {
    store->open_round(job.id, round, 1, names, minutes(round)).value();
    RoundCommit commit;
    commit.job = job.id;
    commit.round = round;
    commit.time = minutes(round);
    commit.contributors = names;
    for (int i = 0; i < site_count; ++i) {
      RoundSiteRecord part{names[static_cast<std::size_t>(i)], RoundSiteStatus::contributed, true, ""};
      part.epsilon_spent = 0.5 + 0.04 * static_cast<double>(round);
      part.epsilon_budget = 8.0;
      part.reported = minutes(round);
      commit.parts.push_back(part);
    }
    store->commit_round(commit).value();
  }
  return store;
}

struct Federation {
  Federation() {
    privacy_report_json(*store, "bench", minutes(500), plans).value();
    plans.wait();
  }
  std::unique_ptr<SqliteStore> store = make_store();
  PrivacyPlans plans;
};

Federation& federation() {
  static Federation made;
  return made;
}

void privacy_report(benchmark::State& state) {
  federation();
  for (auto _ : state)
    benchmark::DoNotOptimize(
        privacy_report_json(*federation().store, "bench", minutes(500), federation().plans).value().size());
}
BENCHMARK(privacy_report)->Unit(benchmark::kMillisecond);

void privacy_history(benchmark::State& state) {
  federation();
  for (auto _ : state)
    benchmark::DoNotOptimize(
        privacy_history_json(*federation().store, "site-42", "letters", minutes(500), federation().plans)
            .value()
            .size());
}
BENCHMARK(privacy_history)->Unit(benchmark::kMillisecond);

void metrics_text(benchmark::State& state) {
  const Sessions sessions;
  Metrics metrics(system_clock());
  MetricsSources sources;
  sources.store = federation().store.get();
  sources.sessions = &sessions;
  sources.clock = &system_clock();
  sources.plans = &federation().plans;
  metrics.set_sources(sources);
  for (auto _ : state) benchmark::DoNotOptimize(metrics.text().size());
}
BENCHMARK(metrics_text)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace trib::server

BENCHMARK_MAIN();
