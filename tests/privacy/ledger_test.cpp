#include "privacy/ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <spdlog/spdlog.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <thread>

#include "ledger_fixture.h"
#include "privacy/accountant.h"

namespace trib::privacy {
namespace {

using testing::AllOf;
using testing::HasSubstr;

double epsilon_of(std::int64_t charges) {
  const Mechanism mechanism = charge_of("j", 1).mechanism;
  return RdpCurve().add(mechanism.sample_rate, mechanism.noise_multiplier, charges * mechanism.steps).epsilon(1e-5);
}

class LedgerTest : public testing::Test {
 protected:
  Result<std::unique_ptr<Ledger>> open(double cap = 8.0) {
    return Ledger::open(path_, owner(), budget_of(cap), clock_);
  }

  // Writes `rounds` charges of job "j".
  void write(std::int64_t rounds) {
    auto ledger = open().value();
    for (std::int64_t round = 1; round <= rounds; ++round) ledger->charge(charge_of("j", round)).value();
  }

  // Line `number` (1-based) of the file, without its newline.
  std::string line(int number) const {
    std::istringstream text(slurp(path_));
    std::string line;
    for (int i = 0; i < number; ++i) std::getline(text, line);
    return line;
  }

  void expect_corrupt(const std::string& what) {
    const auto ledger = open();
    ASSERT_FALSE(ledger.ok());
    EXPECT_EQ(ledger.error().code, Errc::corrupt);
    EXPECT_THAT(ledger.error().message, HasSubstr(what));
    EXPECT_EQ(read_ledger(path_).error().code, Errc::corrupt);
  }

