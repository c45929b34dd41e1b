// Killed anywhere between the charge and the contribution, a round is spent, and stays so. A program of its own: it
// forks, which a process with running threads must not, so nothing here computes outside a child.
#include <gtest/gtest.h>

#include "privacy/accountant.h"
#include "vector_records.h"

namespace trib::privacy {
namespace {

class KilledAt : public testing::TestWithParam<const char*> {};

TEST_P(KilledAt, TheRoundIsSpentAndNeverTrainedAgain) {
#if !defined(TRIBUTARY_FAILPOINTS)
  GTEST_SKIP() << "built without failpoints";
#endif
  const TemporaryDirectory directory;
  const ManualClock clock;
  const Charge charge = charge_of("j", 1);
  owner();  // before the fork
  ASSERT_TRUE(killed_at(GetParam(), [&] {
    const auto ledger = Ledger::open(directory / "ledger", owner(), budget_of(8.0), clock).value();
    PrivacySession session = PrivacySession::open(*ledger, charge, false, RandomKey::from_system(), clock).value();
    const RecordStore<VectorRecord> records(std::vector<VectorRecord>(100, VectorRecord{{1.0f}}));
    while (session.steps_left() > 0) step(session, records, {});
    session.contribute(TensorMap(), 1.0).value();
  }));
  const auto ledger = Ledger::open(directory / "ledger", owner(), budget_of(8.0), clock).value();
  EXPECT_DOUBLE_EQ(ledger->epsilon_spent("messages", 1e-5), RdpCurve().add(charge.mechanism).epsilon(1e-5));
  EXPECT_EQ(PrivacySession::open(*ledger, charge, false, RandomKey::from_system(), clock).error().code,
            Errc::already_exists);
}

INSTANTIATE_TEST_SUITE_P(Failpoints, KilledAt,
                         testing::Values("ledger.after_write", "ledger.after_fsync", "session.after_charge",
                                         "session.after_sample", "session.after_sample:10", "session.before_update",
                                         "session.before_update:5", "session.after_contribute"));

}  // namespace
}  // namespace trib::privacy
