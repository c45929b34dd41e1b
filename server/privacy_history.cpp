// What a data set has spent round by round, and where it is going.
#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include "privacy/accountant.h"
#include "server/privacy_figures.h"
#include "server/privacy_report.h"

namespace trib::server {
namespace {

namespace json = boost::json;

constexpr std::size_t most_projected = 400;

json::value number_or_null(double value) {
  return std::isfinite(value) ? json::value(value) : json::value(nullptr);
}

json::value mechanism_json(const std::optional<privacy::Mechanism>& mechanism) {
  if (!mechanism) return nullptr;
  return json::object{{"sample_rate", mechanism->sample_rate},
                      {"noise_multiplier", mechanism->noise_multiplier},
                      {"steps", mechanism->steps},
                      {"clip_norm", mechanism->clip_norm},
                      {"noise", to_string(mechanism->noise)}};
}

struct Point {
  std::string job;
  std::int64_t round = 0;
  WallTime time{};
  bool took_part = false, is_private = true, declined = false;
  std::optional<double> reported;
  std::optional<privacy::Mechanism> mechanism;
  std::string reason;
};

Result<std::vector<Point>> read_points(Store& store, PrivacyPlans& plans, std::string_view site,
                                       std::string_view data_set) {
  struct Part {
    bool is_private = true;
    std::optional<privacy::Mechanism> mechanism;
  };
  std::map<std::string, Part> parts;  // by job: of those on this data set alone
  std::vector<Point> points;
  TRIB_ASSIGN(const auto jobs, store.jobs());
  for (const JobRecord& job : jobs) {
    const auto spec = plans.spec(job);
    if (spec == nullptr || spec->data_set != data_set) continue;
    TRIB_ASSIGN(const auto job_sites, store.job_sites(job.id));
    const auto part = std::find_if(job_sites.begin(), job_sites.end(), [&](const auto& p) { return p.site == site; });
    if (part == job_sites.end()) continue;
    parts[job.id] = {spec->noise_at_sites(), plans.mechanism(job, part->declared_records)};
    if (part->declined_reason.empty()) continue;
    Point refusal;
    refusal.job = job.id;
    refusal.time = part->declined.value_or(job.ended.value_or(job.submitted));
    refusal.declined = true;
    refusal.reason = part->declined_reason;
    points.push_back(std::move(refusal));
  }
  if (parts.empty())
    return Error{Errc::not_found,
                 fmt::format("no job has used a data set '{}' at a site '{}' of this federation", data_set, site)};
  TRIB_ASSIGN(const auto rounds, store.site_rounds(site));
  for (const SiteRoundRecord& record : rounds) {
    const auto found = parts.find(record.job);
    const RoundSiteRecord& part = record.part;
    const bool declined = part.status == RoundSiteStatus::declined;
    if (found == parts.end() || !(declined || part.took_part)) continue;
    Point point{.job = record.job,
                .round = record.round,
                .time = declined ? part.declined.value_or(record.opened) : part.reported.value_or(record.opened),
                .took_part = part.took_part,
                .is_private = found->second.is_private,
                .declined = declined,
                .reported = part.reported ? std::optional(part.epsilon_spent) : std::nullopt,
                .mechanism = part.took_part ? found->second.mechanism : std::nullopt,
                .reason = part.reason};
    points.push_back(std::move(point));
  }
  std::stable_sort(points.begin(), points.end(), [](const Point& a, const Point& b) { return a.time < b.time; });
  return points;
}

// What the rounds come to, one after the other.
class Account {
 public:
  explicit Account(double delta) : delta_(delta) {}
  // A report counts as it is; between reports grows what the mechanisms add, which composes with all before them.
  void add(const Point& point) {
    if (point.took_part && !point.is_private) epsilon_ = std::numeric_limits<double>::infinity();
    if (point.mechanism) grow(*point.mechanism);
    if (point.reported) epsilon_ = *point.reported;
  }
  void grow(const privacy::Mechanism& mechanism) {
    curve_.add(mechanism);
    const double composed = delta_ > 0.0 ? curve_.epsilon(delta_) : 0.0;
    epsilon_ += std::max(0.0, composed - composed_);
    composed_ = composed;
  }
  double epsilon() const { return epsilon_; }

