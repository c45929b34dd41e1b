#include <algorithm>

#include "server/rounds/states.h"

namespace trib::server {

std::int64_t Recruiting::wanted() const {
  const auto& selection = job_.spec().selection;
  return std::max(selection.expected_clients, selection.minimum_clients);
}

void Recruiting::enter() {
  since_ = job_.engine().clock.wall_now();
  if (const auto limit = job_.spec().selection.start_deadline_ms; limit > 0)
    deadline_ = job_.deadline_in(Milliseconds(limit));
  sites_changed();
}

void Recruiting::sites_changed() {
  if (std::ssize(job_.members()) >= wanted()) job_.go<Selecting>();
}

void Recruiting::tick() {
  if (!deadline_ || job_.engine().clock.now() < deadline_->at) return;
  const auto accepted = std::ssize(job_.members());
  if (accepted >= job_.spec().selection.minimum_clients) return job_.go<Selecting>();
  job_.fail("at the start deadline " + std::to_string(accepted) +
            " sites had accepted the job, and it needs at least " +
            std::to_string(job_.spec().selection.minimum_clients) + job_.dropped_summary());
}

std::optional<MonotonicTime> Recruiting::next_deadline() const {
  return deadline_ ? std::optional(deadline_->at) : std::nullopt;
}

std::optional<WaitReport> Recruiting::waiting() const {
  std::vector<std::string> undecided;
  for (const auto& [name, site] : job_.sites())
    if (!site.record.accepted && site.record.declined_reason.empty()) undecided.push_back(name);
  const auto accepted = std::ssize(job_.members());
  return WaitReport{std::to_string(accepted) + " of " + std::to_string(wanted()) +
                        " expected sites have accepted the job" + job_.dropped_summary(),
                    std::move(undecided), since_, deadline_ ? std::optional(deadline_->wall) : std::nullopt};
}

}  // namespace trib::server
