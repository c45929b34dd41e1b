// What jobs cost sites, worked out once: choosing a job's noise takes tenths of a second, and a report asks for that of
// every site again and again.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "privacy/mechanism.h"
#include "server/store.h"
#include "tasks/job.h"

namespace trib::server {

// Thread-safe. Noise is chosen on a thread of its own: mechanism() never waits for it. It belongs to somebody who ends
// before main() does: what the accountant remembers is static, and the thread uses it.
class PrivacyPlans {
 public:
  PrivacyPlans() = default;
  ~PrivacyPlans();
  PrivacyPlans(const PrivacyPlans&) = delete;
  PrivacyPlans& operator=(const PrivacyPlans&) = delete;

  // The job as its file describes it; null if this program cannot read it.
  std::shared_ptr<const tasks::JobSpec> spec(const JobRecord& job);
  // What one round of the job costs a site of so many declared records. Nothing while that is being worked out, and
  // where it cannot be: a job that cannot be read, a size that its privacy is impossible for.
  std::optional<privacy::Mechanism> mechanism(const JobRecord& job, std::int64_t declared_records);
  // Until everything that was asked for is known.
  void wait();

 private:
  using Key = std::pair<std::string, std::int64_t>;  // the job's file, declared records
  void work();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::shared_ptr<const tasks::JobSpec>> specs_;  // by the job's file
  std::map<Key, std::optional<privacy::Mechanism>> mechanisms_;         // known, or known not to exist
  std::deque<Key> wanted_;                                              // the first is being worked out
  bool stopping_ = false;
  std::thread worker_;  // from the first question on
};

}  // namespace trib::server
