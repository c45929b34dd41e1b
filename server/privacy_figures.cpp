#include "server/privacy_figures.h"

#include <algorithm>
#include <cmath>

#include "privacy/accountant.h"

namespace trib::server {
namespace {

void take_report(DataSetPrivacy& set, double spent, double budget, const std::optional<WallTime>& reported) {
  if (!std::isfinite(spent)) set.is_private = false;
  if (reported) {
    if (set.reported && *reported < *set.reported) return;
    set.reported = reported;
    set.spent = spent;
  } else if (!set.reported) {
    set.spent = std::max(set.spent, spent);  // of an older store: a ledger only grows
  }
  if (budget > 0.0) set.budget = budget;
}

void add_declined(DataSetPrivacy& set, DeclinedRound round) {
  ++set.declined_total;
  set.declined.push_back(std::move(round));
  if (set.declined.size() > most_declined_listed) set.declined.erase(set.declined.begin());
}

struct OpenPart {
  bool took_part = false, has_reported = false, has_declined = false;
};

class Reader {
 public:
  Reader(Store& store, PrivacyPlans& plans, std::string_view only_site)
      : store_(store), plans_(plans), only_site_(only_site) {}

  Status add(const JobRecord& job) {
    const auto spec = plans_.spec(job);
    if (spec == nullptr) return {};  // of an older program; what a later job reported covers its spending
    TRIB_ASSIGN(const auto participations, store_.participations(job.id));
    TRIB_ASSIGN(const auto parts, store_.job_sites(job.id));
    TRIB_ASSIGN(const auto declined, store_.declined_rounds(job.id));
    std::int64_t committed = 0;
    std::map<std::string, OpenPart> open;
    std::vector<RoundSiteRecord> reports;
    if (job.state == JobState::running) {
      TRIB_ASSIGN(const auto rounds, store_.rounds(job.id));
      for (const RoundRecord& round : rounds)
        if (round.committed) committed = std::max(committed, round.round);
      if (!rounds.empty() && !rounds.back().committed) {
        TRIB_ASSIGN(reports, store_.round_sites(job.id, rounds.back().round));
        for (const RoundSiteRecord& part : reports)
          open[part.site] = {part.took_part, part.reported.has_value(), part.status == RoundSiteStatus::declined};
      }
    }
    for (const JobSiteRecord& part : parts) {
      if (!is_wanted(part.site)) continue;
      DataSetPrivacy& set = figures_[part.site][spec->data_set];
      const auto found = participations.find(part.site);
      const std::int64_t rounds = found == participations.end() ? 0 : found->second;
      set.jobs.push_back(job.id);
      set.rounds += rounds;
      if (rounds > 0) set.is_private = set.is_private && spec->noise_at_sites();
      if (part.declared_records > 0) set.declared_records = part.declared_records;
      take_report(set, part.epsilon_spent, part.epsilon_budget, part.reported);
      if (part.delta > 0.0) {
        set.delta = part.delta;
      } else if (set.delta == 0.0 && spec->noise_at_sites()) {
        set.delta = spec->privacy.delta;
      }
      if (!part.declined_reason.empty()) add_declined(set, {job.id, 0, part.declined_reason, part.declined});
      if (spec->noise_at_sites()) add_charges(job, *spec, part, rounds, committed, open[part.site], set);
    }
    for (const RoundSiteRecord& part : reports)
      if (part.reported && is_wanted(part.site))
        take_report(figures_[part.site][spec->data_set], part.epsilon_spent, part.epsilon_budget, part.reported);
    for (const SiteRoundRecord& round : declined)
      if (is_wanted(round.part.site))
        add_declined(figures_[round.part.site][spec->data_set],
                     {job.id, round.round, round.part.reason, round.part.declined});
    return {};
  }

  PrivacyFigures take() { return std::move(figures_); }

 private:
  bool is_wanted(const std::string& site) const { return only_site_.empty() || site == only_site_; }

  void add_charges(const JobRecord& job, const tasks::JobSpec& spec, const JobSiteRecord& part, std::int64_t rounds,
                   std::int64_t committed, const OpenPart& open, DataSetPrivacy& set) {
    const bool is_running = job.state == JobState::running && part.accepted && part.declined_reason.empty();
    if (rounds == 0 && !is_running) return;
    const auto mechanism = plans_.mechanism(job, part.declared_records);
    const bool is_unreported = is_running && open.took_part && !open.has_reported;
    const std::int64_t charged = rounds - (is_unreported ? 1 : 0);
    if (mechanism && charged > 0) {
      set.charged.push_back(*mechanism);
      set.charged.back().steps *= charged;
    }
    if (!is_running) return;
    const bool open_is_over = (open.took_part && open.has_reported) || open.has_declined;
    const std::int64_t left =
        std::min(spec.max_participations() - charged, spec.rounds - committed - (open_is_over ? 1 : 0));
    if (left <= 0) return;
    set.running.push_back({job.id, mechanism, left, committed + (open_is_over ? 2 : 1)});
  }

  Store& store_;
  PrivacyPlans& plans_;
  std::string_view only_site_;
  PrivacyFigures figures_;
};

}  // namespace

std::optional<double> DataSetPrivacy::reserved() const {
  if (!is_private || delta <= 0.0) return std::nullopt;
  privacy::RdpCurve curve;
  for (const privacy::Mechanism& mechanism : charged) curve.add(mechanism);
  const double before = curve.epsilon(delta);
  for (const RunningPart& part : running) {
    if (!part.round) return std::nullopt;
    privacy::Mechanism all = *part.round;
    all.steps *= part.rounds_left;
    curve.add(all);
  }
  const double added = curve.epsilon(delta) - before;
  return budget > 0.0 ? std::clamp(added, 0.0, std::max(0.0, budget - spent)) : added;
}

Result<PrivacyFigures> privacy_figures(Store& store, PrivacyPlans& plans, std::string_view only_site) {
  Reader reader(store, plans, only_site);
  TRIB_ASSIGN(const auto jobs, store.jobs());
  for (const JobRecord& job : jobs) TRIB_TRY(reader.add(job));
  return reader.take();
}

}  // namespace trib::server
