// A federation under faults, in one thread and in virtual time: the real round engine over a real store, sites that
// keep the rules of an outbox, and a network and machines that do not keep still. Everything that happens is an event
// with a time, so that a plan replays exactly.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "server/coordinator.h"
#include "server/sqlite_store.h"
#include "tests/server/hooked_store.h"
#include "tests/server/test_federation.h"

namespace trib::server::testing {

enum class Fault {
  none,
  silent,        // accepts and never contributes
  declines,      // this round
  over_budget,   // this round and with it the job
  twice,         // sends its contribution two times
  late,          // contributes after `duration`
  disconnects,   // its connection breaks when it is asked; back after `duration`
  dies,          // killed after it has charged its ledger, before there is anything to send; back after `duration`
  bad_values,    // its contribution has a NaN
  wrong_layout,  // its contribution has another shape
  not_private,   // it says that nothing protects its contribution
};

struct SiteFault {
  Fault fault = Fault::none;
  Milliseconds duration{0};
};

// What goes wrong, and how long things take. Asked in the order of events.
class Plan {
 public:
  virtual ~Plan() = default;
  virtual SiteFault fault(int site, std::int64_t round) = 0;
  // Whether the aggregator dies at this point: "before commit_round", "after state_write", "after contribution", … with
  // the names of the store's functions.
  virtual bool crashes(std::string_view point) = 0;
  // Whether the connection of a site breaks as this message is on its way.
  virtual bool breaks_connection() { return false; }
  virtual Milliseconds network_delay() { return Milliseconds(100); }
  virtual Milliseconds training_time() { return Milliseconds(5'000); }
  virtual Milliseconds computing_time() { return Milliseconds(1'000); }
  virtual Milliseconds restart_time() { return Milliseconds(10'000); }
  virtual Milliseconds reconnect_time() { return Milliseconds(2'000); }
};

class World final : public CoordinatorTransport, public WorkQueue {
 public:
  World(tasks::JobSpec spec, int sites, Plan& plan, std::uint64_t seed);
  ~World() override;

  // Until the job has ended. Fails the test if an invariant breaks: a committed round is lost or changes; a site counts
  // twice, or not at all, in a round that says it did; a site takes part more often than it may; a round is said to be
  // closed that is not; the job does not end.
  void run();

  JobRecord job() const;
  std::vector<RoundRecord> committed_rounds() const;  // from 1
  // The sites whose contributions are in the sum of a committed round, by the model itself.
  std::set<std::string> counted(std::int64_t round);
  int crashes() const { return crash_count_; }

 private:
  struct Site {
    std::string name;
    int index = 0;
    bool is_up = false;
    std::uint64_t connection = 0;
    std::map<std::int64_t, TensorMap> outbox;
    std::set<std::int64_t> charged;
    std::set<std::int64_t> faulted;  // rounds whose fault has happened
    std::set<std::int64_t> training;
  };

  // CoordinatorTransport and WorkQueue: everything becomes an event.
  void offer_job(const std::string& client, std::shared_ptr<const JobOffer> offer) override;
  void start_round(const std::string& client, const std::string& job, std::int64_t round, std::int64_t last_counted,
                   std::shared_ptr<const TensorMap> broadcast) override;
  // By the model, which counts who is in its sums.
  std::int64_t last_round_that_counts(const std::string& site);
  void close_round(const std::string& client, const std::string& job, std::int64_t round) override;
  void end_job(const std::string& client, const std::string& job, const std::string& outcome) override;
  void run(std::function<void()> work, std::function<void()> done) override;

  void at(Milliseconds delay, std::function<void()> event);
  void to_site(const std::string& client, std::function<void(Site&)> event);
  void to_server(Site& site, std::function<void(Coordinator&)> event);
  // Runs something of the aggregator's; its death is caught here.
  void on_server(const std::function<void(Coordinator&)>& call);
  void start_server();
  void crash();
  void maybe_crash(const std::string& point);
  void connect(Site& site);
  void disconnect(Site& site, Milliseconds away);

  void asked(Site& site, std::int64_t round);
  void finish_training(Site& site, std::int64_t round, std::uint64_t connection, SiteFault fault);
  void send(Site& site, std::int64_t round, SiteFault fault);

  void check_history();
  void check_outcome();

  tasks::JobSpec spec_;
  Plan& plan_;
  ManualClock clock_;
  ChaCha20Random random_;
  std::unique_ptr<SqliteStore> sqlite_ = SqliteStore::open(":memory:").value();
  HookedStore store_{*sqlite_};
  class CrashingStateFiles;
  std::unique_ptr<CrashingStateFiles> files_;
  std::vector<Site> sites_;
  std::unique_ptr<Coordinator> coordinator_;
  std::uint64_t server_life_ = 0;  // counts the aggregator's lives; what belongs to an earlier one is dropped
  int crash_count_ = 0;
  std::multimap<MonotonicTime, std::function<void()>> events_;
  std::string job_;
  std::vector<RoundRecord> history_;  // every committed round that was ever seen
};

}  // namespace trib::server::testing