 private:
  double delta_;
  privacy::RdpCurve curve_;
  double composed_ = 0.0;  // of the curve
  double epsilon_ = 0.0;
};

json::array points_json(const std::vector<Point>& points, Account& account) {
  json::array list;
  double before = 0.0;
  for (const Point& point : points) {
    account.add(point);
    const double epsilon = account.epsilon();
    const double cost = std::isfinite(before) ? std::max(0.0, epsilon - before) : 0.0;
    list.push_back(json::object{{"job", point.job},
                                {"round", point.round},
                                {"time", to_iso8601(point.time)},
                                {"epsilon", number_or_null(epsilon)},
                                {"cost", number_or_null(cost)},
                                {"mechanism", mechanism_json(point.mechanism)},
                                {"declined", point.declined},
                                {"reason", point.reason}});
    before = epsilon;
  }
  return list;
}

struct Projection {
  json::array points;
  std::string ends;
};

// The rounds that are left of all running jobs, each job's at an even pace.
Projection project(const DataSetPrivacy& set, std::string_view data_set, Account account) {
  if (!set.is_private)
    return {{}, fmt::format("Data set '{}' was read without privacy: no epsilon bounds what was released.", data_set)};
  if (set.running.empty()) return {{}, "No running job will spend more of it."};
  struct Round {
    double pace = 0.0;
    const RunningPart* part = nullptr;
    std::int64_t round = 0;
  };
  std::vector<Round> rounds;
  std::int64_t total = 0;
  std::string names;
  for (const RunningPart& part : set.running) {
    if (!part.round) return {{}, fmt::format("What a round of {} costs is being worked out, or cannot be.", part.job)};
    total += part.rounds_left;
    names += (names.empty() ? "" : ", ") + part.job;
  }
  // Very long jobs are taken in strides.
  const std::int64_t stride =
      (total + static_cast<std::int64_t>(most_projected) - 1) / static_cast<std::int64_t>(most_projected);
  for (const RunningPart& part : set.running)
    for (std::int64_t done = std::min(stride, part.rounds_left); done > 0;
         done = done == part.rounds_left ? 0 : std::min(done + stride, part.rounds_left))
      rounds.push_back({static_cast<double>(done) / static_cast<double>(part.rounds_left), &part, done});
  std::stable_sort(rounds.begin(), rounds.end(), [](const Round& a, const Round& b) { return a.pace < b.pace; });
  Projection projection;
  std::map<const RunningPart*, std::int64_t> reached;
  for (const Round& round : rounds) {
    privacy::Mechanism mechanism = *round.part->round;
    mechanism.steps *= round.round - std::exchange(reached[round.part], round.round);
    account.grow(mechanism);
    const std::int64_t number = round.part->next_round + round.round - 1;
    if (set.budget > 0.0 && account.epsilon() > set.budget * (1.0 + 1e-9)) {
      projection.ends =
          fmt::format("The cap of epsilon {:.4g} will be reached: the site declines {} from about round {} on.",
                      set.budget, round.part->job, number);
      return projection;
    }
    projection.points.push_back(
        json::object{{"job", round.part->job}, {"round", number}, {"epsilon", number_or_null(account.epsilon())}});
  }
  projection.ends = fmt::format("At most {} more round{} of {}: epsilon {:.3f} at the end", total,
                                total == 1 ? "" : "s", names, account.epsilon());
  projection.ends += set.budget > 0.0 ? fmt::format(", of a cap of {:.4g}.", set.budget) : ".";
  return projection;
}

}  // namespace

Result<std::string> privacy_history_json(Store& store, std::string_view site, std::string_view data_set, WallTime now,
                                         PrivacyPlans& plans) {
  TRIB_ASSIGN(const auto points, read_points(store, plans, site, data_set));
  TRIB_ASSIGN(PrivacyFigures figures, privacy_figures(store, plans, site));
  DataSetPrivacy& set = figures[std::string(site)][std::string(data_set)];
  // A round that the site takes part in and has not reported yet is among the points already.
  for (RunningPart& part : set.running) {
    const bool is_point = std::any_of(points.begin(), points.end(), [&](const Point& point) {
      return point.job == part.job && point.round == part.next_round && point.took_part;
    });
    if (is_point) ++part.next_round, --part.rounds_left;
  }
  std::erase_if(set.running, [](const RunningPart& part) { return part.rounds_left <= 0; });
  Account account(set.delta);
  json::array list = points_json(points, account);
  Projection projection = project(set, data_set, account);
  return json::serialize(json::object{{"site", site},
                                      {"data_set", data_set},
                                      {"time", to_iso8601(now)},
                                      {"delta", set.delta > 0.0 ? json::value(set.delta) : json::value(nullptr)},
                                      {"epsilon_budget", set.budget > 0.0 ? number_or_null(set.budget) : nullptr},
                                      {"epsilon_spent", set.is_private ? number_or_null(set.spent) : nullptr},
                                      {"points", std::move(list)},
                                      {"projection", std::move(projection.points)},
                                      {"ends", std::move(projection.ends)}});
}

}  // namespace trib::server
