// A state of a job. States own what only they need (deadlines, results of their work); what outlives them is the job's.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "common/clock.h"
#include "common/result.h"
#include "server/job_report.h"

namespace trib::server {

class Job;

class RoundState {
 public:
  explicit RoundState(Job& job) : job_(job) {}
  virtual ~RoundState() = default;
  RoundState(const RoundState&) = delete;
  RoundState& operator=(const RoundState&) = delete;

  virtual std::string_view name() const = 0;
  virtual void enter() = 0;
  // Deadlines may have passed.
  virtual void tick() {}
  virtual std::optional<MonotonicTime> next_deadline() const { return std::nullopt; }
  // A site came, went, accepted, declined or contributed.
  virtual void sites_changed() {}
  virtual bool takes_contributions() const { return false; }  // to the open round
  virtual std::optional<WaitReport> waiting() const { return std::nullopt; }

 protected:
  Job& job_;
};

}  // namespace trib::server
