#include "server/sqlite_store.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/server/old_store.h"

namespace trib::server {
namespace {

WallTime at(std::int64_t milliseconds) {
  return WallTime(Milliseconds(milliseconds));
}

Sha256 hash_of(std::uint8_t byte) {
  Sha256 hash{};
  hash.fill(byte);
  return hash;
}

class SqliteStoreTest : public ::testing::Test {
 protected:
  ~SqliteStoreTest() override {
    store_.reset();
    remove();
  }
  void remove() {
    for (const char* suffix : {"", "-wal", "-shm"}) std::filesystem::remove(path_.string() + suffix);
  }
  void reopen() {
    store_.reset();
    store_ = SqliteStore::open(path_).value();
  }
  void create_job(const std::string& id) {
    JobRecord job;
    job.id = id;
    job.name = "name of " + id;
    job.task = "counting";
    job.file_text = "[job]\n";
    job.file_name = "job.toml";
    job.submitted = at(1);
    ASSERT_TRUE(store_->create_job(job));
  }
  void commit(const std::string& job, std::int64_t round, std::vector<std::string> contributors = {}) {
    RoundCommit commit;
    commit.job = job;
    commit.round = round;
    commit.state_sha256 = job + std::to_string(round);
    commit.time = at(100 + round);
    commit.weight = 2.5;
    commit.contributors = std::move(contributors);
    ASSERT_TRUE(store_->commit_round(commit));
  }

