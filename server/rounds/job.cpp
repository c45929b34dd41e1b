#include "server/rounds/job.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/failpoint.h"
#include "common/log.h"
#include "server/rounds/states.h"

namespace trib::server {
namespace {

bool is_plausible(const SiteBudget& budget) {
  const auto is_epsilon = [](double epsilon) { return !std::isnan(epsilon) && epsilon >= 0.0; };
  return is_epsilon(budget.epsilon_spent) && is_epsilon(budget.epsilon_budget) && budget.delta >= 0.0 &&
         budget.delta < 1.0;
}

}  // namespace

std::vector<std::string> OpenRound::pending() const {
  std::vector<std::string> names;
  for (const auto& [name, site] : sites)
    if (is_pending(site)) names.push_back(name);
  return names;
}

std::int64_t OpenRound::count(bool (*matches)(const RoundSiteRecord&)) const {
  return std::count_if(sites.begin(), sites.end(), [&](const auto& entry) { return matches(entry.second); });
}

Job::Job(Engine& engine, JobRecord record) : engine_(engine), record_(std::move(record)) {}
Job::~Job() = default;

Status Job::start() {
  auto spec = engine_.options.read_job(record_.file_text, record_.file_name);
  if (spec) spec_ = std::move(spec).value();
  TRIB_ASSIGN(rounds_, engine_.store.rounds(id()));
  TRIB_ASSIGN(evaluations_, engine_.store.evaluations(id()));
  TRIB_ASSIGN(const auto participations, engine_.store.participations(id()));
  TRIB_ASSIGN(const auto last_counted, engine_.store.last_counted_rounds(id()));
  TRIB_ASSIGN(const auto sites, engine_.store.job_sites(id()));
  for (const JobSiteRecord& site : sites) {
    JobSite& entry = sites_[site.site];
    entry.record = site;
    entry.away_since = engine_.started;
    if (const auto found = participations.find(site.site); found != participations.end())
      entry.participations = found->second;
    if (const auto found = last_counted.find(site.site); found != last_counted.end())
      entry.last_counted = found->second;
  }
  TRIB_ASSIGN(const auto traffic, engine_.store.traffic(id()));
  for (const TrafficRecord& record : traffic) {
    account_bytes(record.site, record.round, record.bytes_down, record.bytes_up);
  }
  unsaved_traffic_.clear();

  if (!rounds_.empty() && !rounds_.back().committed) {
    open_.emplace();
    open_->round = rounds_.back().round;
    open_->attempt = rounds_.back().attempt;
    open_->opened = rounds_.back().opened;
    rounds_.pop_back();
    TRIB_ASSIGN(const auto round_sites, engine_.store.round_sites(id(), open_->round));
    for (const RoundSiteRecord& site : round_sites) open_->sites[site.site] = site;
  }
  if (!rounds_.empty()) committed_round_ = rounds_.back().round;

  if (has_ended()) {
    open_.reset();
    state_ = std::make_unique<Ended>(*this, record_.state, record_.reason);
  } else if (!spec) {
    fail(spec.error().message);
  } else {
    go<Preparing>();
  }
  settle();
  return {};
}

// --- Sites ---

void Job::client_connected(const std::string& site) {
  if (has_ended()) {
    const auto found = sites_.find(site);
    const bool took_part = found != sites_.end() && found->second.record.accepted;
    constexpr auto remembered = std::chrono::days(30);
    if (took_part && record_.ended && engine_.clock.wall_now() - *record_.ended < remembered)
      engine_.transport.end_job(site, id(), std::string(to_string(record_.state)));
    return;
  }
  client_disconnected(site);  // a second connection replaces the first
  offer_to(site);
  settle();
}

void Job::client_disconnected(const std::string& site) {
  const auto found = sites_.find(site);
  if (found == sites_.end() || has_ended()) return;
  if (std::exchange(found->second.ready, false)) found->second.away_since = engine_.clock.now();
  if (open_) open_->asked.erase(site);
  note(false);
  if (!next_) state_->sites_changed();
  settle();
}

void Job::offer_to(const std::string& site) {
  if (offer_ == nullptr || !engine_.connections.contains(site)) return;
  JobSite& entry = sites_[site];
  const bool dropped = entry.record.accepted && !entry.record.declined_reason.empty();
  if (dropped) return;
  entry.record.site = site;
  if (!entry.offered_at) entry.offered_at = engine_.clock.wall_now();
  engine_.transport.offer_job(site, offer_);
  note(false);
}

void Job::offer_to_all() {
  for (const auto& [site, details] : engine_.connections) offer_to(site);
}

Status Job::job_reply(const std::string& site, bool accepted, std::string_view reason, std::int64_t declared_records,
                      const std::optional<SiteBudget>& budget) {
  if (has_ended() || offer_ == nullptr)
    return Error{Errc::not_found, "the job " + id() + " is not open: it is " + std::string(state_->name())};
  JobSite& entry = sites_[site];
  entry.record.site = site;
  if (entry.record.accepted && !entry.record.declined_reason.empty())
    return Error{Errc::permission_denied, site + " was dropped from the job: " + entry.record.declined_reason};
  JobSite changed = entry;
  changed.record.declared_records = std::max<std::int64_t>(declared_records, 0);
  changed.record.declined_reason = accepted ? "" : (reason.empty() ? "no reason given" : std::string(reason));
  changed.record.declined = accepted ? std::nullopt : std::optional(engine_.clock.wall_now());
  changed.offered_at.reset();
  if (budget && is_plausible(*budget)) {
    changed.record.epsilon_spent = budget->epsilon_spent;
    changed.record.epsilon_budget = budget->epsilon_budget;
    changed.record.delta = budget->delta;
    changed.record.reported = engine_.clock.wall_now();
  }
  if (accepted && !entry.record.accepted && entry.record.turns == 0) {
    // A site that joins late is not owed the rounds that it missed.
    std::optional<std::int64_t> least;
    for (const auto& [name, other] : sites_)
      if (name != site && other.is_member()) least = std::min(least.value_or(other.record.turns), other.record.turns);
    changed.record.turns = least.value_or(0);
  }
  changed.record.accepted = accepted;
  changed.ready = accepted && engine_.connections.contains(site);
  TRIB_TRY(save_site(changed));
  entry = std::move(changed);
  if (!accepted)
    log_info({.job = id(), .client = site}, "'{}' takes no part in the job: {}", site, entry.record.declined_reason);
  if (open_) open_->asked.erase(site);
  if (!accepted) decline_open_round(site, entry.record.declined_reason);
  ask(site);
  note(false);
  if (!next_) state_->sites_changed();
  settle();
  return {};
}

void Job::drop_site(const std::string& site, std::string_view reason) {
  const auto found = sites_.find(site);
  if (found == sites_.end() || has_ended()) return;
  JobSite& entry = found->second;
  entry.ready = false;
  entry.record.accepted = true;  // with a reason: for good
  entry.record.declined_reason = reason;
  entry.record.declined = engine_.clock.wall_now();
  // In memory the site is dropped either way; after a restart it would say again what it said now.
  if (const Status saved = save_site(entry); !saved)
    log_warn({.job = id(), .client = site}, "job {}: {}", id(), saved.error().message);
  decline_open_round(site, entry.record.declined_reason);
  note(false);
  if (!next_) state_->sites_changed();
  settle();
}

void Job::decline_open_round(const std::string& site, const std::string& reason) {
  if (!open_) return;
  const auto found = open_->sites.find(site);
  if (found == open_->sites.end() || !OpenRound::is_pending(found->second)) return;
  found->second.status = RoundSiteStatus::declined;
  found->second.reason = reason;
  found->second.declined = engine_.clock.wall_now();
  if (const Status saved = save_round_site(found->second); !saved)
    log_warn({.job = id(), .round = open_->round, .client = site}, "job {}: {}", id(), saved.error().message);
}

Status Job::round_reply(const std::string& site, std::int64_t round, const RoundAnswer& answer) {
  if (has_ended()) return Error{Errc::not_found, "the job " + id() + " has ended"};
  if (round <= committed_round_) {
    engine_.transport.close_round(site, id(), round);
    return Error{Errc::deadline_exceeded, "round " + std::to_string(round) + " of job " + id() + " is closed"};
  }
  const bool was_chosen = open_ && open_->round == round && open_->sites.contains(site);
  if (!was_chosen)
    return Error{Errc::permission_denied,
                 site + " was not chosen for round " + std::to_string(round) + " of job " + id()};
  RoundSiteRecord& entry = open_->sites.at(site);
  if (!OpenRound::is_pending(entry)) return {};  // it has contributed or declined: nothing to add
  RoundSiteRecord changed = entry;
  changed.status = answer.accepted ? RoundSiteStatus::accepted : RoundSiteStatus::declined;
  changed.took_part = entry.took_part || answer.accepted;
  changed.reason = answer.accepted ? "" : (answer.reason.empty() ? "no reason given" : answer.reason);
  if (!answer.accepted) changed.declined = engine_.clock.wall_now();
  TRIB_TRY(save_round_site(changed));
  if (changed.took_part && !entry.took_part) ++sites_[site].participations;
  entry = std::move(changed);
  if (!answer.accepted)
    log_info({.job = id(), .round = round, .client = site}, "'{}' declines round {}: {}", site, round, entry.reason);
  note(false);
  if (!answer.accepted && (answer.over_budget || answer.final)) {
    drop_site(site, entry.reason);
    return {};
  }
  if (!next_) state_->sites_changed();
  settle();
  return {};
}

void Job::progress(const std::string& site, const ClientProgress& progress) {
  const auto found = sites_.find(site);
  if (found == sites_.end() || has_ended()) return;
  const SiteBudget said{progress.epsilon_spent, progress.epsilon_budget, progress.delta};
  if (progress.step < 0 || progress.steps < progress.step || !is_plausible(said)) return;
  const WallTime now = engine_.clock.wall_now();
  JobSite& entry = found->second;
  entry.progress = progress;
  entry.last_progress = now;
  entry.record.epsilon_spent = progress.epsilon_spent;
  entry.record.epsilon_budget = progress.epsilon_budget;
  if (progress.delta > 0.0) entry.record.delta = progress.delta;
  entry.record.reported = now;
  report_round(site, progress, now);
  note(false);
  engine_.changed(*this);
}

// What a site reports of the open round. A new epsilon is on disk at once: no other message of the round carries it.
void Job::report_round(const std::string& site, const ClientProgress& progress, WallTime now) {
  if (!open_ || progress.round != open_->round) return;
  const auto found = open_->sites.find(site);
  if (found == open_->sites.end()) return;
  RoundSiteRecord& part = found->second;
  const bool is_new =
      part.epsilon_spent != progress.epsilon_spent || part.epsilon_budget != progress.epsilon_budget || !part.reported;
  part.epsilon_spent = progress.epsilon_spent;
  part.epsilon_budget = progress.epsilon_budget;
  part.reported = now;
  // "contributed" is the commit's to write: until then the sum is in memory alone.
  if (!is_new || part.status == RoundSiteStatus::contributed) return;
  if (const Status saved = save_round_site(part); !saved)
    log_warn({.job = id(), .round = open_->round, .client = site}, "job {}: {}", id(), saved.error().message);
}

void Job::account_bytes(const std::string& site, std::int64_t round, std::uint64_t down, std::uint64_t up) {
  for (TrafficRecord* record : {&unsaved_traffic_[{round, site}], &round_traffic_[round]}) {
    record->site = site;
    record->round = round;
    record->bytes_down += down;
    record->bytes_up += up;
  }
  JobSite& entry = sites_[site];
  entry.record.site = site;
  entry.bytes_down += down;
  entry.bytes_up += up;
}

// --- Contributions ---

Status Job::check_contribution(const std::string& site, std::int64_t round, double weight, bool is_private) {
  const std::string what = "the contribution of " + site + " to round " + std::to_string(round) + " of job " + id();
  if (has_ended()) {
    engine_.transport.end_job(site, id(), std::string(to_string(record_.state)));
    return Error{Errc::not_found, what + ": the job has ended"};
  }
  if (round <= committed_round_) {
    engine_.transport.close_round(site, id(), round);
    return Error{Errc::deadline_exceeded, what + ": the round is closed; round " + std::to_string(committed_round_) +
                                              " was the last to be committed"};
  }
  if (!open_ || round != open_->round) return Error{Errc::invalid_argument, what + ": the round has not begun"};
  const auto found = open_->sites.find(site);
  if (found == open_->sites.end()) return Error{Errc::permission_denied, what + ": the site was not chosen"};
  if (found->second.status == RoundSiteStatus::contributed)
    return Error{Errc::already_exists, what + ": it has been counted"};
  if (found->second.status == RoundSiteStatus::declined)
    return Error{Errc::permission_denied, what + ": the site declined the round: " + found->second.reason};
  if (next_ || !state_->takes_contributions())
    return Error{Errc::deadline_exceeded, what + ": the round takes no more contributions"};
  if (!std::isfinite(weight) || weight <= 0.0)
    return Error{Errc::invalid_argument,
                 what + ": its weight is " + std::to_string(weight) + ", not a positive finite number"};
  if (spec_.noise_at_sites() && !is_private)
    return Error{Errc::permission_denied, what + ": it is not private, and the job is"};
  return {};
}

Status Job::contribution(const std::string& site, std::int64_t round, double weight, bool is_private,
                         TensorMap tensors) {
  TRIB_TRY(check_contribution(site, round, weight, is_private));
  RoundSiteRecord& entry = open_->sites.at(site);
  if (!entry.took_part) {  // its acceptance was lost, but not what came of it
    RoundSiteRecord accepted = entry;
    accepted.status = RoundSiteStatus::accepted;
    accepted.took_part = true;
    TRIB_TRY(save_round_site(accepted));
    entry = std::move(accepted);
    ++sites_[site].participations;
  }
  if (const Status added = open_->sum->add(tensors, weight); !added)
    return added.error().with_context("the contribution of " + site + " to round " + std::to_string(round) +
                                      " of job " + id());
  entry.status = RoundSiteStatus::contributed;  // in the store once the round is committed
  TRIB_FAILPOINT("round.contribution_folded");
  note(false);
  state_->sites_changed();
  settle();
  return {};
}

std::int64_t Job::minimum_clients() const {
  return spec_.selection.order == tasks::SelectionOrder::poisson ? 0 : spec_.selection.minimum_clients;
}

Result<std::unique_ptr<RoundSum>> Job::make_sum() {
  const TensorSchema& schema = offer_->contribution_schema;
  const double expected = spec_.selection.order == tasks::SelectionOrder::poisson
                              ? static_cast<double>(spec_.selection.clients_per_round)
                              : 0.0;
  if (!spec_.trusts_aggregator()) return plain_sum(schema, expected);
  if (engine_.options.ledger == nullptr)
    return Error{Errc::unsupported,
                 "this aggregator keeps no privacy ledger, which privacy.noise_by = \"aggregator\" "
                 "needs"};
  if (!cohort_charge_) {
    TRIB_ASSIGN(cohort_charge_, cohort_charge(spec_));
  }
  privacy::Charge charge = *cohort_charge_;
  charge.job = id();
  charge.round = open_->round;
  auto cohort = privacy::CohortSum::open(*engine_.options.ledger, charge, engine_.options.noise_key(), schema,
                                         kernels::cpu_device());
  if (!cohort)
    return cohort.error().with_context("the aggregator's own budget, [budget." + charge.data_set + "] in server.toml");
  return noised_sum(std::move(*cohort));
}

void Job::ask(const std::string& site) {
  if (!open_ || open_->sum == nullptr || next_ || !state_->takes_contributions()) return;
  const auto in_round = open_->sites.find(site);
  const auto known = sites_.find(site);
  if (in_round == open_->sites.end() || known == sites_.end() || !known->second.ready) return;
  if (!OpenRound::is_pending(in_round->second) || !open_->asked.insert(site).second) return;
  if (!known->second.asked_at) known->second.asked_at = engine_.clock.wall_now();
  engine_.transport.start_round(site, id(), open_->round, known->second.last_counted, broadcast_);
}

// --- The way through the states ---

void Job::cancel(std::string_view reason) {
  end(JobState::cancelled, reason.empty() ? "cancelled by an operator" : reason);
  settle();
}

void Job::tick() {
  state_->tick();
  settle();
}

void Job::end(JobState state, std::string_view reason) {
  go<Ended>(state, std::string(reason));
}

void Job::run_work(std::function<void()> work, std::function<void()> done) {
  engine_.work_queue.run(std::move(work), [weak = weak_from_this(), generation = generation_, done = std::move(done)] {
    const auto job = weak.lock();
    if (job == nullptr || job->generation_ != generation) return;
    done();
    job->settle();
  });
}

Deadline Job::deadline_in(Milliseconds duration) const {
  return {engine_.clock.now() + duration, engine_.clock.wall_now() + duration};
}

void Job::settle() {
  while (next_ != nullptr) {
    const MonotonicTime now = engine_.clock.now();
    if (state_ != nullptr)
      engine_.options.on_phase(state_->name(), std::chrono::duration<double>(now - state_since_).count());
    state_since_ = now;
    state_ = std::move(next_);
    ++generation_;
    note(true);
    state_->enter();
  }
  engine_.changed(*this);
}

void Job::go_on() {
  if (is_round_due_for_evaluation()) {
    go<Evaluating>();
  } else if (committed_round_ >= spec_.rounds) {
    end(JobState::finished, "");
  } else {
    go<Selecting>();
  }
}

bool Job::is_round_due_for_evaluation() const {
  if (committed_round_ < 1 || (!evaluations_.empty() && evaluations_.back().round >= committed_round_)) return false;
  return committed_round_ % std::max<std::int64_t>(spec_.evaluate_every, 1) == 0 || committed_round_ >= spec_.rounds;
}

// --- What the states read and write ---

std::vector<std::string> Job::members() const {
  std::vector<std::string> names;
  for (const auto& [name, site] : sites_)
    if (site.is_member()) names.push_back(name);
  return names;
}

bool Job::may_join(const std::string& name, const JobSite& site) const {
  return site.is_member() && site.participations < spec_.max_participations() &&
         !(open_ && open_->sites.contains(name));
}

std::string Job::dropped_summary() const {
  constexpr int shown = 5;
  std::string text;
  int count = 0;
  for (const auto& [name, site] : sites_) {
    if (site.record.declined_reason.empty()) continue;
    if (++count <= shown) text += (text.empty() ? "" : "; ") + name + ": " + site.record.declined_reason;
  }
  if (count > shown) text += "; and " + std::to_string(count - shown) + " more";
  return text.empty() ? "" : " (" + text + ")";
}

std::string Job::exhausted_summary() const {
  const std::int64_t limit = spec_.max_participations();
  const auto exhausted = std::count_if(sites_.begin(), sites_.end(), [&](const auto& entry) {
    return entry.second.is_member() && entry.second.participations >= limit;
  });
  if (exhausted == 0) return "";
  return "; " + std::to_string(exhausted) + " have taken part in as many rounds as they may (" + std::to_string(limit) +
         ")";
}

std::vector<TrafficRecord> Job::take_traffic() {
  std::vector<TrafficRecord> traffic;
  for (auto& [key, record] : unsaved_traffic_) traffic.push_back(std::move(record));
  unsaved_traffic_.clear();
  return traffic;
}

void Job::restore_traffic(std::vector<TrafficRecord> traffic) {
  for (TrafficRecord& record : traffic) {
    TrafficRecord& entry = unsaved_traffic_[{record.round, record.site}];
    entry.bytes_down += record.bytes_down;
    entry.bytes_up += record.bytes_up;
    entry.round = record.round;
    entry.site = std::move(record.site);
  }
}

std::vector<JobSiteRecord> Job::site_records() const {
  std::vector<JobSiteRecord> records;
  if (!open_) return records;
  for (const auto& [name, site] : open_->sites) records.push_back(sites_.at(name).record);
  return records;
}

std::vector<RoundSiteRecord> Job::round_records() const {
  std::vector<RoundSiteRecord> records;
  if (!open_) return records;
  for (const auto& [name, site] : open_->sites) records.push_back(site);
  return records;
}

void Job::add_evaluation(EvaluationRecord evaluation) {
  evaluations_.push_back(std::move(evaluation));
  note(true);
}

void Job::set_model(std::int64_t round, std::shared_ptr<const TensorMap> state,
                    std::shared_ptr<const TensorMap> broadcast) {
  committed_round_ = round;
  model_state_ = std::move(state);
  broadcast_ = std::move(broadcast);
}

void Job::round_committed(RoundRecord record) {
  rounds_.push_back(std::move(record));
  if (open_) {
    engine_.options.on_phase("round", std::chrono::duration<double>(*rounds_.back().committed - open_->opened).count());
    // Every site of the round hears of it, whatever it did: a late one may stop, an outbox may be emptied.
    for (const auto& [name, site] : open_->sites) {
      if (site.status == RoundSiteStatus::contributed) sites_[name].last_counted = open_->round;
      if (engine_.connections.contains(name)) engine_.transport.close_round(name, id(), open_->round);
    }
  }
  open_.reset();
  // Two states stay: the one just named and the one before.
  if (rounds_.size() > 2) {
    const std::string& old = rounds_[rounds_.size() - 3].state_sha256;
    if (const Status removed = engine_.state_files.remove(old); !removed)
      log_warn({.job = id()}, "job {}: {}; the next start removes it", id(), removed.error().message);
  }
}

void Job::set_task(std::shared_ptr<tasks::ServerTask> task, std::shared_ptr<const JobOffer> offer) {
  task_ = std::move(task);
  offer_ = std::move(offer);
}

void Job::set_outcome(JobState state, std::string_view reason) {
  record_.state = state;
  record_.reason = reason;
  record_.ended = engine_.clock.wall_now();
  for (const auto& [name, site] : sites_)
    if (engine_.connections.contains(name))
      engine_.transport.end_job(name, id(),
                                std::string(to_string(state)) + (reason.empty() ? "" : ": " + std::string(reason)));
  task_.reset();
  offer_.reset();
  model_state_.reset();
  broadcast_.reset();
  open_.reset();
}

Status Job::save_site(const JobSite& site) {
  return engine_.store.put_job_site(id(), site.record);
}

Status Job::save_round_site(const RoundSiteRecord& site) {
  return engine_.store.set_round_site(id(), open_->round, site);
}

// --- The report ---

std::optional<SiteWait> Job::wait_for(const std::string& name, const JobSite& site) const {
  if (has_ended() || !site.record.declined_reason.empty()) return std::nullopt;
  if (!site.record.accepted) {
    if (!site.offered_at) return std::nullopt;
    return SiteWait{name, 0, "has not answered the job's offer", *site.offered_at};
  }
  if (!open_) return std::nullopt;
  const auto found = open_->sites.find(name);
  if (found == open_->sites.end() || !OpenRound::is_pending(found->second)) return std::nullopt;
  std::string reason =
      found->second.status == RoundSiteStatus::accepted ? "is to send its contribution" : "has not answered the round";
  if (!engine_.connections.contains(name)) reason += ", and is not connected";
  return SiteWait{name, open_->round, std::move(reason), site.asked_at.value_or(open_->opened)};
}

std::vector<SiteWait> Job::waits() const {
  std::vector<SiteWait> waits;
  for (const auto& [name, site] : sites_)
    if (auto wait = wait_for(name, site)) waits.push_back(std::move(*wait));
  return waits;
}

void Job::note(bool important) {
  change_.any = true;
  change_.important = change_.important || important;
}

Job::Change Job::take_change() {
  return std::exchange(change_, {});
}

ClientReport Job::client_report(const std::string& name, const JobSite& site) const {
  ClientReport report;
  report.name = name;
  report.connected = engine_.connections.contains(name);
  report.reason = site.record.declined_reason;
  report.declared_records = site.record.declared_records;
  report.participations = site.participations;
  report.epsilon_spent = site.record.epsilon_spent;
  report.epsilon_budget = site.record.epsilon_budget;
  report.bytes_down = site.bytes_down;
  report.bytes_up = site.bytes_up;
  report.round = site.progress.round;
  report.step = site.progress.step;
  report.steps = site.progress.steps;
  report.last_progress = site.last_progress;
  if (const auto wait = wait_for(name, site)) report.waiting_since = wait->since;
  if (report.connected) {
    report.last_seen = engine_.clock.wall_now();
    report.software_version = engine_.connections.at(name).software_version;
  } else if (const auto seen = engine_.last_seen.find(name); seen != engine_.last_seen.end()) {
    report.last_seen = seen->second;
  }

  const RoundSiteRecord* in_round = nullptr;
  if (open_)
    if (const auto found = open_->sites.find(name); found != open_->sites.end()) in_round = &found->second;
  if (!site.record.declined_reason.empty()) {
    report.status = site.record.accepted ? "dropped" : "refused";
  } else if (!site.record.accepted) {
    report.status = "offered";
  } else if (in_round != nullptr) {
    report.status = to_string(in_round->status);
    if (in_round->status == RoundSiteStatus::declined) report.reason = in_round->reason;
  } else if (!has_ended()) {
    report.status = "waiting";
  }
  return report;
}

void Job::hide_sample(JobReport& report) const {
  if (report.waiting) report.waiting->sites.clear();
  for (RoundReport& round : report.rounds) {
    round.record.contributions = spec_.selection.clients_per_round;
    round.bytes_down = round.bytes_up = 0;
  }
  for (ClientReport& client : report.clients) {
    if (client.status != "offered" && client.status != "refused" && client.status != "dropped")
      client.status = has_ended() ? "" : "waiting";
    client.participations = client.round = client.step = client.steps = 0;
    client.bytes_down = client.bytes_up = 0;
    client.last_progress.reset();
    client.waiting_since.reset();
  }
}

JobReport Job::report() const {
  JobReport report;
  report.job = record_;
  report.spec = spec_;
  report.state = state_->name();
  report.reason = record_.reason;
  report.waiting = state_->waiting();
  report.rounds_done = std::max<std::int64_t>(committed_round_, 0);
  report.noise_seeded = engine_.options.noise_seeded;
  report.now = engine_.clock.wall_now();
  const auto add_round = [&](RoundRecord record) {
    RoundReport round{std::move(record)};
    if (const auto found = round_traffic_.find(round.record.round); found != round_traffic_.end()) {
      round.bytes_down = found->second.bytes_down;
      round.bytes_up = found->second.bytes_up;
    }
    report.rounds.push_back(std::move(round));
  };
  for (const RoundRecord& record : rounds_)
    if (record.round > 0) add_round(record);
  if (open_) {
    report.open_round = open_->round;
    report.attempt = open_->attempt;
    RoundRecord record;
    record.round = open_->round;
    record.attempt = open_->attempt;
    record.opened = open_->opened;
    record.contributions =
        open_->count([](const RoundSiteRecord& site) { return site.status == RoundSiteStatus::contributed; });
    add_round(std::move(record));
  }
  report.evaluations = evaluations_;
  for (const auto& [name, site] : sites_) report.clients.push_back(client_report(name, site));
  if (spec_.trusts_aggregator() && engine_.options.ledger != nullptr) {
    report.aggregator_epsilon_spent = engine_.options.ledger->epsilon_spent(spec_.data_set, spec_.privacy.delta);
  }
  if (spec_.selection.order == tasks::SelectionOrder::poisson) hide_sample(report);
  return report;
}

}  // namespace trib::server
