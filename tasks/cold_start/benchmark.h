// What `trib bench recommend` times: full ranking, and a round of a federation whose clients are one person each.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "common/result.h"
#include "tasks/task.h"

namespace trib::tasks::cold_start {

struct RecommendBenchmarkRequest {
  std::int64_t users = 6040, items = 3706, size = 64;  // MovieLens-1M's
  std::int64_t relevant = 30;                          // of each user
  std::int64_t clients = 1000;                         // of the cross-device round
};

// "ranking_seconds" (median of five full rankings: all scores, all metrics), "round_seconds", "client_seconds"
// (median), "contribution_bytes", and "memory_growth_bytes": resident memory after the last client less that after the
// 50th.
Result<std::map<std::string, double>> benchmark_recommend(const RecommendBenchmarkRequest& request, Progress& progress);

// The command.
Benchmark recommend_benchmark();

}  // namespace trib::tasks::cold_start
