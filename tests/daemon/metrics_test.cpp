#include "server/metrics.h"

#include <gmock/gmock.h>

#include "server/sqlite_store.h"
#include "tests/common/prometheus_checker.h"
#include "tests/server/coordinator_fixture.h"

namespace trib::server {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr const char* private_job = R"([job]
name = "j"
task = "lora_text"
rounds = 5
[data]
set = "letters"
[privacy]
epsilon = 8.0
delta = 1e-5
[model]
base = "b"
labels = ["a", "b"]
[training]
batch_size = 16
learning_rate = 0.5
)";

class MetricsTest : public testing::CoordinatorTest {
 protected:
  MetricsTest() {
    MetricsSources sources;
    sources.store = &store_;
    sources.sessions = &sessions_;
    sources.clock = &clock_;
    sources.plans = &plans_;
    sources.worker_tasks = [] { return std::size_t{3}; };
    sources.own_certificates = [this] {
      return std::vector<std::pair<std::string, WallTime>>{{"ca", clock_.wall_now() + std::chrono::hours(240)}};
    };
    metrics_.set_sources(sources);
  }
  void enrol(const std::string& site, std::uint8_t number) {
    Sha256 secret{};
    secret.fill(number);
    ASSERT_TRUE(store_.put_invite({secret, site, false, clock_.wall_now(), std::nullopt, ""}));
    ASSERT_TRUE(store_.redeem_invite(
        secret, secret, {std::to_string(number), site, false, clock_.wall_now() + std::chrono::hours(36), "PEM"},
        clock_.wall_now()));
  }
  // A running job on "letters" at `site`, which has reported this.
  void add_private_job(const std::string& site, double spent, double budget) {
    JobRecord job;
    job.id = "j-1";
    job.task = "lora_text";
    job.file_text = private_job;
    job.file_name = "job.toml";
    ASSERT_TRUE(store_.create_job(job));
    JobSiteRecord part;
    part.site = site;
    part.accepted = true;
    part.declared_records = 5000;
    part.epsilon_spent = spent;
    part.epsilon_budget = budget;
    part.delta = 1e-5;
    part.reported = clock_.wall_now();
    ASSERT_TRUE(store_.put_job_site("j-1", part));
  }
  test::Exposition read() {
    auto exposition = test::read_exposition(metrics_.text());
    EXPECT_THAT(exposition.problems, IsEmpty());
    return exposition;
  }

  Sessions sessions_;
  PrivacyPlans plans_;
  Metrics metrics_{clock_};
};

TEST_F(MetricsTest, AreWhatPrometheusReadsEvenOfAnEmptyFederation) {
  const auto exposition = read();
  EXPECT_EQ(exposition.value("tributary_sessions"), 0.0);
  EXPECT_EQ(exposition.value("tributary_worker_tasks"), 3.0);
  EXPECT_EQ(exposition.value("tributary_store_error"), 0.0);
}

TEST_F(MetricsTest, TellEpsilonAndCertificatesOfEverySite) {
  enrol("clinic-7", 1);
  add_private_job("clinic-7", 1.5, 8.0);
  ASSERT_TRUE(store_.open_round("j-1", 1, 1, {"clinic-7"}, clock_.wall_now()));
  ASSERT_TRUE(store_.set_round_site("j-1", 1, {"clinic-7", RoundSiteStatus::declined, false, "over its cap"}));
  const std::map<std::string, std::string> set{{"site", "clinic-7"}, {"data_set", "letters"}};
  const auto exposition = read();
  EXPECT_EQ(exposition.value("tributary_epsilon_spent", set), 1.5);
  EXPECT_EQ(exposition.value("tributary_epsilon_budget", set), 8.0);
  EXPECT_EQ(exposition.value("tributary_epsilon_left", set), 6.5);
  EXPECT_EQ(exposition.value("tributary_declined_rounds_total", set), 1.0);
  EXPECT_EQ(exposition.value("tributary_certificate_days_left", {{"name", "clinic-7"}}), 1.5);
  EXPECT_EQ(exposition.value("tributary_certificate_days_left", {{"role", "ca"}}), 10.0);
  EXPECT_EQ(exposition.value("tributary_site_connected", {{"site", "clinic-7"}}), 0.0);
  EXPECT_EQ(exposition.value("tributary_sites", {{"state", "enrolled"}}), 1.0);
  plans_.wait();
  EXPECT_GT(read().value("tributary_epsilon_reserved", set), 0.5);
}

