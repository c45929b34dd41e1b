// Killed anywhere between the charge and the contribution, a round is spent, and stays so: what the ledger records is
// never below what was done to the records. A program of its own: it forks, which a process with running threads must
// not, so nothing here computes outside a child.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <new>
#include <random>

#include "privacy/accountant.h"
#include "vector_records.h"

namespace trib::privacy {
namespace {

constexpr int kRunsPerFailpoint = 100;
constexpr std::int64_t kRounds = 4;  // the last is a sum over all records

// What really happened, in memory that outlives the process that wrote it.
struct Truth {
  std::int64_t steps_that_read_records[kRounds + 1] = {};
  std::int64_t contributions[kRounds + 1] = {};
};
class SharedTruth {
 public:
  SharedTruth() : memory_(::mmap(nullptr, sizeof(Truth), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) {
    if (memory_ == MAP_FAILED) throw std::bad_alloc();
    new (memory_) Truth();
  }
  ~SharedTruth() { ::munmap(memory_, sizeof(Truth)); }
  SharedTruth(const SharedTruth&) = delete;
  SharedTruth& operator=(const SharedTruth&) = delete;
  Truth& operator*() const { return *static_cast<Truth*>(memory_); }
  Truth* operator->() const { return static_cast<Truth*>(memory_); }

 private:
  void* memory_;
};

Charge charge_of_round(std::int64_t round, std::mt19937& random) {
  Charge charge = charge_of("j", round);
  charge.declared_records = 40;
  charge.mechanism.noise_multiplier = 1.0 + 0.25 * static_cast<double>(random() % 4);
  charge.mechanism.sample_rate = round == kRounds ? 1.0 : 0.25 + 0.125 * static_cast<double>(random() % 4);
  charge.mechanism.steps = round == kRounds ? 1 : 1 + static_cast<std::int64_t>(random() % 3);
  return charge;
}

// A site's work until it is done or killed.
void work(const std::filesystem::path& path, const std::vector<Charge>& charges, Truth& truth) {
  ::setenv("TRIBUTARY_THREADS", "1", 1);
  const ManualClock clock;
  const auto ledger = Ledger::open(path, owner(), budget_of(1e6), clock).value();
  const auto stream = kernels::cpu_device().make_stream();
  const RecordStore<VectorRecord> records(std::vector<VectorRecord>(40, VectorRecord{{1.0f}}));
  const VectorModel model;
  for (const Charge& charge : charges) {
    const std::int64_t round = charge.round;
    GradientFunctions<VectorRecord> functions = model.functions(*stream);
    bool has_read = false;
    functions.per_sample = [&, inner = functions.per_sample](auto part, auto& out) {
      if (!std::exchange(has_read, true)) ++truth.steps_that_read_records[round];
      inner(part, out);
    };
    PrivacySession session = PrivacySession::open(*ledger, charge, false, RandomKey::from_system(), clock).value();
    while (session.steps_left() > 0) {
      has_read = false;
      if (round == kRounds) {
        SummandFunctions<VectorRecord> summands;
        summands.per_record = [&](auto part, auto& out) { functions.per_sample(part, out); };
        session.release_sum<VectorRecord>(*stream, records, {{1}}, summands).value();
      } else {
        session.dp_sgd_step<VectorRecord>(*stream, records, model.parameters(*stream), functions, [](const auto&) {})
            .value();
      }
    }
    session.contribute(TensorMap(), 1.0).value();
    ++truth.contributions[round];
  }
}

struct Failpoint {
  const char* name;
  // How often a run passes it, at least.
  int passes;
};

class KilledAt : public testing::TestWithParam<Failpoint> {};

TEST_P(KilledAt, WhatTheLedgerRecordsIsNeverBelowWhatWasDone) {
#if !defined(TRIBUTARY_FAILPOINTS)
  GTEST_SKIP() << "built without failpoints";
#endif
  const ManualClock clock;
  owner();  // before the fork
  for (unsigned seed = 1; seed <= kRunsPerFailpoint; ++seed) {
    std::mt19937 random(seed);
    std::vector<Charge> charges;
    for (std::int64_t round = 1; round <= kRounds; ++round) charges.push_back(charge_of_round(round, random));
    const std::string failpoint =
        std::string(GetParam().name) + ":" + std::to_string(1 + random() % static_cast<unsigned>(GetParam().passes));
    SCOPED_TRACE(failpoint + ", seed " + std::to_string(seed));
    const TemporaryDirectory directory;
    const SharedTruth truth;
    ASSERT_TRUE(killed_at(failpoint, [&] { work(directory / "ledger", charges, *truth); }));

    const auto ledger = Ledger::open(directory / "ledger", owner(), budget_of(1e6), clock).value();
    RdpCurve spent, recorded;
    for (const LedgerEntry& entry : ledger->entries()) {
      if (entry.spends()) recorded.add(entry.charge.mechanism);
    }
    for (const Charge& charge : charges) {
      const auto round = static_cast<std::size_t>(charge.round);
      const std::int64_t steps = truth->steps_that_read_records[round];
      if (steps > 0) {
        EXPECT_TRUE(ledger->charged("j", charge.round, "messages")) << "round " << round;
        EXPECT_EQ(PrivacySession::open(*ledger, charge, false, RandomKey::from_system(), clock).error().code,
                  Errc::already_exists)
            << "a round that was begun is not trained again";
      }
      ASSERT_LE(steps, charge.mechanism.steps);
      Mechanism done = charge.mechanism;
      done.steps = steps;
      spent.add(done);
    }
    for (std::size_t order = 0; order < rdp_orders().size(); ++order) {
      ASSERT_GE(recorded.divergences()[order], spent.divergences()[order]) << "at order " << rdp_orders()[order];
    }
    EXPECT_EQ(ledger->epsilon_spent("messages", 1e-5), recorded.epsilon(1e-5));
    // One round at most is recorded and not done: a charge is never made ahead of its round.
    std::int64_t done = 0;
    for (const std::int64_t contribution : truth->contributions) done += contribution;
    EXPECT_LE(ledger->head().count, done + 1);
  }
}

INSTANTIATE_TEST_SUITE_P(Failpoints, KilledAt,
                         testing::Values(Failpoint{"ledger.before_write", 4}, Failpoint{"ledger.after_write", 4},
                                         Failpoint{"ledger.after_fsync", 4}, Failpoint{"session.after_charge", 4},
                                         Failpoint{"session.after_sample", 4}, Failpoint{"session.before_noise", 4},
                                         Failpoint{"session.before_update", 3}, Failpoint{"session.after_release", 1},
                                         Failpoint{"session.after_contribute", 4}),
                         [](const auto& info) {
                           std::string name = info.param.name;
                           std::ranges::replace(name, '.', '_');
                           return name;
                         });

}  // namespace
}  // namespace trib::privacy
