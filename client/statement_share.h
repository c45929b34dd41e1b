// The site's signed privacy statement on its way to the aggregator: what it would give its own officer, from public
// parameters alone. Sent after connecting, when a charge has changed it, at a job's end and when it is asked for; by
// itself at most once an interval. Where the site's configuration says share_statement = false, never.
//
// Not thread-safe: calls come on the executor. The tight epsilons of a statement take up to a second, so that it is
// made on a thread of its own, of the ledger as it was when it became due.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <memory>
#include <optional>

#include "client/job_runner.h"
#include "client/work_thread.h"
#include "common/clock.h"
#include "proto/tributary.pb.h"

namespace trib::client {

class AggregatorLink;

class StatementShare {
 public:
  StatementShare(boost::asio::any_io_executor executor, const Site& site, Milliseconds interval = Milliseconds(60'000));
  ~StatementShare();
  StatementShare(const StatementShare&) = delete;
  StatementShare& operator=(const StatementShare&) = delete;

  void connected(AggregatorLink& link);  // sends one
  void disconnected();
  void ledger_changed();  // perhaps: sends one if it did, now or when the interval is over
  void job_ended();       // sends one if the ledger has changed since the last
  void requested();       // sends one

 private:
  bool shares() const { return site_.share_statement && site_.signer != nullptr; }
  void send_now();
  void made(const Result<std::string>& text, AggregatorLink* link);

  boost::asio::any_io_executor executor_;
  const Site& site_;
  Milliseconds interval_;
  AggregatorLink* link_ = nullptr;
  std::optional<MonotonicTime> sent_;  // when the last became due
  std::int64_t sent_count_ = -1;       // the ledger's head then
  boost::asio::steady_timer timer_;
  bool timer_runs_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  WorkThread maker_;
};

}  // namespace trib::client
