// What makes a ledger one that an officer can sign: signatures, budgets that stay where they were opened, data sets
// that cannot be swapped, and clocks and disks that misbehave.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "ledger_fixture.h"
#include "privacy/accountant.h"
#include "privacy/sealed.h"

namespace trib::privacy {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class LedgerTrustTest : public testing::Test {
 protected:
  Result<std::unique_ptr<Ledger>> open(std::vector<Budget> budgets = budget_of(8.0), const LedgerOwner& by = owner(),
                                       const KeyChange* change = nullptr) {
    return Ledger::open(path_, by, std::move(budgets), clock_, change);
  }
  std::vector<std::string> lines() const {
    std::istringstream text(slurp(path_));
    std::vector<std::string> result;
    for (std::string line; std::getline(text, line);) result.push_back(line);
    return result;
  }
  void write_lines(const std::vector<std::string>& lines) const {
    std::string text;
    for (const std::string& line : lines) text += line + "\n";
    spit(path_, text);
  }
  // The same entry with other values, sealed by `signer`: what somebody with that key can forge.
  static std::string forge(LedgerEntry entry, const Signer& signer) {
    return render_ledger_entry(entry, signer).value();
  }

  TemporaryDirectory directory_;
  std::filesystem::path path_ = directory_ / "ledger.jsonl";
  ManualClock clock_;
};

// --- Signatures ---

TEST_F(LedgerTrustTest, ALineThatWasHashedAnewWithoutTheSitesKeyIsFound) {
  open().value()->charge(charge_of("j", 1)).value();
  auto text = lines();
  LedgerEntry entry = parse_ledger_entry(text.at(1)).value();
  entry.charge.mechanism.steps = 1;  // ten were taken
  text.at(1) = forge(entry, *throwaway_signer());
  write_lines(text);
  const auto ledger = open();
  ASSERT_FALSE(ledger.ok());
  EXPECT_EQ(ledger.error().code, Errc::corrupt);
  EXPECT_THAT(ledger.error().message, HasSubstr("line 2 (entry 1): its signature does not match"));
}

TEST_F(LedgerTrustTest, AHeaderMustBeSignedByTheKeyInIt) {
  const auto signer = throwaway_signer();
  spit(path_, render_ledger_header({"id", "hospital", "2026-01-01T00:00:00.000Z", owner().signer->public_key().text()},
                                   *signer)
                  .value());
  EXPECT_THAT(open().error().message, HasSubstr("line 1 is not signed by the key in it"));
}

TEST_F(LedgerTrustTest, AnotherSitesLedgerIsRefusedByName) {
  open().value();
  const auto ledger = open(budget_of(8.0), {"clinic", owner().signer});
  ASSERT_FALSE(ledger.ok());
  EXPECT_EQ(ledger.error().code, Errc::permission_denied);
  EXPECT_THAT(ledger.error().message, AllOf(HasSubstr("'hospital'"), HasSubstr("'clinic'")));
}

TEST_F(LedgerTrustTest, AnotherKeyIsRefusedUntilTheOwnerSaysSoAndThenRecorded) {
  open().value()->charge(charge_of("j", 1)).value();
  const LedgerOwner renewed{"hospital", throwaway_signer()};
  const auto refused = open(budget_of(8.0), renewed);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Errc::permission_denied);
  EXPECT_THAT(refused.error().message, HasSubstr("trib-client ledger rekey"));

  const KeyChange change{"key.pem was lost", owner().signer};
  {
    const auto ledger = open(budget_of(8.0), renewed, &change).value();
    ledger->charge(charge_of("j", 2)).value();
  }
  const LedgerFile file = parse_ledger(slurp(path_), "ledger").value();
  ASSERT_EQ(file.entries.size(), 3u);
  EXPECT_EQ(file.entries[1].kind, EntryKind::key);
  EXPECT_EQ(file.entries[1].note, "key.pem was lost");
  EXPECT_FALSE(file.entries[1].countersignature.empty());
  EXPECT_EQ(file.key, renewed.signer->public_key().text());
  EXPECT_TRUE(open(budget_of(8.0), renewed).ok());
  EXPECT_EQ(open().error().code, Errc::permission_denied) << "the old key signs nothing any more";
}

