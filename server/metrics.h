// What the aggregator counts, for Prometheus. Nothing here is computed from records: epsilons are what sites report.
//
// Cardinality is bounded: sites by most_metric_sites (the rest is counted in tributary_metrics_sites_left_out), jobs by
// those that run, routes by those that the API has; nothing that a peer chooses freely is a label.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/prometheus.h"
#include "server/coordinator.h"
#include "server/privacy_plans.h"
#include "server/session.h"
#include "server/staging.h"
#include "server/store.h"

namespace trib::server {

inline constexpr std::size_t most_metric_sites = 1000;

// Where the figures come from; all of it outlives the metrics. Null: those metrics are left out.
struct MetricsSources {
  const Coordinator* coordinator = nullptr;
  const Sessions* sessions = nullptr;
  const Staging* staging = nullptr;
  Store* store = nullptr;
  const Clock* clock = nullptr;
  PrivacyPlans* plans = nullptr;
  std::function<std::size_t()> worker_tasks;                                        // queued or running
  std::function<std::vector<std::pair<std::string, WallTime>>()> own_certificates;  // "aggregator", "ca": until when
};

// Not thread-safe: every call comes on the aggregator's executor.
class Metrics {
 public:
  explicit Metrics(const Clock& clock) : started_(clock.now()) {}
  void set_sources(MetricsSources sources) { sources_ = std::move(sources); }

  // CoordinatorOptions::on_phase.
  void count_phase(std::string_view phase, double seconds);
  // One answered HTTP request. `route` is the API's pattern ("/api/v1/jobs/{id}"), never the path that was asked for.
  void count_request(std::string_view route, unsigned status, double seconds);

  // The whole exposition. Reads the store: some milliseconds for a hundred sites.
  std::string text() const;

 private:
  void add_sites(PrometheusText& out) const;
  void add_jobs(PrometheusText& out) const;
  void add_queues(PrometheusText& out) const;
  void add_privacy(PrometheusText& out) const;
  void add_requests(PrometheusText& out) const;

  MetricsSources sources_;
  MonotonicTime started_;
  std::map<std::string, Histogram, std::less<>> phases_;
  Histogram rounds_{round_seconds};
  std::map<std::pair<std::string, unsigned>, std::uint64_t> requests_;
  std::map<std::string, Histogram, std::less<>> request_times_;
};

}  // namespace trib::server
