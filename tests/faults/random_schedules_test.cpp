// Thousands of bad days: seeded schedules of delays, lost connections, duplicates, refusals and crashes of both sides.
// The invariants are in World; a failing seed replays alone with TRIBUTARY_FAULT_SEED.
#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/faults/world.h"

namespace trib::server::testing {
namespace {

// Draws everything from one seed; each seed has its own mixture of troubles.
class RandomPlan final : public Plan {
 public:
  explicit RandomPlan(std::uint64_t seed) : random_(RandomKey::from_seed(seed, 1)) {
    crash_probability_ = random_.bernoulli(0.5) ? 0.03 * random_.uniform() : 0.0;
    break_probability_ = random_.bernoulli(0.5) ? 0.05 * random_.uniform() : 0.0;
    fault_probability_ = random_.bernoulli(0.7) ? 0.4 * random_.uniform() : 0.0;
    slowest_message_ = 1 + random_.below(5'000);
  }

  SiteFault fault(int, std::int64_t) override {
    if (!random_.bernoulli(fault_probability_)) return {};
    constexpr Fault faults[] = {Fault::silent,      Fault::declines, Fault::over_budget, Fault::twice,
                                Fault::late,        Fault::late,     Fault::disconnects, Fault::dies,
                                Fault::disconnects, Fault::twice,    Fault::bad_values,  Fault::not_private};
    return {faults[random_.below(std::size(faults))], Milliseconds(random_.below(100'000))};
  }
  bool crashes(std::string_view) override {
    if (crashes_left_ == 0 || !random_.bernoulli(crash_probability_)) return false;
    --crashes_left_;
    return true;
  }
  bool breaks_connection() override { return random_.bernoulli(break_probability_); }
  Milliseconds network_delay() override { return Milliseconds(random_.below(slowest_message_)); }
  Milliseconds training_time() override { return Milliseconds(random_.below(20'000)); }
  Milliseconds computing_time() override { return Milliseconds(random_.below(3'000)); }
  Milliseconds restart_time() override { return Milliseconds(random_.below(60'000)); }
  Milliseconds reconnect_time() override { return Milliseconds(random_.below(30'000)); }

 private:
  ChaCha20Random random_;
  double crash_probability_ = 0.0, break_probability_ = 0.0, fault_probability_ = 0.0;
  std::uint64_t slowest_message_ = 1;
  int crashes_left_ = 20;
};

struct Outcome {
  JobRecord job;
  std::vector<RoundRecord> rounds;
  int crashes = 0;
};

Outcome run_schedule(std::uint64_t seed) {
  ChaCha20Random random(RandomKey::from_seed(seed, 2));
  const int sites = 2 + static_cast<int>(random.below(5));
  tasks::JobSpec spec = counting_job(1 + static_cast<std::int64_t>(random.below(6)));
  spec.selection.order = random.bernoulli(0.5) ? tasks::SelectionOrder::balanced : tasks::SelectionOrder::uniform;
  spec.selection.clients_per_round = static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(sites) + 1));
  const std::int64_t most = spec.selection.clients_per_round > 0 ? spec.selection.clients_per_round : sites;
  spec.selection.minimum_clients = 1 + static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(most)));
  spec.selection.over_selection = random.bernoulli(0.3) ? 1.5 : 1.0;
  spec.selection.round_retries = static_cast<std::int64_t>(random.below(4));
  if (random.bernoulli(0.3)) spec.privacy.rounds_per_client = 1 + static_cast<std::int64_t>(random.below(4));
  RandomPlan plan(seed);
  World world(spec, sites, plan, seed);
  world.run();
  return {world.job(), world.committed_rounds(), world.crashes()};
}

TEST(RandomSchedules, LoseNoRoundCountNothingTwiceAndEnd) {
  int finished = 0, failed = 0, crashes = 0;
  const char* wanted = std::getenv("TRIBUTARY_FAULT_SEED");
  const std::uint64_t first = wanted != nullptr ? std::strtoull(wanted, nullptr, 10) : 1;
  const std::uint64_t last = wanted != nullptr ? first : 1000;
  for (std::uint64_t seed = first; seed <= last; ++seed) {
    SCOPED_TRACE("replay with TRIBUTARY_FAULT_SEED=" + std::to_string(seed));
    const Outcome outcome = run_schedule(seed);
    ++(outcome.job.state == JobState::finished ? finished : failed);
    crashes += outcome.crashes;
    if (HasFailure()) return;
  }
  if (wanted != nullptr) return;
  // The schedules are worth something only if they bring both ends about, and many crashes.
  EXPECT_GT(finished, 400);
  EXPECT_GT(failed, 50);
  EXPECT_GT(crashes, 500);
  RecordProperty("finished", finished);
  RecordProperty("failed", failed);
  RecordProperty("crashes", crashes);
}

TEST(RandomSchedules, TheSameSeedGivesTheSameRun) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const Outcome first = run_schedule(seed), second = run_schedule(seed);
    EXPECT_EQ(first.job.reason, second.job.reason);
    EXPECT_EQ(first.crashes, second.crashes);
    ASSERT_EQ(first.rounds.size(), second.rounds.size());
    for (std::size_t i = 0; i < first.rounds.size(); ++i) {
      EXPECT_EQ(first.rounds[i].state_sha256, second.rounds[i].state_sha256);
      EXPECT_EQ(first.rounds[i].committed, second.rounds[i].committed);
    }
  }
}

}  // namespace
}  // namespace trib::server::testing