TEST_F(LedgerTrustTest, ACountersignatureThatTheOldKeyDidNotMakeIsFound) {
  open().value();
  LedgerEntry entry;
  const LedgerFile file = parse_ledger(slurp(path_), "ledger").value();
  const auto thief = throwaway_signer();
  entry.number = 1;
  entry.kind = EntryKind::key;
  entry.time = file.header.created;
  entry.previous = file.head.hash;
  entry.key = thief->public_key().text();
  entry.countersignature = thief->sign(key_change_message(entry.key, entry.previous)).value();
  spit(path_, slurp(path_) + forge(entry, *thief) + "\n");
  EXPECT_THAT(parse_ledger(slurp(path_), "ledger").error().message, HasSubstr("countersignature"));
}

// --- Budgets ---

TEST_F(LedgerTrustTest, EveryChargeStatesTheCapThatCoveredItSoThatTheFileAloneProvesIt) {
  {
    const auto ledger = open(budget_of(3.0)).value();
    for (int round = 1; round <= 5; ++round) ledger->charge(charge_of("j", round)).value();
  }
  const auto entries = read_ledger(path_).value();
  const Accounts accounts = audit(entries).value();
  const Account& account = *accounts.find("messages");
  for (const LedgerEntry& entry : entries) EXPECT_EQ(entry.budget, account.budget);
  EXPECT_EQ(account.budget->epsilon, 3.0);
  EXPECT_EQ(account.budget->order, filter_order(charge_of("j", 1).mechanism, 3.0, 1e-5));
}

TEST_F(LedgerTrustTest, AChargeBeyondItsOwnStatedCapIsFoundEvenIfTheSiteSignedIt) {
  open(budget_of(3.0)).value()->charge(charge_of("j", 1)).value();
  auto text = lines();
  LedgerEntry entry = parse_ledger_entry(text.at(1)).value();
  entry.budget->epsilon = 0.01;
  text.at(1) = forge(entry, *owner().signer);
  write_lines(text);
  const auto ledger = open(budget_of(3.0));
  ASSERT_FALSE(ledger.ok());
  EXPECT_EQ(ledger.error().code, Errc::corrupt);
  EXPECT_THAT(ledger.error().message, AllOf(HasSubstr("entry 1 should not be there"), HasSubstr("cap of 0.01")));
}

TEST_F(LedgerTrustTest, NeitherARestartNorAnotherConfigurationMovesTheOrder) {
  open(budget_of(8.0)).value()->charge(charge_of("j", 1)).value();
  Charge coarse = charge_of("j", 2);
  coarse.mechanism.sample_rate = 1.0;
  coarse.mechanism.noise_multiplier = 9.0;
  coarse.mechanism.steps = 1;
  ASSERT_NE(filter_order(coarse.mechanism, 6.0, 1e-6), filter_order(charge_of("j", 1).mechanism, 8.0, 1e-5));
  open({{"messages", 6.0, 1e-6}}).value()->charge(coarse).value();
  const auto entries = read_ledger(path_).value();
  EXPECT_EQ(entries[1].budget->order, entries[0].budget->order);
  EXPECT_EQ(entries[1].budget->epsilon, 6.0);
  EXPECT_EQ(entries[1].budget->delta, 1e-6);

  auto text = lines();
  LedgerEntry moved = entries[1];
  moved.budget->order = moved.budget->order == 2.0 ? 3.0 : 2.0;
  text.at(2) = forge(moved, *owner().signer);
  write_lines(text);
  EXPECT_THAT(open().error().message, HasSubstr("entry 2 should not be there: it moves the Rényi order"));
}

TEST_F(LedgerTrustTest, ALoweredCapDeclinesWhatIsLeftAndARaisedOneGoesOnFromWhatWasSpent) {
  const auto epsilon = [&] { return audit(read_ledger(path_).value()).value().find("messages")->filtered_epsilon(); };
  {
    const auto ledger = open(budget_of(8.0)).value();
    for (int round = 1; round <= 20; ++round) ledger->charge(charge_of("j", round)).value();
  }
  const double spent = epsilon();
  ASSERT_GT(spent, 1.0);
  EXPECT_EQ(open(budget_of(spent / 2)).value()->charge(charge_of("j", 21)).error().code, Errc::over_budget);
  EXPECT_EQ(epsilon(), spent);
  open(budget_of(9.0)).value()->charge(charge_of("j", 21)).value();
  EXPECT_GT(epsilon(), spent);
  EXPECT_TRUE(open(budget_of(1.0)).ok()) << "a ledger beyond today's cap is sound: it was within the cap of its day";
}