  std::filesystem::path path_ =
      std::filesystem::path(::testing::TempDir()) /
      (std::string("store_") + ::testing::UnitTest::GetInstance()->current_test_info()->name() + ".db");
  std::unique_ptr<SqliteStore> store_ = (remove(), SqliteStore::open(path_).value());
};

TEST_F(SqliteStoreTest, KeepsValuesOverARestart) {
  EXPECT_EQ(store_->value("federation.name").value(), std::nullopt);
  ASSERT_TRUE(store_->set_value("federation.name", "hospitals"));
  ASSERT_TRUE(store_->set_value("federation.name", "clinics"));
  reopen();
  EXPECT_EQ(store_->value("federation.name").value(), "clinics");
}

TEST_F(SqliteStoreTest, AnInviteIsRedeemedOnceAndAgainByTheSameKeyOnly) {
  ASSERT_TRUE(store_->put_invite({hash_of(1), "site-a", false, at(5000), std::nullopt, ""}));
  EXPECT_EQ(store_->find_invite(hash_of(2)).value(), std::nullopt);
  ASSERT_TRUE(store_->redeem_invite(hash_of(1), hash_of(7), {"01", "site-a", false, at(9000), "PEM"}, at(10)));
  reopen();
  const auto invite = store_->find_invite(hash_of(1)).value();
  ASSERT_TRUE(invite);
  EXPECT_EQ(invite->site, "site-a");
  EXPECT_EQ(invite->expires, at(5000));
  EXPECT_EQ(invite->used_by_key, hash_of(7));
  EXPECT_EQ(invite->certificate_serial, "01");
  const Status other = store_->redeem_invite(hash_of(1), hash_of(8), {"02", "site-a", false, at(9000), "PEM"}, at(11));
  EXPECT_EQ(other.error().code, Errc::already_exists);
  EXPECT_TRUE(store_->redeem_invite(hash_of(1), hash_of(7), {"03", "site-a", false, at(9500), "PEM"}, at(12)));
  EXPECT_EQ(store_->certificates("site-a").value().size(), 2u);
  EXPECT_EQ(store_->redeem_invite(hash_of(9), hash_of(7), {"04", "x", false, at(1), ""}, at(1)).error().code,
            Errc::not_found);
}

TEST_F(SqliteStoreTest, ARevokedSiteStaysRevokedUntilItEnrolsAnew) {
  ASSERT_TRUE(store_->put_invite({hash_of(1), "site-a", false, at(5000), std::nullopt, ""}));
  ASSERT_TRUE(store_->redeem_invite(hash_of(1), hash_of(7), {"01", "site-a", false, at(9000), "PEM"}, at(10)));
  EXPECT_EQ(store_->revoke_site("site-b", "", at(20)).error().code, Errc::not_found);
  ASSERT_TRUE(store_->revoke_site("site-a", "key lost", at(20)));
  reopen();
  auto site = store_->find_site("site-a").value();
  ASSERT_TRUE(site);
  EXPECT_EQ(site->revoked, at(20));
  EXPECT_EQ(site->revocation_reason, "key lost");
  ASSERT_TRUE(store_->put_invite({hash_of(2), "site-a", false, at(5000), std::nullopt, ""}));
  ASSERT_TRUE(store_->redeem_invite(hash_of(2), hash_of(8), {"02", "site-a", false, at(9000), "PEM"}, at(30)));
  EXPECT_EQ(store_->find_site("site-a").value()->revoked, std::nullopt);
  EXPECT_EQ(store_->sites().value().size(), 1u);
}

TEST_F(SqliteStoreTest, ALedgerHeadOnlyMovesForward) {
  ASSERT_TRUE(store_->advance_ledger_head("site-a", "", {5, hash_of(5)}));
  ASSERT_TRUE(store_->advance_ledger_head("site-a", "", {3, hash_of(3)}));
  EXPECT_EQ(store_->ledger_head("site-a", "").value()->count, 5);
  EXPECT_EQ(store_->ledger_head("site-a", "").value()->hash, hash_of(5));
  ASSERT_TRUE(store_->advance_ledger_head("site-a", "", {6, hash_of(6)}));
  EXPECT_EQ(store_->ledger_head("site-a", "").value()->count, 6);
  EXPECT_FALSE(store_->ledger_head("site-a", "other").value().has_value());
}

TEST_F(SqliteStoreTest, ALedgerHeadRemembersWhenItWasHeardOf) {
  ASSERT_TRUE(store_->advance_ledger_head("site-a", "", {5, hash_of(5), at(70)}));
  ASSERT_TRUE(store_->advance_ledger_head("site-a", "", {5, hash_of(6), at(80)}));
  EXPECT_EQ(store_->ledger_head("site-a", "").value()->time, at(70));
  EXPECT_EQ(store_->ledger_head("site-a", "").value()->hash, hash_of(5));
}

TEST_F(SqliteStoreTest, AJobComesBackWholeAfterARestart) {
  create_job("j");
  ASSERT_TRUE(store_->put_job_site("j", {"site-a", true, "", 120, 0, 0.5, 8.0}));
  ASSERT_TRUE(store_->put_job_site("j", {"site-b", true, "over budget", 80, 4, 8.0, 8.0}));
  commit("j", 0);
  ASSERT_TRUE(store_->open_round("j", 1, 1, {"site-a"}, at(50)));
  ASSERT_TRUE(store_->set_round_site("j", 1, {"site-a", RoundSiteStatus::accepted, true, ""}));
  commit("j", 1, {"site-a"});
  ASSERT_TRUE(store_->put_evaluation("j", {1, {{"accuracy", 0.75}, {"loss", 0.5}}}));
  ASSERT_TRUE(store_->open_round("j", 2, 1, {"site-a", "site-b"}, at(60)));
  ASSERT_TRUE(store_->set_round_site("j", 2, {"site-b", RoundSiteStatus::declined, false, "busy"}));
  reopen();

  const auto jobs = store_->jobs().value();
  ASSERT_EQ(jobs.size(), 1u);
  EXPECT_EQ(jobs[0].name, "name of j");
  EXPECT_EQ(jobs[0].file_text, "[job]\n");
  EXPECT_EQ(jobs[0].state, JobState::running);
  const auto sites = store_->job_sites("j").value();
  ASSERT_EQ(sites.size(), 2u);
  EXPECT_EQ(sites[0].declared_records, 120);
  EXPECT_EQ(sites[0].turns, 2);
  EXPECT_EQ(sites[1].declined_reason, "over budget");
  EXPECT_EQ(sites[1].turns, 5);
  const auto rounds = store_->rounds("j").value();
  ASSERT_EQ(rounds.size(), 3u);
  EXPECT_EQ(rounds[1].state_sha256, "j1");
  EXPECT_EQ(rounds[1].opened, at(50));
  EXPECT_EQ(rounds[1].committed, at(101));
  EXPECT_EQ(rounds[1].contributions, 1);
  EXPECT_EQ(rounds[1].weight, 2.5);
  EXPECT_EQ(rounds[2].committed, std::nullopt);
  const auto open = store_->round_sites("j", 2).value();
  ASSERT_EQ(open.size(), 2u);
  EXPECT_EQ(open[0].status, RoundSiteStatus::chosen);
  EXPECT_EQ(open[1].status, RoundSiteStatus::declined);
  EXPECT_EQ(open[1].reason, "busy");
  EXPECT_EQ(store_->round_sites("j", 1).value()[0].status, RoundSiteStatus::contributed);
  EXPECT_EQ(store_->participations("j").value(), (std::map<std::string, std::int64_t>{{"site-a", 1}}));
  const auto evaluations = store_->evaluations("j").value();
  ASSERT_EQ(evaluations.size(), 1u);
  EXPECT_EQ(evaluations[0].metrics.at("accuracy"), 0.75);
}

TEST_F(SqliteStoreTest, ARoundIsCommittedOnce) {
  create_job("j");
  commit("j", 0);
  ASSERT_TRUE(store_->open_round("j", 1, 1, {}, at(50)));
  commit("j", 1);
  RoundCommit again;
  again.job = "j";
  again.round = 1;
  again.state_sha256 = "another";
  EXPECT_EQ(store_->commit_round(again).error().code, Errc::already_exists);
  EXPECT_EQ(store_->rounds("j").value()[1].state_sha256, "j1");
}

TEST_F(SqliteStoreTest, ASecondAttemptKeepsTheRoundsSitesAndAddsOthers) {
  create_job("j");
  ASSERT_TRUE(store_->put_job_site("j", {"site-a", true, "", 1, 0, 0, 0}));
  ASSERT_TRUE(store_->open_round("j", 1, 1, {"site-a"}, at(50)));
  ASSERT_TRUE(store_->set_round_site("j", 1, {"site-a", RoundSiteStatus::accepted, true, ""}));
  ASSERT_TRUE(store_->open_round("j", 1, 2, {"site-b"}, at(60)));
  const auto rounds = store_->rounds("j").value();
  ASSERT_EQ(rounds.size(), 1u);
  EXPECT_EQ(rounds[0].attempt, 2);
  EXPECT_EQ(rounds[0].opened, at(50));
  const auto sites = store_->round_sites("j", 1).value();
  ASSERT_EQ(sites.size(), 2u);
  EXPECT_TRUE(sites[0].took_part);
}

TEST_F(SqliteStoreTest, TrafficAddsUp) {
  create_job("j");
  RoundCommit commit;
  commit.job = "j";
  commit.traffic = {{"site-a", 0, 10, 1}, {"site-a", 1, 100, 50}};
  ASSERT_TRUE(store_->commit_round(commit));
  ASSERT_TRUE(store_->end_job("j", JobState::finished, "", at(9), {{"site-a", 1, 5, 5}}));
  reopen();
  const auto traffic = store_->traffic("j").value();
  ASSERT_EQ(traffic.size(), 2u);
  EXPECT_EQ(traffic[1].bytes_down, 105u);
  EXPECT_EQ(traffic[1].bytes_up, 55u);
  EXPECT_EQ(store_->jobs().value()[0].state, JobState::finished);
  EXPECT_EQ(store_->jobs().value()[0].ended, at(9));
}

TEST_F(SqliteStoreTest, TheLastTwoStatesOfEveryJobAreReferenced) {
  create_job("j");
  create_job("k");
  for (std::int64_t round = 0; round <= 3; ++round) commit("j", round);
  commit("k", 0);
  ASSERT_TRUE(store_->open_round("j", 4, 1, {}, at(50)));
  EXPECT_EQ(store_->referenced_states().value(), (std::set<std::string>{"j2", "j3", "k0"}));
}

TEST_F(SqliteStoreTest, AnotherFileIsCorruptAndANewerStoreIsUnsupported) {
  const auto other = path_.string() + ".txt";
  std::ofstream(other) << std::string(4096, 'x');
  EXPECT_EQ(SqliteStore::open(other).error().code, Errc::corrupt);
  std::filesystem::remove(other);

  store_.reset();
  sqlite3* database = nullptr;
  ASSERT_EQ(sqlite3_open(path_.c_str(), &database), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(database, "PRAGMA user_version = 99", nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(database);
  const auto newer = SqliteStore::open(path_);
  EXPECT_EQ(newer.error().code, Errc::unsupported);
  EXPECT_NE(newer.error().message.find("99"), std::string::npos);
}

TEST_F(SqliteStoreTest, AStoreOfTheFirstVersionGoesOn) {
  store_.reset();
  remove();
  testing::run_sql(path_, std::string(testing::schema_of_version_2) +
                              "ALTER TABLE ledger_heads DROP COLUMN time;"
                              "INSERT INTO ledger_heads VALUES ('site-a', '', 5, x'" +
                              to_hex(hash_of(5)) + "'); PRAGMA user_version = 1;");
  store_ = SqliteStore::open(path_).value();
  EXPECT_EQ(store_->ledger_head("site-a", "").value()->count, 5);
  EXPECT_EQ(store_->ledger_head("site-a", "").value()->time, WallTime());
  ASSERT_TRUE(store_->advance_ledger_head("site-a", "", {6, hash_of(6), at(80)}));
  EXPECT_EQ(store_->ledger_head("site-a", "").value()->time, at(80));
  ASSERT_TRUE(store_->put_statement("site-a", {"text", at(90), 6}));
  ASSERT_TRUE(store_->put_access_token({hash_of(1), "officer", false, at(1), std::nullopt, std::nullopt}));
  EXPECT_EQ(store_->access_tokens().value().size(), 1u);
}

TEST_F(SqliteStoreTest, AStoreOfTheSecondVersionIsUpgradedInPlaceAndKeepsWhatItHolds) {
  store_.reset();
  remove();
  testing::run_sql(path_, std::string(testing::schema_of_version_2) + testing::content_of_version_2);
  store_ = SqliteStore::open(path_).value();

  const auto sites = store_->sites().value();
  ASSERT_EQ(sites.size(), 2u);
  EXPECT_EQ(sites[0].last_seen, std::nullopt);
  EXPECT_EQ(sites[1].revocation_reason, "left");
  const auto parts = store_->job_sites("j").value();
  ASSERT_EQ(parts.size(), 2u);
  EXPECT_EQ(parts[0].declared_records, 5000);
  EXPECT_EQ(parts[0].epsilon_spent, 1.5);
  EXPECT_EQ(parts[0].reported, std::nullopt);
  EXPECT_EQ(parts[1].declined_reason, "revoked");
  EXPECT_EQ(parts[1].declined, std::nullopt);
  const auto rounds = store_->site_rounds("north").value();
  ASSERT_EQ(rounds.size(), 2u);
  EXPECT_EQ(rounds[0].opened, at(2100));
  EXPECT_EQ(rounds[0].part.status, RoundSiteStatus::contributed);
  EXPECT_EQ(rounds[0].part.epsilon_spent, 0.0);
  EXPECT_EQ(rounds[0].part.reported, std::nullopt);
  EXPECT_EQ(rounds[1].part.reason, "over its cap");
  EXPECT_EQ(store_->participations("j").value().at("south"), 1);
  EXPECT_EQ(store_->traffic("j").value()[0].bytes_down, 100u);

  // It goes on as a new one would, and opens again.
  RoundSiteRecord part = rounds[0].part;
  part.epsilon_spent = 1.75;
  part.reported = at(7000);
  ASSERT_TRUE(store_->set_round_site("j", 1, part));
  ASSERT_TRUE(store_->note_seen({{"north", at(8000), "1.2"}}));
  reopen();
  EXPECT_EQ(store_->site_rounds("north").value()[0].part.reported, at(7000));
  EXPECT_EQ(store_->site_rounds("north").value()[0].part.epsilon_spent, 1.75);
  EXPECT_EQ(store_->find_site("north").value()->last_seen, at(8000));
}

TEST_F(SqliteStoreTest, AnUpgradedStoreHasTheTablesOfANewOne) {
  const auto tables = [](const std::filesystem::path& path) {
    std::set<std::string> columns;
    sqlite3* database = nullptr;
    EXPECT_EQ(sqlite3_open(path.c_str(), &database), SQLITE_OK);
    sqlite3_exec(
        database,
        "SELECT m.name || '.' || c.name || ' ' || c.type || ' ' || c.\"notnull\" || ' ' || IFNULL(c.dflt_value, '') "
        "FROM sqlite_master AS m JOIN pragma_table_info(m.name) AS c UNION SELECT 'index ' || name FROM sqlite_master "
        "WHERE type = 'index'",
        [](void* into, int, char** values, char**) {
          static_cast<std::set<std::string>*>(into)->insert(values[0]);
          return 0;
        },
        &columns, nullptr);
    sqlite3_close(database);
    return columns;
  };
  const auto fresh = tables(path_);
  EXPECT_GT(fresh.size(), 60u);
  store_.reset();
  remove();
  testing::run_sql(path_, std::string(testing::schema_of_version_2) + testing::content_of_version_2);
  reopen();
  EXPECT_EQ(tables(path_), fresh);
}

TEST_F(SqliteStoreTest, ARoundsSiteRemembersWhatItReportedAndWhenItDeclined) {
  create_job("j");
  commit("j", 0);
  ASSERT_TRUE(store_->open_round("j", 1, 1, {"site-a", "site-b"}, at(50)));
  RoundSiteRecord declined{"site-b", RoundSiteStatus::declined, false, "over its cap"};
  declined.declined = at(60);
  ASSERT_TRUE(store_->set_round_site("j", 1, declined));
  RoundCommit commit;
  commit.job = "j";
  commit.round = 1;
  commit.state_sha256 = "s";
  commit.time = at(90);
  commit.contributors = {"site-a"};
  RoundSiteRecord part{"site-a", RoundSiteStatus::contributed, true, ""};
  part.epsilon_spent = 0.5;
  part.epsilon_budget = 8.0;
  part.reported = at(70);
  commit.parts = {part};
  ASSERT_TRUE(store_->commit_round(commit));
  reopen();
  const auto rounds = store_->site_rounds("site-a").value();
  ASSERT_EQ(rounds.size(), 1u);
  EXPECT_EQ(rounds[0].job, "j");
  EXPECT_EQ(rounds[0].round, 1);
  EXPECT_EQ(rounds[0].opened, at(50));
  EXPECT_EQ(rounds[0].part.status, RoundSiteStatus::contributed);
  EXPECT_EQ(rounds[0].part.epsilon_spent, 0.5);
  EXPECT_EQ(rounds[0].part.epsilon_budget, 8.0);
  EXPECT_EQ(rounds[0].part.reported, at(70));
  const auto refusals = store_->declined_rounds("j").value();
  ASSERT_EQ(refusals.size(), 1u);
  EXPECT_EQ(refusals[0].part.site, "site-b");
  EXPECT_EQ(refusals[0].part.declined, at(60));
}

TEST_F(SqliteStoreTest, KeepsTheNewestStatementOfEachSite) {
  EXPECT_EQ(store_->statement("site-a").value().has_value(), false);
  ASSERT_TRUE(store_->put_statement("site-a", {"old", at(1), 3}));
  ASSERT_TRUE(store_->put_statement("site-a", {"new", at(2), 4}));
  reopen();
  const auto statement = store_->statement("site-a").value();
  ASSERT_TRUE(statement);
  EXPECT_EQ(statement->text, "new");
  EXPECT_EQ(statement->received, at(2));
  EXPECT_EQ(statement->head_count, 4);
}

TEST_F(SqliteStoreTest, WhenASiteWasSeenNeverGoesBackAndASitesVersionStays) {
  ASSERT_TRUE(store_->put_invite({hash_of(1), "site-a", false, at(5000), std::nullopt, ""}));
  ASSERT_TRUE(store_->redeem_invite(hash_of(1), hash_of(7), {"01", "site-a", false, at(9000), "PEM"}, at(10)));
  ASSERT_TRUE(store_->note_seen({{"site-a", at(200), "1.2"}, {"stranger", at(200), "9"}}));
  ASSERT_TRUE(store_->note_seen({{"site-a", at(100), ""}}));
  const auto site = store_->find_site("site-a").value();
  EXPECT_EQ(site->last_seen, at(200));
  EXPECT_EQ(site->software_version, "1.2");
  EXPECT_EQ(store_->sites().value().size(), 1u);
}

TEST_F(SqliteStoreTest, AccessTokensKeepTheirOrderAndWhatBecomesOfThem) {
  AccessTokenRecord first{hash_of(1), "officer", false, at(1), std::nullopt, std::nullopt};
  ASSERT_TRUE(store_->put_access_token(first));
  ASSERT_TRUE(store_->put_access_token({hash_of(2), "alice", true, at(2), std::nullopt, std::nullopt}));
  first.last_used = at(3);
  first.revoked = at(4);
  ASSERT_TRUE(store_->put_access_token(first));
  store_ = SqliteStore::open(path_).value();
  const auto tokens = store_->access_tokens().value();
  ASSERT_EQ(tokens.size(), 2u);
  EXPECT_EQ(tokens[0].token_sha256, hash_of(1));
  EXPECT_EQ(tokens[0].name, "officer");
  EXPECT_EQ(tokens[0].created, at(1));
  EXPECT_EQ(tokens[0].last_used, at(3));
  EXPECT_EQ(tokens[0].revoked, at(4));
  EXPECT_TRUE(tokens[1].is_operator);
  EXPECT_FALSE(tokens[1].last_used.has_value());
}

// A process that is killed between the statements of a commit and its end leaves the round open, and everything before
// it as it was.
TEST_F(SqliteStoreTest, AProcessKilledInsideACommitLeavesTheRoundOpen) {
  create_job("j");
  commit("j", 0);
  ASSERT_TRUE(store_->open_round("j", 1, 1, {"site-a"}, at(50)));
  store_.reset();
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::setenv("TRIBUTARY_FAILPOINT", "store.before_commit", 1);
    auto store = SqliteStore::open(path_).value();
    RoundCommit commit;
    commit.job = "j";
    commit.round = 1;
    commit.state_sha256 = "lost";
    commit.contributors = {"site-a"};
    commit.traffic = {{"site-a", 1, 10, 10}};
    (void)store->commit_round(commit);
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);

  reopen();
  const auto rounds = store_->rounds("j").value();
  ASSERT_EQ(rounds.size(), 2u);
  EXPECT_EQ(rounds[1].committed, std::nullopt);
  EXPECT_TRUE(store_->traffic("j").value().empty());
  EXPECT_EQ(store_->round_sites("j", 1).value()[0].status, RoundSiteStatus::chosen);
  commit("j", 1, {"site-a"});
  EXPECT_EQ(store_->rounds("j").value()[1].state_sha256, "j1");
}

}  // namespace
}  // namespace trib::server
