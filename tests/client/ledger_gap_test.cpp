#include "client/ledger_gap.h"

#include <gmock/gmock.h>

#include <filesystem>

#include "tests/client/site_fixture.h"

namespace trib::client {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class LedgerGapTest : public SiteFixture {
 protected:
  void charge(const std::string& job, std::int64_t round, double noise_multiplier = 2.0) {
    privacy::Charge charge;
    charge.job = job;
    charge.round = round;
    charge.data_set = "default";
    charge.declared_records = declared_records;
    charge.target_delta = 1e-5;
    charge.mechanism = {.sample_rate = 0.01, .noise_multiplier = noise_multiplier, .clip_norm = 1.0, .steps = 10};
    ASSERT_TRUE(ledger_->charge(charge));
  }
  double spent() const { return ledger_->epsilon_spent("default", 1e-5); }
};

TEST_F(LedgerGapTest, ChargesNothingWhileTheAggregatorKnowsNoMore) {
  charge("a", 1);
  const double before = spent();
  EXPECT_EQ(charge_ledger_gap(site_, ledger_->head()).value(), 0);
  EXPECT_EQ(charge_ledger_gap(site_, {}).value(), 0);
  EXPECT_EQ(charges(), 1);
  EXPECT_EQ(spent(), before);
}

TEST_F(LedgerGapTest, NeverReportsLessThanWasSpentBeforeTheRestore) {
  charge("a", 1, 1.0);
  charge("a", 2, 2.0);
  const auto backup = directory_ / "backup.jsonl";
  std::filesystem::copy_file(directory_ / "ledger.jsonl", backup);
  for (std::int64_t round = 3; round <= 6; ++round) charge("a", round, 1.0);
  const double truly_spent = spent();
  const privacy::LedgerHead known = ledger_->head();

  close_stores();
  std::filesystem::copy_file(backup, directory_ / "ledger.jsonl", std::filesystem::copy_options::overwrite_existing);
  open_stores();
  ASSERT_LT(spent(), truly_spent);
  EXPECT_EQ(charge_ledger_gap(site_, known).value(), 4);
  EXPECT_GE(spent(), truly_spent);
  EXPECT_LT(spent(), 8.0) << "a gap of a few ordinary rounds leaves the rest of the budget";
  EXPECT_GE(ledger_->head().count, known.count);
  EXPECT_EQ(charge_ledger_gap(site_, known).value(), 0) << "a gap is charged once";
}

TEST_F(LedgerGapTest, SpendsTheWholeBudgetWhereTheLedgerIsGone) {
  charge("a", 1);
  const privacy::LedgerHead known = ledger_->head();
  close_stores();
  std::filesystem::remove(directory_ / "ledger.jsonl");
  open_stores();
  EXPECT_EQ(charge_ledger_gap(site_, known).value(), 1);
  EXPECT_GT(spent(), 8.0);
  EXPECT_TRUE(refusal_of().over_budget);
}

TEST_F(LedgerGapTest, ChargesEveryDataSetSinceTheEntriesMayHaveBeenOfAny) {
  DataSetPolicy letters = site_.data_sets.at("default");
  letters.budget->data_set = "letters";
  site_.data_sets["letters"] = letters;
  open_stores();
  charge("a", 1);
  ASSERT_EQ(charge_ledger_gap(site_, {.count = 3, .hash = {}}).value(), 2);
  EXPECT_GT(spent(), 0.0);
  EXPECT_GT(ledger_->epsilon_spent("letters", 1e-5), 8.0) << "nothing tells what its rounds cost";
}

TEST_F(LedgerGapTest, RefusesAHistoryThatWasRewrittenWhateverItsLength) {
  for (std::int64_t round = 1; round <= 3; ++round) charge("a", round);
  const privacy::LedgerHead known = ledger_->head();
  close_stores();
  std::filesystem::remove(directory_ / "ledger.jsonl");
  open_stores();
  for (std::int64_t round = 1; round <= 3; ++round) charge("a", round, 20.0);  // as if it had cost less
  for (int more = 0; more < 2; ++more) {
    const auto refused = charge_ledger_gap(site_, known);
    ASSERT_FALSE(refused) << "of the same length, and longer";
    EXPECT_EQ(refused.error().code, Errc::corrupt);
    EXPECT_THAT(refused.error().message, AllOf(HasSubstr("entry 3"), HasSubstr("Restore the newest copy")));
    charge("a", 4 + more, 20.0);
  }
}

TEST_F(LedgerGapTest, AcceptsThatAnEarlierGapStandsForWhatTheAggregatorHasSeen) {
  charge("a", 1);
  const privacy::LedgerHead known{.count = 4, .hash = sha256("lost")};
  ASSERT_EQ(charge_ledger_gap(site_, known).value(), 3);
  EXPECT_EQ(charge_ledger_gap(site_, known).value(), 0) << "the aggregator may not have heard of the gap yet";
  charge("a", 2);
  EXPECT_EQ(charge_ledger_gap(site_, ledger_->head()).value(), 0);
}

TEST_F(LedgerGapTest, RefusesToGoOnWhereTheGapCannotBeCharged) {
  charge("a", 1);
  const auto gap = charge_ledger_gap(site_, {.count = std::int64_t{1} << 62, .hash = {}});
  ASSERT_FALSE(gap);
  EXPECT_THAT(gap.error().message, HasSubstr("cannot be mended"));
}

}  // namespace
}  // namespace trib::client
