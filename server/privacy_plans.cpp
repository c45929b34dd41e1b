#include "server/privacy_plans.h"

#include <algorithm>

#include "privacy/accountant.h"
#include "tasks/task.h"

namespace trib::server {
namespace {

// Beyond these everything is worked out anew: a peer that never repeats itself costs time, not memory.
constexpr std::size_t most_specs = 4096, most_mechanisms = 65'536;

std::optional<privacy::Mechanism> work_out(const tasks::JobSpec& spec, std::int64_t declared_records) try {
  const auto task = tasks::find_task(spec.task);
  if (!task || !(*task)->round_mechanism) return std::nullopt;
  const auto mechanism = (*task)->round_mechanism(spec, declared_records);
  if (!mechanism) return std::nullopt;
  privacy::RdpCurve().add(*mechanism);  // the accountant remembers its integrals
  return *mechanism;
} catch (const std::exception&) {  // a task's bug must not take the aggregator down for the sake of a report
  return std::nullopt;
}

}  // namespace

PrivacyPlans::~PrivacyPlans() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (worker_.joinable()) worker_.join();
}

std::shared_ptr<const tasks::JobSpec> PrivacyPlans::spec(const JobRecord& job) {
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = specs_.find(job.file_text); found != specs_.end()) return found->second;
  }
  auto read = tasks::read_job_text(job.file_text, job.file_name);
  const auto spec = read ? std::make_shared<const tasks::JobSpec>(std::move(*read)) : nullptr;
  const std::lock_guard lock(mutex_);
  if (specs_.size() >= most_specs) specs_.clear();
  specs_[job.file_text] = spec;
  return spec;
}

std::optional<privacy::Mechanism> PrivacyPlans::mechanism(const JobRecord& job, std::int64_t declared_records) {
  const auto read = spec(job);
  if (read == nullptr || !read->noise_at_sites() || declared_records < 1) return std::nullopt;
  const Key key{job.file_text, declared_records};
  const std::lock_guard lock(mutex_);
  if (const auto found = mechanisms_.find(key); found != mechanisms_.end()) return found->second;
  if (std::find(wanted_.begin(), wanted_.end(), key) == wanted_.end()) wanted_.push_back(key);
  if (!worker_.joinable()) worker_ = std::thread([this] { work(); });
  changed_.notify_all();
  return std::nullopt;
}

void PrivacyPlans::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return wanted_.empty(); });
}

void PrivacyPlans::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || !wanted_.empty(); });
    if (stopping_) return;
    const Key key = wanted_.front();
    const auto found = specs_.find(key.first);
    std::shared_ptr<const tasks::JobSpec> spec = found == specs_.end() ? nullptr : found->second;
    lock.unlock();
    std::optional<privacy::Mechanism> mechanism;
    if (spec != nullptr) mechanism = work_out(*spec, key.second);
    lock.lock();
    if (mechanisms_.size() >= most_mechanisms) mechanisms_.clear();
    if (spec != nullptr) mechanisms_[key] = mechanism;
    wanted_.pop_front();
    changed_.notify_all();
  }
}

}  // namespace trib::server
