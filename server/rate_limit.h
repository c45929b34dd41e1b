// How often something may happen: a token bucket, and one for each peer.
#pragma once

#include <algorithm>
#include <chrono>
#include <string>
#include <unordered_map>

#include "common/clock.h"

namespace trib::server {

// `burst` at once, `per_second` in the long run.
class TokenBucket {
 public:
  TokenBucket(double per_second, double burst, MonotonicTime now)
      : per_second_(per_second), burst_(burst), tokens_(burst), updated_(now) {}
  bool take(MonotonicTime now) {
    tokens_ = tokens_at(now);
    updated_ = now;
    if (tokens_ < 1.0) return false;
    tokens_ -= 1.0;
    return true;
  }
  // Nothing was taken for so long that forgetting the bucket changes nothing.
  bool is_full(MonotonicTime now) const { return tokens_at(now) >= burst_; }

 private:
  double tokens_at(MonotonicTime now) const {
    return std::min(burst_, tokens_ + per_second_ * std::chrono::duration<double>(now - updated_).count());
  }
  double per_second_, burst_, tokens_;
  MonotonicTime updated_;
};

// A minute's worth at once for each key (a network address).
class RateLimiter {
 public:
  explicit RateLimiter(std::int64_t per_minute) : per_minute_(static_cast<double>(per_minute)) {}
  bool take(const std::string& key, MonotonicTime now) {
    if (buckets_.size() > 1000) std::erase_if(buckets_, [now](const auto& entry) { return entry.second.is_full(now); });
    return buckets_.try_emplace(key, per_minute_ / 60.0, per_minute_, now).first->second.take(now);
  }

 private:
  double per_minute_;
  std::unordered_map<std::string, TokenBucket> buckets_;
};

}  // namespace trib::server
