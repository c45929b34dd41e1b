#include "cli/audit.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <memory>

#include "tasks/task.h"

namespace trib::cli {
namespace {

constexpr std::uint64_t canary_stream = 3;  // of a seed; run_simulation() has the others

// The auditor: puts the canaries in, and watches from the aggregator's place.
class Auditor {
 public:
  explicit Auditor(const AuditOptions& options)
      : options_(options), site_("site-" + std::to_string(options.site)), scores_(count()) {}

  Status insert(const tasks::JobSpec& job, const tasks::AggregatorContext& aggregator,
                std::vector<tasks::TaskDefinition::SiteData>& data) {
    const auto site_count = static_cast<std::int64_t>(data.size());
    if (options_.site > site_count) {
      return Error{Errc::invalid_argument, fmt::format("site {} cannot be audited: the job is simulated with {} sites",
                                                       options_.site, site_count)};
    }
    TRIB_ASSIGN(const tasks::TaskDefinition* task, tasks::find_task(job.task));
    const auto seed =
        options_.simulation.seed ? options_.simulation.seed : (job.seed != 0 ? std::optional(job.seed) : std::nullopt);
    ChaCha20Random random(seed ? RandomKey::from_seed(*seed, canary_stream) : RandomKey::from_system());
    TRIB_ASSIGN(canaries_, task->make_canaries(job, aggregator, options_.canaries, random));
    for (std::size_t i = 0; i < count(); ++i) included_.push_back(random.bernoulli(0.5));

    tasks::TaskDefinition::SiteData& site = data[static_cast<std::size_t>(options_.site - 1)];
    TRIB_TRY(canaries_->add_to(site.file, included_));
    site.records += options_.canaries / 2;
    job_ = job;
    is_seeded_ = seed.has_value();
    declared_records_ = site.records;
    return {};
  }

  Status watch(const SimulatedContribution& contribution) {
    if (contribution.site != site_) return {};
    TRIB_ASSIGN(const std::vector<double> scores, canaries_->score(contribution.constants, contribution.broadcast,
                                                                   contribution.tensors, contribution.weight));
    for (std::size_t i = 0; i < count(); ++i) scores_[i] += scores.at(i);
    ++contributions_;
    return {};
  }

  Result<AuditResult> judge(const std::string& report, const std::vector<std::int64_t>& numbers_of_guesses) const {
    const boost::json::value document = boost::json::parse(report);
    if (document.at("state").as_string() != "finished") {
      return Error{Errc::internal, fmt::format("the audited job {}: {}", document.at("state").as_string().c_str(),
                                               document.at("reason").as_string().c_str())};
    }
    if (contributions_ == 0)
      return Error{Errc::internal, fmt::format("{} contributed to no round, so there is nothing to audit", site_)};

    AuditResult result;
    result.job = job_.name;
    result.site = site_;
    result.declared_records = declared_records_;
    result.included = std::ranges::count(included_, true);
    result.contributions = contributions_;
    result.is_private = job_.privacy.enabled;
    result.is_seeded = is_seeded_;
    result.confidence = options_.confidence;
    result.delta = job_.privacy.delta;
    if (result.is_private) {
      for (const boost::json::value& client : document.at("clients").as_array())
        if (client.at("name").as_string() == site_)
          result.epsilon_reported = client.at("epsilon_spent").to_number<double>();
    }
    const double share = (1.0 - options_.confidence) / static_cast<double>(numbers_of_guesses.size());
    for (const std::int64_t guesses : numbers_of_guesses) {
      AuditResult::Attempt attempt{privacy::guess_membership(scores_, included_, guesses)};
      attempt.epsilon = privacy::audit_epsilon_lower_bound(attempt.guesses, result.delta, 1.0 - share);
      attempt.attainable = privacy::audit_epsilon_lower_bound(
          {attempt.guesses.canaries, attempt.guesses.guesses, attempt.guesses.guesses}, result.delta, 1.0 - share);
      result.epsilon_attainable = std::max(result.epsilon_attainable, attempt.attainable);
      result.epsilon_lower_bound = std::max(result.epsilon_lower_bound, attempt.epsilon);
      result.attempts.push_back(attempt);
    }
    return result;
  }

 private:
  std::size_t count() const { return static_cast<std::size_t>(options_.canaries); }

  const AuditOptions& options_;
  std::string site_;
  tasks::JobSpec job_;
  std::unique_ptr<tasks::Canaries> canaries_;
  std::vector<bool> included_;
  std::vector<double> scores_;  // summed over the rounds
  std::int64_t contributions_ = 0, declared_records_ = 0;
  bool is_seeded_ = false;
};

}  // namespace

Result<AuditResult> run_audit(const AuditOptions& options) {
  if (options.site < 1 || options.canaries < 2 || !(options.confidence > 0.0 && options.confidence < 1.0)) {
    return Error{Errc::invalid_argument,
                 fmt::format("an audit needs a site from 1 on, at least 2 canaries and a confidence between 0 and 1; "
                             "these are {}, {} and {}",
                             options.site, options.canaries, options.confidence)};
  }
  std::vector<std::int64_t> numbers_of_guesses = options.guesses;
  if (numbers_of_guesses.empty()) numbers_of_guesses.push_back(std::max<std::int64_t>(1, options.canaries / 2));
  for (const std::int64_t guesses : numbers_of_guesses) {
    if (guesses < 1 || guesses > options.canaries) {
      return Error{Errc::invalid_argument,
                   fmt::format("{} guesses are asked for; with {} canaries there can be 1 to {}", guesses,
                               options.canaries, options.canaries)};
    }
  }
  SimulationOptions simulation = options.simulation;
  TRIB_ASSIGN(const tasks::JobSpec job, tasks::read_job_file(simulation.job_file, simulation.overrides));
  TRIB_ASSIGN(const tasks::TaskDefinition* task, tasks::find_task(job.task));
  if (!task->canary_overrides || !task->make_canaries)
    return Error{Errc::unsupported, fmt::format("task '{}' has no canaries to audit a job with", job.task)};
  TRIB_ASSIGN(const std::vector<std::string> overrides, task->canary_overrides(job, options.canaries));
  simulation.overrides.insert(simulation.overrides.end(), overrides.begin(), overrides.end());

  Auditor auditor(options);
  simulation.on_data = [&](const auto& job, const auto& aggregator, auto& data) {
    return auditor.insert(job, aggregator, data);
  };
  simulation.on_contribution = [&](const SimulatedContribution& contribution) { return auditor.watch(contribution); };
  TRIB_ASSIGN(const std::string report, run_simulation(simulation));
  return auditor.judge(report, numbers_of_guesses);
}

}  // namespace trib::cli