// A server that sees every answer and chooses its next round by it. Whatever it tries, the epsilon of what was
// accepted, computed here from the mechanisms alone, stays within the cap.
class HostileServer : public testing::TestWithParam<unsigned> {};

TEST_P(HostileServer, NeverPassesTheCap) {
  std::mt19937 random(GetParam());
  const auto pick = [&](const std::vector<double>& values) { return values[random() % values.size()]; };
  const double cap = pick({0.3, 1.0, 2.0, 8.0}), delta = pick({1e-5, 1e-6, 1e-9});
  ManualClock clock;
  TemporaryDirectory directory;
  const auto path = directory / "ledger.jsonl";
  auto ledger = Ledger::open(path, owner(), {{"messages", cap, delta}}, clock).value();
  const std::vector<double> rates{1e-5, 1e-3, 0.02, 0.3, 0.999, 1.0};
  const std::vector<double> sigmas{0.05, 0.4, 0.8, 1.1, 5.0, 60.0, 4000.0};
  std::vector<double> divergences(rdp_orders().size(), 0.0);
  std::size_t order = rdp_orders().size();
  std::int64_t accepted = 0, steps = 1;
  Mechanism last{MechanismKind::poisson_subsampled_gaussian, 0.02, 1.1, 0.5, 1};
  bool was_accepted = true;
  for (int round = 1; round <= 300; ++round) {
    Charge charge = charge_of("hostile", round);
    charge.target_delta = delta;
    Mechanism& mechanism = charge.mechanism;
    switch (random() % 3) {
      case 0:  // anything
        mechanism = {MechanismKind::poisson_subsampled_gaussian, pick(rates), pick(sigmas), 0.5,
                     std::int64_t{1} << (random() % 20)};
        break;
      case 1:  // closing in on the cap with what worked: doubling while it is accepted, halving when it is not
        mechanism = last;
        mechanism.steps = steps =
            was_accepted ? std::min<std::int64_t>(steps * 2, 1 << 30) : std::max<std::int64_t>(steps / 2, 1);
        break;
      default:  // the smallest noise of all, or the most of it, once
        mechanism = {MechanismKind::poisson_subsampled_gaussian, pick({1.0, 1e-5}), pick({0.05, 4000.0}), 0.5, 1};
    }
    if (round % 97 == 0) {  // a restart helps it as little
      ledger.reset();
      ledger = Ledger::open(path, owner(), {{"messages", cap, delta}}, clock).value();
    }
    was_accepted = ledger->charge(charge).ok();
    if (was_accepted) {
      if (accepted++ == 0) {
        const double fixed = ledger->accounts().find("messages")->budget->order;
        order =
            static_cast<std::size_t>(std::find(rdp_orders().begin(), rdp_orders().end(), fixed) - rdp_orders().begin());
      }
      last = mechanism;
      const RdpCurve one = RdpCurve().add(mechanism);
      for (std::size_t i = 0; i < divergences.size(); ++i) divergences[i] += one.divergences()[i];
    }
    if (accepted == 0) continue;
    // Canonne, Kamath and Steinke 2020, Proposition 12, at the one order that counts.
    const double alpha = rdp_orders()[order];
    const double epsilon = divergences[order] + std::log1p(-1.0 / alpha) - std::log(delta * alpha) / (alpha - 1.0);
    ASSERT_LE(epsilon, cap * (1 + 1e-9)) << "round " << round;
    ASSERT_LE(ledger->epsilon_spent("messages", delta), cap * (1 + 1e-9));
  }
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, 300);
  const auto replayed = audit(read_ledger(path).value());
  ASSERT_TRUE(replayed.ok()) << replayed.error().message;
  EXPECT_LE(replayed->find("messages")->filtered_epsilon(), cap * (1 + 1e-9));
}

INSTANTIATE_TEST_SUITE_P(Seeds, HostileServer, testing::Range(1u, 13u));

// --- Data sets ---

constexpr std::string_view first_file = "first", grown_file = "grown";

