// An aggregator whose sites, clock and storage are in the test's hands.
#pragma once

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/coordinator.h"
#include "server/sqlite_store.h"
#include "tests/server/hooked_store.h"
#include "tests/server/test_federation.h"

namespace trib::server::testing {

// Writes down what the sites are told: "start site-1 2".
class RecordingTransport final : public CoordinatorTransport {
 public:
  void offer_job(const std::string& client, std::shared_ptr<const JobOffer>) override { add("offer " + client); }
  void start_round(const std::string& client, const std::string&, std::int64_t round, std::int64_t last_counted,
                   std::shared_ptr<const TensorMap> broadcast) override {
    last_counted_[client] = last_counted;
    // The broadcast of round r comes from the state after r − 1 rounds.
    EXPECT_EQ(broadcast->at("round").as<std::int64_t>()[0], round - 1);
    add("start " + client + " " + std::to_string(round));
  }
  void close_round(const std::string& client, const std::string&, std::int64_t round) override {
    add("close " + client + " " + std::to_string(round));
  }
  void end_job(const std::string& client, const std::string&, const std::string& outcome) override {
    add("end " + client + " " + outcome);
  }
  std::vector<std::string> take() { return std::exchange(said_, {}); }
  // As the site was last told at the start of a round.
  std::int64_t last_counted(const std::string& client) const { return last_counted_.at(client); }

 private:
  void add(std::string text) { said_.push_back(std::move(text)); }
  std::vector<std::string> said_;
  std::map<std::string, std::int64_t> last_counted_;
};

class CoordinatorTest : public ::testing::Test {
 protected:
  static constexpr std::int64_t site_count = 4;

  // Starts the aggregator, or starts it again: whatever was in memory is gone.
  void start() {
    coordinator_.reset();
    queue_ = InlineWorkQueue();
    auto options = counting_options(spec_, site_count);
    options.noise_seeded = noise_seeded_;
    options.ledger = ledger_.get();
    coordinator_ = std::make_unique<Coordinator>(store_, files_, tasks::AggregatorContext{}, clock_, random_,
                                                 transport_, queue_, options);
    ASSERT_TRUE(coordinator_->resume());
    work();
  }
  void submit() {
    start();
    job_ = coordinator_->submit_job("[job]", "job.toml").value();
    work();
  }
  // A job whose sites 1 … `sites` take part.
  void submit_with(int sites) {
    spec_.selection.expected_clients = sites;
    submit();
    for (int i = 1; i <= sites; ++i) join(i);
    work();
  }
  void work() {
    while (queue_.run_next()) {
    }
  }
  static std::string name(int site) { return "site-" + std::to_string(site); }
  void join(int site) {
    coordinator_->client_connected(name(site));
    ASSERT_TRUE(coordinator_->job_reply(name(site), job_, true, "", 100 * site));
    work();
  }
  void leave(int site) { coordinator_->client_disconnected(name(site)); }
  Status accept(int site, std::int64_t round) {
    return coordinator_->round_reply(name(site), job_, round, {true, "", false, false});
  }
  Status decline(int site, std::int64_t round, std::string reason, bool over_budget = false) {
    const Status status =
        coordinator_->round_reply(name(site), job_, round, {false, std::move(reason), over_budget, false});
    work();
    return status;
  }
  Status contribute(int site, std::int64_t round, double weight = 1.0, bool is_private = true) {
    return contribute(site, round, unit_contribution(site - 1, site_count), weight, is_private);
  }
  Status contribute(int site, std::int64_t round, TensorMap tensors, double weight = 1.0, bool is_private = true) {
    const Status status = coordinator_->contribution(name(site), job_, round, weight, is_private, std::move(tensors));
    work();
    return status;
  }
  void pass(std::chrono::seconds time) {
    clock_.advance(time);
    coordinator_->tick();
    work();
  }
  boost::json::object report() const { return boost::json::parse(coordinator_->job_json(job_).value()).as_object(); }
  std::string state() const { return std::string(report().at("state").as_string()); }
  std::string reason() const { return std::string(report().at("reason").as_string()); }
  std::string waiting_for() const { return boost::json::serialize(report().at("waiting")); }
  boost::json::object client(int site) const {
    const boost::json::object document = report();
    for (const auto& entry : document.at("clients").as_array())
      if (entry.at("name").as_string() == name(site)) return entry.as_object();
    return {};
  }
  // How often each site was counted in a committed round.
  std::vector<double> counted(std::int64_t round) {
    const auto rounds = sqlite_->rounds(job_).value();
    std::string last;
    for (const RoundRecord& record : rounds)
      if (record.committed) last = record.state_sha256;
    const TensorMap model = files_.read(last).value();
    const auto counts = model.at("counts").as<double>();
    const auto row = counts.subspan(static_cast<std::size_t>((round - 1) * site_count), site_count);
    return {row.begin(), row.end()};
  }

  tasks::JobSpec spec_ = counting_job(2);
  bool noise_seeded_ = false;
  std::unique_ptr<privacy::Ledger> ledger_;  // the aggregator's own; none unless the test opens one
  ManualClock clock_;
  ChaCha20Random random_{RandomKey::from_seed(7)};
  std::unique_ptr<SqliteStore> sqlite_ = SqliteStore::open(":memory:").value();
  HookedStore store_{*sqlite_};
  MemoryStateFiles files_;
  RecordingTransport transport_;
  InlineWorkQueue queue_;
  std::unique_ptr<Coordinator> coordinator_;
  std::string job_;
};

}  // namespace trib::server::testing
