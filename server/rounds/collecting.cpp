#include <algorithm>
#include <memory>

#include "server/rounds/states.h"

namespace trib::server {

void Collecting::enter() {
  since_ = job_.engine().clock.wall_now();
  deadline_ = job_.deadline_in(Milliseconds(job_.spec().selection.round_deadline_ms));
  OpenRound& open = *job_.open_round();
  if (open.sum == nullptr) {
    auto sum = job_.make_sum();
    if (!sum) return job_.fail(sum.error().message);
    open.sum = std::move(*sum);
  }
  for (const auto& [name, site] : open.sites) job_.ask(name);
  sites_changed();
}

void Collecting::sites_changed() {
  const auto& selection = job_.spec().selection;
  const OpenRound& open = *job_.open_round();
  const std::int64_t contributed = open.contributed();
  const bool sampled = selection.order == tasks::SelectionOrder::poisson;
  const bool enough = !sampled && selection.clients_per_round > 0 &&
                      contributed >= std::max(selection.clients_per_round, selection.minimum_clients);
  const bool nobody_left = open.pending_count() == 0;
  if (enough || (nobody_left && contributed >= job_.minimum_clients())) {
    job_.go<Aggregating>();
  } else if (nobody_left) {
    job_.go<Selecting>(open.attempt);  // the same attempt, filled up
  }
}

void Collecting::tick() {
  if (job_.engine().clock.now() < deadline_.at) return;
  const auto& selection = job_.spec().selection;
  const OpenRound& open = *job_.open_round();
  if (open.contributed() >= job_.minimum_clients()) return job_.go<Aggregating>();
  if (open.attempt <= selection.round_retries) return job_.go<Selecting>(open.attempt + 1);
  std::string silent;
  for (const std::string& site : open.pending()) silent += (silent.empty() ? "; nothing came from " : ", ") + site;
  job_.fail("round " + std::to_string(open.round) + " had " + std::to_string(open.contributed()) + " of at least " +
            std::to_string(selection.minimum_clients) + " contributions after " + std::to_string(open.attempt) +
            " attempts" + silent + job_.dropped_summary());
}

std::optional<WaitReport> Collecting::waiting() const {
  const OpenRound& open = *job_.open_round();
  auto pending = open.pending();
  std::int64_t disconnected = 0;
  for (const std::string& site : pending)
    if (!job_.engine().connections.contains(site)) ++disconnected;
  std::string reason = std::to_string(open.contributed()) + " of " + std::to_string(open.sites.size()) +
                       " contributions are in (at least " + std::to_string(job_.spec().selection.minimum_clients) +
                       " are needed)";
  if (disconnected > 0) reason += "; " + std::to_string(disconnected) + " of those waited for are not connected";
  if (open.attempt > 1) reason += "; attempt " + std::to_string(open.attempt);
  return WaitReport{std::move(reason), std::move(pending), since_, deadline_.wall};
}

}  // namespace trib::server