TEST_F(LedgerTrustTest, AChangedFileUnderTheSameNameIsRefusedAndTheMessageSaysWhatToDo) {
  const auto ledger = open().value();
  ledger->declare_data("messages", 5000, sha256(first_file)).value();
  ledger->declare_data("messages", 5000, sha256(first_file)).value();
  EXPECT_EQ(ledger->head().count, 1) << "the same file is declared once";
  const Status changed = ledger->declare_data("messages", 5000, sha256(grown_file));
  ASSERT_FALSE(changed.ok());
  EXPECT_EQ(changed.error().code, Errc::permission_denied);
  EXPECT_THAT(changed.error().message, AllOf(HasSubstr("'messages'"), HasSubstr("trib-client data update messages"),
                                             HasSubstr("put the old file back")));
  EXPECT_EQ(ledger->head().count, 1);
}

TEST_F(LedgerTrustTest, ANewVersionInheritsWhatItsRecordsHaveSpent) {
  double before = 0.0;
  {
    const auto ledger = open().value();
    ledger->declare_data("messages", 5000, sha256(first_file)).value();
    ledger->charge(charge_of("j", 1)).value();
    before = ledger->epsilon_spent("messages", 1e-5);
    ledger->update_data("messages", 7000, sha256(grown_file)).value();
    EXPECT_EQ(ledger->update_data("messages", 7000, sha256(grown_file)).error().code, Errc::already_exists);
  }
  const auto ledger = open().value();
  ledger->declare_data("messages", 7000, sha256(grown_file)).value();
  EXPECT_FALSE(ledger->declare_data("messages", 5000, sha256(first_file)).ok()) << "nor does it go back by itself";
  EXPECT_EQ(ledger->epsilon_spent("messages", 1e-5), before);
  const Accounts accounts = ledger->accounts();
  const auto& versions = accounts.find("messages")->versions;
  ASSERT_EQ(versions.size(), 2u);
  EXPECT_EQ(versions[1].version, 2);
  EXPECT_EQ(versions[1].declared_records, 7000);
}

TEST_F(LedgerTrustTest, TheSameFileUnderASecondNameGetsNoSecondBudget) {
  const std::vector<Budget> both{{"messages", 8.0, 1e-5}, {"again", 8.0, 1e-5}};
  const auto ledger = open(both).value();
  ledger->declare_data("messages", 5000, sha256(first_file)).value();
  ledger->charge(charge_of("j", 1)).value();
  const Status second = ledger->declare_data("again", 5000, sha256(first_file));
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, Errc::permission_denied);
  EXPECT_THAT(second.error().message, AllOf(HasSubstr("same file as data set 'messages'"), HasSubstr("second budget")));
  EXPECT_FALSE(ledger->update_data("again", 5000, sha256(first_file)).ok());
}

TEST_F(LedgerTrustTest, ANameThatGotItsBudgetLaterIsDeclinedToo) {
  {
    const auto ledger = open().value();
    ledger->declare_data("messages", 5000, sha256(first_file)).value();
    ledger->declare_data("again", 5000, sha256(first_file)).value();  // no budget: it could only be read openly
    ledger->charge(charge_of("j", 1)).value();
  }
  const auto ledger = open({{"messages", 8.0, 1e-5}, {"again", 8.0, 1e-5}}).value();
  const Status second = ledger->charge(charge_of("j", 1, "again"));
  EXPECT_EQ(second.error().code, Errc::over_budget);
  EXPECT_THAT(second.error().message, HasSubstr("let the job name 'messages'"));
  EXPECT_TRUE(ledger->charge(charge_of("j", 2)).ok()) << "the first name goes on";
}

TEST_F(LedgerTrustTest, AFileThatWasReadOpenlyUnderAnotherNameTakesNoPrivateJobAnyMore) {
  const auto ledger = open().value();
  ledger->declare_data("messages", 5000, sha256(first_file)).value();
  ledger->charge(charge_of("j", 1)).value();
  ledger->declare_data("without-privacy", 5000, sha256(first_file)).value();
  Charge open_charge = non_private_charge("plain", 1);
  open_charge.data_set = "without-privacy";
  ledger->charge(open_charge).value();
  EXPECT_TRUE(std::isinf(ledger->epsilon_spent("without-privacy", 1e-5)));
  EXPECT_TRUE(std::isfinite(ledger->epsilon_spent("messages", 1e-5))) << "what was released under its own name";
  const Status declined = ledger->charge(charge_of("j", 2));
  EXPECT_EQ(declined.error().code, Errc::over_budget);
  EXPECT_THAT(declined.error().message, HasSubstr("same file as 'without-privacy', which was read without privacy"));
}

