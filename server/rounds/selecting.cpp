#include <algorithm>
#include <cmath>

#include "common/failpoint.h"
#include "server/rounds/selection.h"
#include "server/rounds/states.h"

namespace trib::server {

void Selecting::enter() {
  since_ = job_.engine().clock.wall_now();
  deadline_ = job_.deadline_in(Milliseconds(job_.spec().selection.round_deadline_ms));
  try_to_select();
}

void Selecting::try_to_select() {
  const auto& selection = job_.spec().selection;
  const auto& open = job_.open_round();
  const MonotonicTime now = job_.engine().clock.now();
  grace_end_.reset();
  if (retry_store_ && now < *retry_store_) return;

  std::vector<Candidate> present;
  std::vector<std::string> expected_back, away;
  for (const auto& [name, site] : job_.sites()) {
    if (!job_.may_join(name, site)) continue;
    const MonotonicTime grace_end = site.away_since + job_.engine().options.reconnect_grace;
    if (site.ready) {
      present.push_back({name, site.record.turns});
    } else if (now < grace_end) {
      expected_back.push_back(name);
      grace_end_ = grace_end_ ? std::min(*grace_end_, grace_end) : grace_end;
    } else {
      away.push_back(name);
    }
  }

  const std::int64_t in_round = open ? open->contributed() + open->pending_count() : 0;
  const std::int64_t others = std::ssize(present) + std::ssize(expected_back) + std::ssize(away);
  if (in_round + others < selection.minimum_clients)
    return job_.fail("too few sites remain for round " + std::to_string(job_.committed_round() + 1) + ": " +
                     std::to_string(in_round + others) + " of at least " + std::to_string(selection.minimum_clients) +
                     job_.exhausted_summary() + job_.dropped_summary());

  std::int64_t wanted = in_round + others;
  if (selection.clients_per_round > 0)
    wanted =
        std::min(wanted, std::max(selection.minimum_clients,
                                  static_cast<std::int64_t>(std::ceil(static_cast<double>(selection.clients_per_round) *
                                                                      selection.over_selection))));
  const std::int64_t more = std::max<std::int64_t>(wanted - in_round, 0);
  if (std::ssize(present) < more && !expected_back.empty())
    return wait_for("for sites that were connected a moment ago", std::move(expected_back));
  grace_end_.reset();
  if (in_round + std::ssize(present) < selection.minimum_clients)
    return wait_for("for sites to connect: " + std::to_string(present.size()) + " can be chosen now, " +
                        std::to_string(selection.minimum_clients - in_round) + " are needed",
                    std::move(away));
  if (selection.order == tasks::SelectionOrder::poisson) {
    // A round that was opened has its sample: a second one would not be independent of who came.
    std::vector<std::string> sampled;
    if (!open) {
      const double rate =
          static_cast<double>(selection.clients_per_round) / static_cast<double>(selection.expected_clients);
      for (const std::size_t i : privacy::sample_cohort(present.size(), rate, job_.engine().random))
        sampled.push_back(present[i].site);
    }
    return open_round(sampled);
  }
  open_round(choose_sites(std::move(present), static_cast<std::size_t>(more), selection.order, job_.engine().random));
}

void Selecting::wait_for(std::string reason, std::vector<std::string> sites) {
  wait_ = WaitReport{std::move(reason), std::move(sites), since_, deadline_.wall};
}

void Selecting::open_round(const std::vector<std::string>& chosen) {
  auto& engine = job_.engine();
  auto& open = job_.open_round();
  const std::int64_t round = job_.committed_round() + 1;
  const WallTime now = engine.clock.wall_now();
  if (const Status opened = engine.store.open_round(job_.id(), round, attempt_, chosen, now); !opened) {
    retry_store_ = engine.clock.now() + engine.options.storage_retry;
    return wait_for(opened.error().message, {});
  }
  if (!open) {
    open.emplace();
    open->round = round;
    open->opened = now;
  }
  open->attempt = attempt_;
  for (const std::string& site : chosen) {
    open->sites[site].site = site;
    JobSite& entry = job_.sites().at(site);
    ++entry.record.turns;
    entry.asked_at.reset();
  }
  TRIB_FAILPOINT("round.opened");
  job_.go<Collecting>();
}

void Selecting::tick() {
  if (job_.engine().clock.now() < deadline_.at) return try_to_select();
  if (attempt_ > job_.spec().selection.round_retries)
    return job_.fail("round " + std::to_string(job_.committed_round() + 1) + " did not begin in " +
                     std::to_string(attempt_) + " attempts; the last waited " + (wait_ ? wait_->reason : "") +
                     job_.dropped_summary());
  job_.go<Selecting>(attempt_ + 1);
}

std::optional<MonotonicTime> Selecting::next_deadline() const {
  MonotonicTime next = deadline_.at;
  for (const auto& other : {grace_end_, retry_store_})
    if (other) next = std::min(next, *other);
  return next;
}

}  // namespace trib::server