TEST_F(MetricsTest, FollowAJobThroughItsPhases) {
  spec_.selection.expected_clients = 2;
  auto options = testing::counting_options(spec_, site_count);
  options.on_phase = [this](std::string_view phase, double seconds) { metrics_.count_phase(phase, seconds); };
  coordinator_ = std::make_unique<Coordinator>(store_, files_, tasks::AggregatorContext{}, clock_, random_, transport_,
                                               queue_, options);
  ASSERT_TRUE(coordinator_->resume());
  MetricsSources sources;
  sources.coordinator = coordinator_.get();
  metrics_.set_sources(sources);
  job_ = coordinator_->submit_job("[job]", "job.toml").value();
  work();
  join(1);
  join(2);
  coordinator_->account_bytes(name(1), job_, 1, 70, 30);
  pass(std::chrono::seconds(4));
  const auto open = read();
  EXPECT_EQ(open.value("tributary_jobs", {{"state", "running"}}), 1.0);
  EXPECT_EQ(open.value("tributary_job_sites_waited_for", {{"job", job_}}), 2.0);
  EXPECT_EQ(open.value("tributary_site_received_bytes_total", {{"site", name(1)}}), 30.0);
  ASSERT_TRUE(contribute(1, 1));
  ASSERT_TRUE(contribute(2, 1));
  const auto committed = read();
  EXPECT_EQ(committed.value("tributary_job_round", {{"job", job_}}), 1.0);
  EXPECT_EQ(committed.value("tributary_round_seconds_count"), 1.0);
  EXPECT_EQ(committed.value("tributary_round_seconds_sum"), 4.0);
  EXPECT_EQ(committed.value("tributary_round_phase_seconds_sum", {{"phase", "collecting"}}), 4.0);
  ASSERT_TRUE(contribute(1, 2));
  ASSERT_TRUE(contribute(2, 2));
  const auto ended = read();
  EXPECT_EQ(ended.value("tributary_jobs", {{"state", "finished"}}), 1.0);
  EXPECT_THAT(metrics_.text(), Not(HasSubstr("tributary_job_round{"))) << "a series of an ended job stays for ever";
}

TEST_F(MetricsTest, CountRequestsByRouteAndNeverByWhatAPeerChooses) {
  metrics_.count_request("/api/v1/jobs/{id}", 200, 0.004);
  metrics_.count_request("/api/v1/jobs/{id}", 200, 0.2);
  metrics_.count_request("/api/v1/jobs/{id}", 404, 0.001);
  for (int i = 0; i < 1000; ++i) metrics_.count_request(std::to_string(i), 999, 0.0);
  const auto exposition = read();
  EXPECT_EQ(exposition.value("tributary_http_requests_total", {{"route", "/api/v1/jobs/{id}"}, {"status", "200"}}),
            2.0);
  EXPECT_EQ(exposition.value("tributary_http_request_seconds_count", {{"route", "/api/v1/jobs/{id}"}}), 3.0);
  std::size_t series = 0;
  for (const auto& sample : exposition.samples) series += sample.name == "tributary_http_requests_total";
  EXPECT_LE(series, 70u);
}

TEST_F(MetricsTest, PassOverAJobThatThisProgramCannotRead) {
  JobRecord job;
  job.id = "j";
  job.file_text = "of an older program";
  ASSERT_TRUE(store_.create_job(job));
  EXPECT_EQ(read().value("tributary_store_error"), 0.0);
}

}  // namespace
}  // namespace trib::server
