// The aggregator is killed (SIGKILL, no destructor, no flush) at every failpoint of a round, and another process goes
// on from what is on disk.
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <filesystem>

#include "server/coordinator.h"
#include "server/sqlite_store.h"
#include "tests/server/test_federation.h"

namespace trib::server {
namespace {

constexpr std::int64_t sites = 2, rounds = 3;

class QueueTransport final : public CoordinatorTransport {
 public:
  struct Message {
    std::string client, job;
    std::int64_t round = 0;  // 0: an offer
  };
  void offer_job(const std::string& client, std::shared_ptr<const JobOffer> offer) override {
    messages.push_back({client, offer->job_id, 0});
  }
  void start_round(const std::string& client, const std::string& job, std::int64_t round, std::int64_t,
                   std::shared_ptr<const TensorMap>) override {
    messages.push_back({client, job, round});
  }
  void close_round(const std::string&, const std::string&, std::int64_t) override {}
  void end_job(const std::string&, const std::string&, const std::string&) override {}
  std::deque<Message> messages;
};

// One life of an aggregator whose sites always have their contribution at hand, until the job has ended.
void live(const std::filesystem::path& directory) {
  ManualClock clock;
  ChaCha20Random random(RandomKey::from_seed(1));
  const auto store = SqliteStore::open(directory / "store.db").value();
  const auto files = DirectoryStateFiles::open(directory / "states").value();
  QueueTransport transport;
  InlineWorkQueue queue;
  tasks::JobSpec spec = testing::counting_job(rounds);
  spec.selection.minimum_clients = spec.selection.expected_clients = sites;
  Coordinator coordinator(*store, *files, {}, clock, random, transport, queue, testing::counting_options(spec, sites));
  coordinator.resume().value();
  if (store->jobs().value().empty()) (void)coordinator.submit_job("[job]", "job.toml").value();
  for (int site = 1; site <= sites; ++site) coordinator.client_connected("site-" + std::to_string(site));
  while (coordinator.has_running_jobs()) {
    if (!transport.messages.empty()) {
      const auto message = transport.messages.front();
      transport.messages.pop_front();
      if (message.round == 0) {
        coordinator.job_reply(message.client, message.job, true, "", 10).value();
        continue;
      }
      coordinator.round_reply(message.client, message.job, message.round, {true, "", false, false}).value();
      coordinator
          .contribution(message.client, message.job, message.round, 1.0, true,
                        testing::unit_contribution(message.client.back() - '1', sites))
          .value();
    } else if (!queue.run_next()) {
      clock.advance(std::chrono::seconds(1));
      coordinator.tick();
    }
  }
}

class KilledAggregator : public ::testing::TestWithParam<const char*> {};

TEST_P(KilledAggregator, GoesOnFromTheDiskAndCountsEverySiteOnceARound) {
  std::string name = GetParam();
  std::replace(name.begin(), name.end(), ':', '_');
  const auto directory = std::filesystem::path(::testing::TempDir()) / ("killed_" + name);
  std::filesystem::remove_all(directory);
  std::filesystem::create_directories(directory);

  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::setenv("TRIBUTARY_FAILPOINT", GetParam(), 1);
    live(directory);
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << "the failpoint was not reached";
  std::vector<RoundRecord> before;
  {
    const auto store = SqliteStore::open(directory / "store.db").value();
    const auto jobs = store->jobs().value();
    ASSERT_EQ(jobs.size(), 1u);
    before = store->rounds(jobs[0].id).value();
  }

  live(directory);
  const auto store = SqliteStore::open(directory / "store.db").value();
  const auto jobs = store->jobs().value();
  ASSERT_EQ(jobs.size(), 1u);
  EXPECT_EQ(jobs[0].state, JobState::finished) << jobs[0].reason;
  const auto after = store->rounds(jobs[0].id).value();
  ASSERT_EQ(std::ssize(after), rounds + 1);
  for (std::size_t i = 0; i < before.size(); ++i) {
    if (before[i].committed) {
      EXPECT_EQ(after[i].state_sha256, before[i].state_sha256);
    }
  }
  const auto files = DirectoryStateFiles::open(directory / "states").value();
  const TensorMap model = files->read(after.back().state_sha256).value();
  for (const double count : model.at("counts").as<double>()) EXPECT_EQ(count, 1.0);
  // The last state and the one before, and nothing half-written.
  const std::filesystem::directory_iterator listing(directory / "states");
  EXPECT_EQ(std::distance(begin(listing), end(listing)), 2);
  std::filesystem::remove_all(directory);
}

INSTANTIATE_TEST_SUITE_P(EveryFailpoint, KilledAggregator,
                         ::testing::Values("round.opened", "round.opened:2", "round.contribution_folded",
                                           "round.contribution_folded:4", "state.before_write", "state.before_write:2",
                                           "state.after_write", "state.after_write:3", "round.before_commit",
                                           "round.before_commit:2", "store.before_commit", "store.before_commit:2",
                                           "round.after_commit", "round.after_commit:3"),
                         [](const auto& test) {
                           std::string name = test.param;
                           for (char& character : name)
                             if (character == '.' || character == ':') character = '_';
                           return name;
                         });

}  // namespace
}  // namespace trib::server
