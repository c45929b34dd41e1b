// All jobs of a site, across connections: what the aggregator's messages mean here, and what is answered.
//
// A job outlives a connection: a round that is being trained when the connection breaks goes on, its contribution is
// kept in the outbox, and it is sent when the aggregator asks for the round again.
//
// Not thread-safe: every call comes on the executor. Preparing a job (loading model and data) and training run on
// threads of their own, one job at a time on each, and report back to the executor.
#pragma once

#include <atomic>
#include <boost/asio/any_io_executor.hpp>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "client/job_runner.h"
#include "client/metrics.h"
#include "client/site_status.h"
#include "client/statement_share.h"
#include "client/work_thread.h"
#include "common/net/channel.h"
#include "proto/tributary.pb.h"

namespace trib::client {

namespace proto = tributary::proto;

// The connection, as jobs use it. Calls return at once; what is sent on a connection that breaks is lost, and the
// aggregator asks again.
class AggregatorLink {
 public:
  virtual ~AggregatorLink() = default;
  virtual void send(proto::ClientMessage message) = 0;
  // ContributionStart and its tensors, packed if `form` says so and the aggregator reads that. A contribution that is
  // on its way on this connection is not sent twice.
  virtual void upload(std::shared_ptr<const OutboxEntry> entry, const TensorSchema& expected, net::ChunkForm form) = 0;
};

class SiteJobs {
 public:
  // `changed` is called after anything that a status would show.
  SiteJobs(boost::asio::any_io_executor executor, const Site& site, std::filesystem::path constants_directory,
           std::function<void()> changed);
  // Stops training at the next step and waits for it.
  ~SiteJobs();
  SiteJobs(const SiteJobs&) = delete;
  SiteJobs& operator=(const SiteJobs&) = delete;

  void connected(AggregatorLink& link);
  void disconnected();

  // --- What the aggregator says. Errors are Errc::protocol_error and cost it the connection. ---
  Status offered(const proto::JobOffer& offer);
  // The schema of the broadcast or constants that follow, or null if they are not wanted: then their bytes are dropped.
  const TensorSchema* round_started(const std::string& job, std::int64_t round, std::int64_t last_counted);
  const TensorSchema* constants_started(const std::string& job) const;
  void broadcast_arrived(const std::string& job, std::int64_t round, TensorMap broadcast);
  Status constants_arrived(const std::string& job, const TensorMap& constants);
  void receipt(const std::string& job, std::int64_t round, bool accepted, const std::string& reason);
  void round_closed(const std::string& job, std::int64_t round);
  void job_ended(const std::string& job, const std::string& outcome);
  void statement_requested() { statements_.requested(); }

  // --- Stopping ---
  // Declines every further round; a round that is being trained goes on.
  void drain();
  // Asks the training to stop at the next step. What was charged for it is spent.
  void stop_training();
  bool is_training() const { return training_ != nullptr; }

  std::map<std::string, JobStatus> status() const;
  const RoundCounts& rounds() const { return rounds_; }

 private:
  struct Job;
  struct Training;
  class RoundProgress;

  void accepted(const std::string& id, std::uint64_t preparation, JobRunner::Acceptance acceptance);
  void reply_to_offer(Job& job);
  void advance(Job& job);
  void train(Job& job);
  void trained(const std::shared_ptr<Training>& training, RoundOutcome outcome);
  void report(const Training& training);
  void decline(Job& job, std::int64_t round, const Refusal& refusal);
  void upload(Job& job, OutboxEntry entry);
  Job* find(const std::string& id);
  Status load_cached_constants(JobRunner& runner) const;
  std::filesystem::path constants_path(const Sha256& digest) const;

  boost::asio::any_io_executor executor_;
  const Site& site_;
  std::filesystem::path constants_directory_;
  std::function<void()> changed_;
  AggregatorLink* link_ = nullptr;
  bool draining_ = false;
  RoundCounts rounds_;
  std::uint64_t preparations_ = 0;
  std::map<std::string, std::unique_ptr<Job>> jobs_;
  std::shared_ptr<Training> training_;  // the round that is being trained; null while there is none
  std::shared_ptr<bool> alive_ =
      std::make_shared<bool>(true);  // cleared before completions would find a destroyed object
  StatementShare statements_;
  WorkThread preparer_;
  WorkThread trainer_;
};

}  // namespace trib::client