TEST_F(LedgerTrustTest, ADeclarationThatACrashCutShortSpendsNothing) {
  open().value()->charge(charge_of("j", 1)).value();
  const double before = open().value()->epsilon_spent("messages", 1e-5);
  spit(path_, slurp(path_) + "{\"number\":2,\"kind\":\"data\",\"data_set\":\"mess");
  const auto ledger = open().value();
  EXPECT_EQ(ledger->epsilon_spent("messages", 1e-5), before);
  EXPECT_THAT(ledger->entries().back().note, HasSubstr("spent nothing"));
  ledger->declare_data("messages", 5000, sha256(first_file)).value();
}

// --- Clocks and disks ---

TEST_F(LedgerTrustTest, AClockThatJumpsBackLeavesTimesInOrderAndAMark) {
  const WallTime later = clock_.wall_now() + std::chrono::hours(48);
  clock_.set_wall(later);
  {
    const auto ledger = open().value();
    ledger->charge(charge_of("j", 1)).value();
    clock_.set_wall(later - std::chrono::hours(47));
    ledger->charge(charge_of("j", 2)).value();
  }
  {
    const auto ledger = open().value();  // and after a restart
    ledger->charge(charge_of("j", 3)).value();
    clock_.set_wall(later + std::chrono::hours(1));
    ledger->charge(charge_of("j", 4)).value();
  }
  const auto entries = read_ledger(path_).value();
  EXPECT_EQ(entries[1].time, to_iso8601(later));
  EXPECT_THAT(entries[1].note, HasSubstr("the clock said " + to_iso8601(later - std::chrono::hours(47))));
  EXPECT_EQ(entries[2].time, to_iso8601(later));
  EXPECT_EQ(entries[3].time, to_iso8601(later + std::chrono::hours(1)));
  EXPECT_EQ(entries[3].note, "");

  auto text = lines();
  LedgerEntry last = entries[3];
  last.time = to_iso8601(later - std::chrono::hours(1));
  text.back() = forge(last, *owner().signer);
  write_lines(text);
  EXPECT_THAT(open().error().message, HasSubstr("line 5 (entry 4): its time"));
}

TEST_F(LedgerTrustTest, AReadOnlyDiskIsNamedAndNothingIsCharged) {
  const std::filesystem::path mount = directory_ / "disk";
  std::filesystem::create_directory(mount);
  owner();
  const int status = in_child([&] {
    if (::unshare(CLONE_NEWNS) != 0) ::_exit(99);
    if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) ::_exit(99);
    if (::mount("tmpfs", mount.c_str(), "tmpfs", 0, "size=65536") != 0) ::_exit(99);
    const auto path = mount / "ledger.jsonl";
    Ledger::open(path, owner(), budget_of(8.0), clock_).value()->charge(charge_of("j", 1)).value();
    if (::mount("none", mount.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr) != 0) ::_exit(98);
    const auto ledger = Ledger::open(path, owner(), budget_of(8.0), clock_);
    if (ledger.ok()) ::_exit(1);
    if (ledger.error().message.find("Read-only file system") == std::string::npos) ::_exit(2);
    if (ledger.error().message.find(path.string()) == std::string::npos) ::_exit(3);
    ::_exit(read_ledger(path).value().size() == 1 ? 0 : 4);
  });
  if (WEXITSTATUS(status) == 99) GTEST_SKIP() << "this account may not mount a disk";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

// --- Seals ---

TEST(Seal, IsCheckedByAnyoneWithTheBytesAndTheKey) {
  const auto signer = throwaway_signer();
  const std::string text = seal("{\"a\":1", *signer).value();
  const Sealed sealed = open_sealed(text).value();
  EXPECT_EQ(sealed.body, "{\"a\":1");
  EXPECT_EQ(sealed.hash, sha256("{\"a\":1"));
  EXPECT_TRUE(sealed.signed_by(signer->public_key()));
  EXPECT_FALSE(sealed.signed_by(throwaway_signer()->public_key()));
  EXPECT_THAT(open_sealed("{\"a\":2" + text.substr(6)).error().message, HasSubstr("edited"));
  EXPECT_THAT(open_sealed(text.substr(0, text.size() - 1)).error().message, HasSubstr("cut"));
}

}  // namespace
}  // namespace trib::privacy