  TemporaryDirectory directory_;
  std::filesystem::path path_ = directory_ / "ledger.jsonl";
  ManualClock clock_;
};

TEST_F(LedgerTest, WhatWasChargedIsThereAfterARestart) {
  write(3);
  const auto ledger = open().value();
  ASSERT_EQ(ledger->entries().size(), 3u);
  const LedgerEntry entry = ledger->entries().at(1);
  const Charge expected = charge_of("j", 2);
  EXPECT_EQ(entry.number, 2);
  EXPECT_EQ(entry.time, to_iso8601(clock_.wall_now()));
  EXPECT_EQ(entry.charge.job, expected.job);
  EXPECT_EQ(entry.charge.round, expected.round);
  EXPECT_EQ(entry.charge.data_set, expected.data_set);
  EXPECT_EQ(entry.charge.declared_records, expected.declared_records);
  EXPECT_EQ(entry.charge.target_delta, expected.target_delta);
  EXPECT_EQ(entry.charge.mechanism.sample_rate, expected.mechanism.sample_rate);
  EXPECT_EQ(entry.charge.mechanism.noise_multiplier, expected.mechanism.noise_multiplier);
  EXPECT_EQ(entry.charge.mechanism.clip_norm, expected.mechanism.clip_norm);
  EXPECT_EQ(entry.charge.mechanism.steps, expected.mechanism.steps);
  EXPECT_DOUBLE_EQ(ledger->epsilon_spent("messages", 1e-5), epsilon_of(3));
  EXPECT_EQ(ledger->epsilon_spent("other", 1e-5), 0.0);
}

TEST_F(LedgerTest, TheFileIsReadableByItsOwnerOnly) {
  write(1);
  struct stat status {};
  ASSERT_EQ(::stat(path_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST_F(LedgerTest, EpsilonAfterIsWhatSpendingWouldBe) {
  const auto ledger = open().value();
  const double foretold = ledger->epsilon_after("messages", 1e-5, charge_of("j", 1));
  EXPECT_EQ(ledger->epsilon_spent("messages", 1e-5), 0.0);
  ledger->charge(charge_of("j", 1)).value();
  EXPECT_DOUBLE_EQ(ledger->epsilon_spent("messages", 1e-5), foretold);
}

TEST_F(LedgerTest, RefusesTheSameRoundTwiceEvenAfterARestart) {
  write(1);
  const auto ledger = open().value();
  EXPECT_TRUE(ledger->charged("j", 1, "messages"));
  EXPECT_FALSE(ledger->charged("j", 2, "messages"));
  EXPECT_EQ(ledger->charge(charge_of("j", 1)).error().code, Errc::already_exists);
  EXPECT_EQ(ledger->entries().size(), 1u);
}

TEST_F(LedgerTest, RefusesAChargeOverTheCapAcrossJobsAndRestartsAndWritesNothing) {
  const double cap = epsilon_of(3) * (1.0 + 1e-9);
  open(cap).value()->charge(charge_of("first", 1)).value();
  open(cap).value()->charge(charge_of("second", 1)).value();
  const auto ledger = open(cap).value();
  ledger->charge(charge_of("third", 1)).value();
  const std::string before = slurp(path_);
  const Status status = ledger->charge(charge_of("fourth", 1));
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, Errc::over_budget);
  EXPECT_THAT(status.error().message, HasSubstr("'messages'"));
  EXPECT_THAT(status.error().message, HasSubstr("'fourth'"));
  EXPECT_EQ(slurp(path_), before);
  EXPECT_FALSE(ledger->charged("fourth", 1, "messages"));
}

TEST_F(LedgerTest, AServerThatMixesMechanismsCannotPassTheCap) {
  const auto ledger = open(2.0).value();
  const double sigmas[] = {3.0, 0.8, 20.0, 1.2};
  int accepted = 0;
  for (int round = 1; round <= 400; ++round) {
    Charge charge = charge_of("adaptive", round);
    charge.mechanism.noise_multiplier = sigmas[round % 4];
    charge.mechanism.sample_rate = round % 3 == 0 ? 0.2 : 0.001;
    accepted += ledger->charge(charge).ok() ? 1 : 0;
    ASSERT_LE(ledger->epsilon_spent("messages", 1e-5), 2.0);
  }
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, 400);
}

TEST_F(LedgerTest, RefusesADataSetWithoutABudget) {
  const auto ledger = open().value();
  const Status status = ledger->charge(charge_of("j", 1, "unknown"));
  EXPECT_EQ(status.error().code, Errc::over_budget);
  EXPECT_THAT(status.error().message, HasSubstr("no budget"));
}

TEST_F(LedgerTest, DataSetsHaveBudgetsOfTheirOwn) {
  const double cap = epsilon_of(1) * 1.001;
  const auto ledger = Ledger::open(path_, owner(), {{"a", cap, 1e-5}, {"b", cap, 1e-5}}, clock_).value();
  EXPECT_TRUE(ledger->charge(charge_of("j", 1, "a")).ok());
  EXPECT_TRUE(ledger->charge(charge_of("j", 1, "b")).ok());
  EXPECT_FALSE(ledger->charge(charge_of("j", 2, "a")).ok());
}

TEST_F(LedgerTest, RefusesChargesThatCannotBeAccountedFor) {
  const auto ledger = open().value();
  const auto expect_refused = [&](const std::function<void(Charge&)>& change, const std::string& what) {
    Charge charge = charge_of("j", 1);
    change(charge);
    const Status status = ledger->charge(charge);
    ASSERT_FALSE(status.ok()) << what;
    EXPECT_EQ(status.error().code, Errc::invalid_argument);
    EXPECT_THAT(status.error().message, HasSubstr(what));
  };
  expect_refused([](Charge& c) { c.mechanism.sample_rate = 1.5; }, "sample_rate is 1.5");
  expect_refused([](Charge& c) { c.mechanism.sample_rate = std::nan(""); }, "sample_rate is nan");
  expect_refused([](Charge& c) { c.mechanism.noise_multiplier = -1.0; }, "noise_multiplier is -1");
  expect_refused([](Charge& c) { c.mechanism.clip_norm = 0.0; }, "clip_norm is 0");
  expect_refused([](Charge& c) { c.mechanism.steps = 0; }, "steps is 0");
  expect_refused([](Charge& c) { c.declared_records = 0; }, "declared_records is 0");
  expect_refused([](Charge& c) { c.target_delta = 1.0 / 5000; }, "lower the job's delta");
  expect_refused([](Charge& c) { c.job = ""; }, "a job's id");
  expect_refused([](Charge& c) { c.job = "\xff"; }, "cannot be recorded");
  expect_refused([](Charge& c) { c.declared_records = 200000, c.target_delta = 1e-6; }, "lower it in the site's");
  EXPECT_TRUE(ledger->entries().empty());
}

TEST_F(LedgerTest, RefusesBudgetsThatMakeNoSense) {
  EXPECT_EQ(Ledger::open(path_, owner(), {{"a", 0.0, 1e-5}}, clock_).error().code, Errc::invalid_argument);
  EXPECT_EQ(Ledger::open(path_, owner(), {{"a", 1.0, 1.0}}, clock_).error().code, Errc::invalid_argument);
  EXPECT_EQ(Ledger::open(path_, owner(), {{"a", 1.0, 1e-5}, {"a", 9.0, 1e-5}}, clock_).error().code,
            Errc::invalid_argument);
}

TEST_F(LedgerTest, ADataSetThatWasReadWithoutPrivacyHasNoBoundAndTakesNoPrivateJob) {
  const auto ledger = open().value();
  ledger->charge(non_private_charge("plain", 1)).value();
  EXPECT_TRUE(std::isinf(ledger->epsilon_spent("messages", 1e-5)));
  const Status status = ledger->charge(charge_of("j", 1));
  EXPECT_EQ(status.error().code, Errc::over_budget);
  EXPECT_THAT(status.error().message, HasSubstr("without privacy (entry 1"));
}

TEST_F(LedgerTest, NamesWithQuotesNewlinesAndUmlautsSurvive) {
  const std::string job = "a \"job\",\nof München \\ {}";
  open().value()->charge(charge_of(job, 1)).value();
  EXPECT_EQ(open().value()->entries().at(0).charge.job, job);
}

TEST_F(LedgerTest, EveryEditedByteIsFoundAndTheEntryNamed) {
  write(3);
  const std::string good = slurp(path_);
  std::size_t line_number = 1;
  for (std::size_t i = 0; i + 1 < good.size(); ++i) {  // without the last newline the line is torn: see below
    if (good[i] == '\n') ++line_number;
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 1);
    spit(path_, bad);
    const auto entries = read_ledger(path_);
    ASSERT_FALSE(entries.ok()) << "byte " << i;
    if (line_number > 1 && good[i] != '\n') {
      ASSERT_THAT(entries.error().message, HasSubstr("line " + std::to_string(line_number) + " (entry "));
    }
  }
}

TEST_F(LedgerTest, ACorruptLedgerIsNotOpenedAndTheMessageSaysWhatToDo) {
  write(3);
  std::string text = slurp(path_);
  text.replace(text.find("\"steps\":10", text.find("\"number\":2")), 10, "\"steps\":11");
  spit(path_, text);
  expect_corrupt("line 3 (entry 2): its hash does not match its bytes");
  EXPECT_THAT(open().error().message, HasSubstr("restore it from a backup"));
}

TEST_F(LedgerTest, ARemovedEntryIsFound) {
  write(3);
  spit(path_, line(1) + "\n" + line(2) + "\n" + line(4) + "\n");
  expect_corrupt("line 3 (entry 3): it does not follow entry 1");
}

TEST_F(LedgerTest, ReorderedEntriesAreFound) {
  write(2);
  spit(path_, line(1) + "\n" + line(3) + "\n" + line(2) + "\n");
  expect_corrupt("line 2 (entry 2)");
}

TEST_F(LedgerTest, AnEntryOfAnotherLedgerIsFound) {
  write(1);
  const std::string theirs = line(2);
  std::filesystem::remove(path_);
  write(1);
  spit(path_, line(1) + "\n" + theirs + "\n");
  expect_corrupt("line 2 (entry 1): it does not follow");
}

TEST_F(LedgerTest, AFileThatIsNoLedgerIsRefused) {
  spit(path_, "");
  expect_corrupt("no header");
  spit(path_, "hello\n");
  expect_corrupt("line 1");
}

TEST_F(LedgerTest, ALedgerOfALaterFormatIsRefusedAsSuch) {
  write(1);
  std::string text = slurp(path_);
  text.replace(text.find("\"version\":2"), 11, "\"version\":3");
  spit(path_, text);
  EXPECT_EQ(open().error().code, Errc::unsupported);
}

TEST_F(LedgerTest, AnUnsignedLedgerOfTheFirstFormatIsRefusedWithWhatToDo) {
  const std::string before =
      "{\"format\":\"tributary-privacy-ledger\",\"version\":1,\"id\":\"00\",\"created\":\"2026-01-01T00:00:00.000Z\"}"
      "\n";
  spit(path_, before);
  const auto ledger = open();
  ASSERT_FALSE(ledger.ok());
  EXPECT_EQ(ledger.error().code, Errc::unsupported);
  EXPECT_THAT(ledger.error().message, AllOf(HasSubstr("nobody signed"), HasSubstr("take what it spent off the caps")));
  EXPECT_EQ(slurp(path_), before);
}

TEST_F(LedgerTest, TheHeadTellsACutLedgerFromAWholeOne) {
  write(2);
  const std::string shorter = slurp(path_);
  LedgerHead head;
  {
    const auto ledger = open().value();
    EXPECT_EQ(ledger->head().count, 2);
    ledger->charge(charge_of("j", 3)).value();
    head = ledger->head();
  }
  EXPECT_EQ(open().value()->head(), head);
  spit(path_, shorter);
  EXPECT_EQ(open().value()->head().count, head.count - 1);
}

// --- A line that a crash cut short ---

TEST_F(LedgerTest, ALineTornAtAnyByteIsCountedAsSpentOnce) {
  spdlog::set_level(spdlog::level::err);  // it warns every time
  write(2);
  const std::string whole = slurp(path_);
  const std::size_t last = whole.find(line(3));
  for (std::size_t length = last + 1; length < whole.size(); ++length) {
    spit(path_, whole.substr(0, length));
    LedgerHead head;
    {
      const auto ledger = open();
      ASSERT_TRUE(ledger.ok()) << ledger.error().message;
      ASSERT_DOUBLE_EQ((*ledger)->epsilon_spent("messages", 1e-5), epsilon_of(2)) << "torn after " << length - last;
      // The costs and the names before the time: a charge like any other.
      if (length > whole.find("\"declared_records\"", last)) {
        ASSERT_TRUE((*ledger)->charged("j", 2, "messages"));
      }
      head = (*ledger)->head();
    }
    const auto again = open();
    ASSERT_TRUE(again.ok()) << again.error().message;
    ASSERT_EQ((*again)->head(), head) << "settled once, not at every start";
    ASSERT_DOUBLE_EQ((*again)->epsilon_spent("messages", 1e-5), epsilon_of(2));
    ASSERT_TRUE((*again)->charge(charge_of("j", 3)).ok());
  }
  spdlog::set_level(spdlog::level::info);
}

TEST_F(LedgerTest, ALineThatLacksOnlyItsNewlineIsCompleted) {
  write(2);
  const std::string whole = slurp(path_);
  spit(path_, whole.substr(0, whole.size() - 1));
  open().value();
  EXPECT_EQ(slurp(path_), whole);
}

TEST_F(LedgerTest, ATornLineOfAnUnknownDataSetIsCountedForEveryDataSetAtItsCostliest) {
  Charge costly = charge_of("j", 1, "a");
  costly.mechanism.steps = 100;
  const std::vector<Budget> budgets{{"a", 8.0, 1e-5}, {"b", 8.0, 1e-5}};
  {
    const auto ledger = Ledger::open(path_, owner(), budgets, clock_).value();
    ledger->charge(costly).value();
    ledger->charge(charge_of("j", 2, "a")).value();
    ledger->charge(charge_of("j", 3, "b")).value();
  }
  spit(path_, slurp(path_) + "{\"numb");
  EXPECT_EQ(read_ledger(path_).error().code, Errc::unavailable);
  const auto ledger = Ledger::open(path_, owner(), budgets, clock_).value();
  EXPECT_DOUBLE_EQ(ledger->epsilon_spent("a", 1e-5), epsilon_of(21));
  EXPECT_DOUBLE_EQ(ledger->epsilon_spent("b", 1e-5), epsilon_of(2));
  EXPECT_THAT(ledger->entries().back().note, HasSubstr("crash"));
}

TEST_F(LedgerTest, AFirstLineTornBeyondReadingIsRecordedAndCostsNothing) {
  write(0);
  spit(path_, slurp(path_) + "{\"n");
  const auto ledger = open().value();
  ASSERT_EQ(ledger->entries().size(), 1u);
  EXPECT_THAT(ledger->entries().at(0).note, HasSubstr("no record had been read"));
  EXPECT_EQ(ledger->epsilon_spent("messages", 1e-5), 0.0);
  EXPECT_TRUE(ledger->charge(charge_of("j", 1)).ok());
}

// --- Backups ---

TEST_F(LedgerTest, AGapChargesEveryMissingEntryAtTheWorstCase) {
  write(2);
  LedgerHead head;
  {
    const auto ledger = open().value();
    ledger->charge_gap(3, charge_of("j", 0)).value();
    head = ledger->head();
  }
  const auto ledger = open().value();
  EXPECT_DOUBLE_EQ(ledger->epsilon_spent("messages", 1e-5), epsilon_of(5));
  EXPECT_EQ(head.count, 6) << "three lost entries and the gap itself: past every head the server knows";
  EXPECT_EQ(ledger->head(), head);
  EXPECT_TRUE(ledger->entries().back().kind == EntryKind::gap);
  EXPECT_FALSE(ledger->charged("j", 0, "messages")) << "a gap is no charge to train on";
}

TEST_F(LedgerTest, AGapIsChargedToEveryDataSetAtOnce) {
  write(2);
  const std::vector<Charge> worst{charge_of("j", 0, "a"), charge_of("j", 0, "b"), charge_of("j", 0)};
  LedgerHead head;
  {
    const auto ledger = open().value();
    ledger->charge_gap(1, worst).value();
    ledger->charge(charge_of("j", 3)).value();
    head = ledger->head();
  }
  const auto ledger = open().value();
  EXPECT_EQ(ledger->head(), head);
  EXPECT_DOUBLE_EQ(ledger->epsilon_spent("a", 1e-5), epsilon_of(1));
  EXPECT_DOUBLE_EQ(ledger->epsilon_spent("b", 1e-5), epsilon_of(1));
  EXPECT_DOUBLE_EQ(ledger->epsilon_spent("messages", 1e-5), epsilon_of(4));
  EXPECT_EQ(ledger->charge_gap(1, std::vector<Charge>{}).error().code, Errc::invalid_argument);
}

TEST_F(LedgerTest, AGapIsChargedEvenOverTheCapForItIsSpentAlready) {
  const auto ledger = open(epsilon_of(1) * 1.001).value();
  ledger->charge_gap(50, charge_of("j", 0)).value();
  EXPECT_GT(ledger->epsilon_spent("messages", 1e-5), epsilon_of(49));
  EXPECT_EQ(ledger->charge(charge_of("j", 1)).error().code, Errc::over_budget);
}

TEST_F(LedgerTest, AGapOfNothingOrOfTooMuchIsRefused) {
  const auto ledger = open().value();
  EXPECT_EQ(ledger->charge_gap(0, charge_of("j", 0)).error().code, Errc::invalid_argument);
  EXPECT_EQ(ledger->charge_gap(std::int64_t{1} << 60, charge_of("j", 0)).error().code, Errc::invalid_argument);
}

// --- Processes, threads and crashes ---

TEST_F(LedgerTest, ASecondProcessIsRefusedUntilTheFirstIsGone) {
  auto ledger = open().value();
  const int status = in_child([&] { ::_exit(open().error().code == Errc::unavailable ? 7 : 1); });
  EXPECT_EQ(WEXITSTATUS(status), 7);
  EXPECT_EQ(open().error().code, Errc::unavailable) << "nor twice in one process";
  ledger.reset();
  EXPECT_TRUE(open().ok());
}

TEST_F(LedgerTest, ThreadsChargeWithoutLosingAnEntry) {
  const auto ledger = open(1e6).value();
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 1; round <= 25; ++round) {
        if (!ledger->charge(charge_of("job" + std::to_string(t), round)).ok()) ++failures;
        (void)ledger->epsilon_spent("messages", 1e-5);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(read_ledger(path_).value().size(), 100u);
  EXPECT_NEAR(ledger->epsilon_spent("messages", 1e-5), epsilon_of(100), 1e-12);
}

#if defined(TRIBUTARY_FAILPOINTS)
TEST_F(LedgerTest, KilledAnywhereAroundAnAppendItNeverRecordsLessThanWasAcknowledged) {
  for (const std::string failpoint : {"ledger.before_write", "ledger.after_write", "ledger.after_fsync"}) {
    for (int hit = 1; hit <= 5; ++hit) {
      std::filesystem::remove(path_);
      const std::filesystem::path acknowledged = directory_ / "acknowledged";
      spit(acknowledged, "");
      ASSERT_TRUE(killed_at(failpoint + ":" + std::to_string(hit), [&] {
        auto ledger = open().value();
        for (std::int64_t round = 1; round <= 10; ++round) {
          ledger->charge(charge_of("j", round)).value();
          spit(acknowledged, std::to_string(round));  // from here on records may be read
        }
      })) << failpoint;
      const auto ledger = open().value();
      const std::string text = slurp(acknowledged);
      const std::int64_t trained = text.empty() ? 0 : std::stoll(text);
      EXPECT_EQ(trained, hit - 1);
      EXPECT_GE(ledger->head().count, trained);
      EXPECT_LE(ledger->head().count, hit);
      EXPECT_GE(ledger->epsilon_spent("messages", 1e-5), epsilon_of(trained));
      EXPECT_TRUE(failpoint != "ledger.after_fsync" || ledger->head().count == hit);
    }
  }
}
#endif

TEST_F(LedgerTest, AFileReplacedWhileItIsOpenIsNotAppendedTo) {
  const auto ledger = open().value();
  ledger->charge(charge_of("j", 1)).value();
  const std::string backup = slurp(path_);
  ledger->charge(charge_of("j", 2)).value();
  std::filesystem::remove(path_);
  spit(path_, backup);
  EXPECT_EQ(ledger->charge(charge_of("j", 3)).error().code, Errc::corrupt);
  EXPECT_EQ(slurp(path_), backup);
}

TEST_F(LedgerTest, AWriteThatFailsHalfwayIsUndoneAndCostsNothing) {
  write(1);
  const std::string before = slurp(path_);
  const int status = in_child([&] {
    auto ledger = open().value();
    ::signal(SIGXFSZ, SIG_IGN);
    rlimit limit{before.size() + 100, RLIM_INFINITY};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const bool refused = !ledger->charge(charge_of("j", 2)).ok();
    const bool undone = slurp(path_) == before && !ledger->charged("j", 2, "messages");
    limit.rlim_cur = RLIM_INFINITY;
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const bool goes_on = ledger->charge(charge_of("j", 2)).ok();
    ::_exit((refused ? 1 : 0) + (undone ? 2 : 0) + (goes_on ? 4 : 0));
  });
  EXPECT_EQ(WEXITSTATUS(status), 7);
  EXPECT_EQ(read_ledger(path_).value().size(), 2u);
}

TEST_F(LedgerTest, AFullDiskIsReportedAsSuchAndTheLedgerStaysWhole) {
  const std::filesystem::path mount = directory_ / "disk";
  std::filesystem::create_directory(mount);
  const int status = in_child([&] {
    if (::unshare(CLONE_NEWNS) != 0 && ::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) ::_exit(99);
    if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) ::_exit(99);
    if (::mount("tmpfs", mount.c_str(), "tmpfs", 0, "size=65536") != 0) ::_exit(99);
    auto ledger = Ledger::open(mount / "ledger.jsonl", owner(), budget_of(1e6), clock_).value();
    for (std::int64_t round = 1; round <= 1000; ++round) {
      const Status charged = ledger->charge(charge_of("j", round));
      if (charged.ok()) continue;
      if (charged.error().code != Errc::no_space) ::_exit(2);
      const auto entries = read_ledger(mount / "ledger.jsonl");
      ::_exit(entries.ok() && std::ssize(*entries) == round - 1 ? 0 : 3);
    }
    ::_exit(4);
  });
  if (WEXITSTATUS(status) == 99) GTEST_SKIP() << "this account may not mount a small disk";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST_F(LedgerTest, WithoutAFileTheSameRulesHold) {
  const auto ledger = Ledger::in_memory(budget_of(epsilon_of(1) * 1.001), clock_).value();
  EXPECT_TRUE(ledger->charge(charge_of("j", 1)).ok());
  EXPECT_EQ(ledger->charge(charge_of("j", 1)).error().code, Errc::already_exists);
  EXPECT_EQ(ledger->charge(charge_of("j", 2)).error().code, Errc::over_budget);
  EXPECT_EQ(ledger->head().count, 1);
}

TEST_F(LedgerTest, ReadingFindsNothingWhereThereIsNoFile) {
  EXPECT_EQ(read_ledger(directory_ / "absent").error().code, Errc::not_found);
}

}  // namespace
}  // namespace trib::privacy
