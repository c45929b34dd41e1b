#include "server/metrics.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "server/privacy_figures.h"

namespace trib::server {
namespace {

constexpr std::size_t most_routes = 64;
constexpr std::string_view other_route = "other";

double unix_seconds(WallTime time) {
  return static_cast<double>(time.time_since_epoch().count()) / 1000.0;
}

double days_between(WallTime now, WallTime until) {
  return std::chrono::duration<double, std::ratio<86'400>>(until - now).count();
}

}  // namespace

void Metrics::count_phase(std::string_view phase, double seconds) {
  if (phase == "round") return rounds_.observe(seconds);
  phases_.try_emplace(std::string(phase), round_seconds).first->second.observe(seconds);
}

void Metrics::count_request(std::string_view route, unsigned status, double seconds) {
  const bool is_known = request_times_.contains(route) || request_times_.size() < most_routes;
  const std::string name(is_known ? route : other_route);
  ++requests_[{name, status >= 100 && status < 600 ? status : 0}];
  request_times_.try_emplace(name, request_seconds).first->second.observe(seconds);
}

std::string Metrics::text() const {
  PrometheusText out;
  out.family("tributary_build_info", "gauge", "The running version; always 1.");
  out.sample(1.0, {{"version", TRIBUTARY_VERSION}});
  if (sources_.clock != nullptr)
    out.gauge("tributary_uptime_seconds", "Since the start of the aggregator.",
              std::chrono::duration<double>(sources_.clock->now() - started_).count());
  add_sites(out);
  add_jobs(out);
  add_queues(out);
  add_privacy(out);
  add_requests(out);
  return out.text();
}

void Metrics::add_sites(PrometheusText& out) const {
  if (sources_.sessions != nullptr) {
    out.gauge("tributary_sessions", "Sites that are connected.", static_cast<double>(sources_.sessions->count()));
    const auto& statements = sources_.sessions->statement_counts();
    out.family("tributary_statements_total", "counter", "Privacy statements that sites have sent.");
    out.sample(static_cast<double>(statements.taken), {{"result", "taken"}});
    out.sample(static_cast<double>(statements.refused), {{"result", "refused"}});
  }
  if (sources_.clock == nullptr || sources_.store == nullptr) return;
  const WallTime now = sources_.clock->wall_now();
  const auto all = sources_.store->sites();
  std::vector<SiteRecord> sites;
  std::size_t left_out = 0, revoked = 0;
  for (const SiteRecord& site : all ? *all : std::vector<SiteRecord>{}) {
    if (site.is_operator) continue;
    if (site.revoked) {
      ++revoked;
    } else if (sites.size() < most_metric_sites) {
      sites.push_back(site);
    } else {
      ++left_out;
    }
  }
  out.family("tributary_sites", "gauge", "Sites of the federation.");
  out.sample(static_cast<double>(sites.size() + left_out), {{"state", "enrolled"}});
  out.sample(static_cast<double>(revoked), {{"state", "revoked"}});
  out.gauge("tributary_metrics_sites_left_out", "Sites beyond those that have metrics of their own.",
            static_cast<double>(left_out));
  if (sources_.sessions != nullptr) {
    out.family("tributary_site_connected", "gauge", "Whether the site has a session: 1 or 0.");
    for (const SiteRecord& site : sites)
      out.sample(sources_.sessions->is_connected(site.name) ? 1.0 : 0.0, {{"site", site.name}});
    out.family("tributary_site_last_seen_timestamp_seconds", "gauge",
               "When the site was last connected, Unix time; 0: never.");
    for (const SiteRecord& site : sites) {
      const bool is_here = sources_.sessions->is_connected(site.name);
      out.sample(is_here          ? unix_seconds(now)
                 : site.last_seen ? unix_seconds(*site.last_seen)
                                  : 0.0,
                 {{"site", site.name}});
    }
  }
  out.family("tributary_certificate_days_left", "gauge", "Until a certificate ends; below 0: it has.");
  for (const SiteRecord& site : sites) {
    const auto certificates = sources_.store->certificates(site.name);
    if (certificates && !certificates->empty())
      out.sample(days_between(now, certificates->back().not_after), {{"role", "site"}, {"name", site.name}});
  }
  if (sources_.own_certificates)
    for (const auto& [role, until] : sources_.own_certificates())
      out.sample(days_between(now, until), {{"role", role}, {"name", role}});
}

void Metrics::add_jobs(PrometheusText& out) const {
  if (sources_.coordinator == nullptr) return;
  const CoordinatorFigures figures = sources_.coordinator->figures();
  out.family("tributary_jobs", "gauge", "Jobs by state.");
  for (const auto& [state, count] : figures.jobs_by_state) out.sample(static_cast<double>(count), {{"state", state}});
  out.family("tributary_job_round", "gauge", "Rounds that a running job has committed.");
  for (const auto& job : figures.running) out.sample(static_cast<double>(job.round), {{"job", job.id}});
  out.family("tributary_job_rounds", "gauge", "Rounds that a running job has in all.");
  for (const auto& job : figures.running) out.sample(static_cast<double>(job.rounds_total), {{"job", job.id}});
  out.family("tributary_job_phase", "gauge", "The phase that a running job is in; always 1.");
  for (const auto& job : figures.running) out.sample(1.0, {{"job", job.id}, {"phase", job.state}});
  out.family("tributary_job_sites_waited_for", "gauge", "Sites that a running job waits for.");
  for (const auto& job : figures.running) out.sample(static_cast<double>(job.waited_for), {{"job", job.id}});
  out.family("tributary_round_phase_seconds", "histogram", "How long jobs stayed in a phase.");
  for (const auto& [phase, histogram] : phases_) out.histogram(histogram, {{"phase", phase}});
  out.family("tributary_round_seconds", "histogram", "From a round's opening to its commit.");
  out.histogram(rounds_);
  const auto add_bytes = [&](std::string_view name, std::string_view help, auto value_of) {
    out.family(name, "counter", help);
    std::size_t count = 0;
    double others = 0.0;
    for (const auto& [site, bytes] : figures.bytes_by_site) {
      if (count++ < most_metric_sites) {
        out.sample(value_of(bytes), {{"site", site}});
      } else {
        others += value_of(bytes);
      }
    }
    if (count > most_metric_sites) out.sample(others, {{"site", "_others"}});  // no site's name begins so
  };
  add_bytes("tributary_site_received_bytes_total", "Bytes of jobs that a site has sent, TLS included.",
            [](const auto& bytes) { return static_cast<double>(bytes.up); });
  add_bytes("tributary_site_sent_bytes_total", "Bytes of jobs that a site was sent, TLS included.",
            [](const auto& bytes) { return static_cast<double>(bytes.down); });
}

void Metrics::add_queues(PrometheusText& out) const {
  if (sources_.worker_tasks)
    out.gauge("tributary_worker_tasks", "Pieces of work (aggregating, evaluating, loading) queued or running.",
              static_cast<double>(sources_.worker_tasks()));
  if (sources_.sessions != nullptr) {
    out.gauge("tributary_uploads", "Sites whose contribution is being received.",
              static_cast<double>(sources_.sessions->uploads()));
    out.gauge("tributary_send_queue_messages", "Messages and tensors that wait to be sent to sites.",
              static_cast<double>(sources_.sessions->queued()));
  }
  if (sources_.staging != nullptr) {
    out.family("tributary_staging_bytes", "gauge", "Contributions that are being received.");
    out.sample(static_cast<double>(sources_.staging->memory_in_use()), {{"where", "memory"}});
    out.sample(static_cast<double>(sources_.staging->disk_in_use()), {{"where", "disk"}});
  }
}

void Metrics::add_privacy(PrometheusText& out) const {
  if (sources_.store == nullptr || sources_.plans == nullptr) return;
  const auto figures = privacy_figures(*sources_.store, *sources_.plans);
  out.gauge("tributary_store_error", "1 if the store could not be read for this scrape.", figures ? 0.0 : 1.0);
  if (!figures) return;
  const auto add = [&](std::string_view name, std::string_view type, std::string_view help, auto value_of) {
    out.family(name, type, help);
    std::size_t count = 0;
    for (const auto& [site, sets] : *figures) {
      if (count++ >= most_metric_sites) break;
      for (const auto& [data_set, set] : sets)
        if (const std::optional<double> value = value_of(set))
          out.sample(*value, {{"site", site}, {"data_set", data_set}});
    }
  };
  using Value = std::optional<double>;
  add("tributary_epsilon_spent", "gauge",
      "Privacy loss of a data set over all jobs, as its site last reported; +Inf: it was read without privacy.",
      [](const DataSetPrivacy& set) { return Value(set.is_private ? set.spent : HUGE_VAL); });
  add("tributary_epsilon_budget", "gauge", "The site's own cap for the data set.",
      [](const DataSetPrivacy& set) { return set.budget > 0.0 ? Value(set.budget) : std::nullopt; });
  add("tributary_epsilon_left", "gauge", "What is left of the cap.", [](const DataSetPrivacy& set) {
    return set.budget > 0.0 && set.is_private ? Value(std::max(0.0, set.budget - set.spent)) : std::nullopt;
  });
  add("tributary_epsilon_reserved", "gauge", "What the running jobs would still add by their end.",
      [](const DataSetPrivacy& set) { return set.reserved(); });
  add("tributary_declined_rounds_total", "counter", "Rounds, and jobs as a whole, that the site has declined.",
      [](const DataSetPrivacy& set) { return Value(static_cast<double>(set.declined_total)); });
}

void Metrics::add_requests(PrometheusText& out) const {
  out.family("tributary_http_requests_total", "counter", "Answered HTTP requests.");
  for (const auto& [key, count] : requests_)
    out.sample(static_cast<double>(count), {{"route", key.first}, {"status", std::to_string(key.second)}});
  out.family("tributary_http_request_seconds", "histogram", "How long HTTP requests took.");
  for (const auto& [route, histogram] : request_times_) out.histogram(histogram, {{"route", route}});
}

}  // namespace trib::server
