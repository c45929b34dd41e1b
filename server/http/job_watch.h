// The running jobs, followed on the daemon's executor for those who look now and then from elsewhere.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>

#include "server/coordinator.h"
#include "server/http/message.h"

namespace trib::server::http {

// All calls on the coordinator's executor. Once stopped it may outlive the coordinator.
class JobWatch {
 public:
  explicit JobWatch(Coordinator& coordinator) : coordinator_(coordinator) {}
  ~JobWatch() { stop(); }
  JobWatch(const JobWatch&) = delete;
  JobWatch& operator=(const JobWatch&) = delete;

  struct News {
    std::map<std::string, Text> changed;  // the newest report of each job that has changed since the last call
    std::set<std::string> ended;          // those of them for which it is the last
  };
  // Follows the jobs that have begun since, too.
  News collect() {
    for (const std::string& job : coordinator_.running_jobs()) {
      if (subscriptions_.contains(job)) continue;
      subscriptions_[job] = 0;  // the first report comes at once, and may be the last
      const auto report = [this, job](const std::string& json, bool last) {
        news_.changed[job] = std::make_shared<const std::string>(json);
        if (!last) return;
        news_.ended.insert(job);
        subscriptions_.erase(job);  // over by itself
      };
      const auto subscription = coordinator_.subscribe(job, report);
      const auto found = subscriptions_.find(job);
      if (found == subscriptions_.end()) continue;
      if (subscription) {
        found->second = *subscription;
      } else {
        subscriptions_.erase(found);
      }
    }
    News news = std::move(news_);
    news_ = {};
    return news;
  }
  void stop() {
    for (const auto& [job, subscription] : subscriptions_) coordinator_.unsubscribe(subscription);
    subscriptions_.clear();
    news_ = {};
  }

 private:
  Coordinator& coordinator_;
  std::map<std::string, std::uint64_t> subscriptions_;  // by job
  News news_;
};

}  // namespace trib::server::http
