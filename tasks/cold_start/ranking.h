// Full ranking: every candidate is scored for every user, and where the relevant ones stand is all that counts.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/host_matrix.h"
#include "tasks/cold_start/split.h"

namespace trib::tasks::cold_start {

inline constexpr std::array<std::int64_t, 3> cut_offs = {5, 10, 20};

// The ranks (from 1, ascending) of those `relevant` items that are among the first `cut` of `scores`. Items that score
// −∞ or not a number are no candidates and have no rank, relevant or not. Of equal scores, relevant items come last.
// `relevant` is ascending.
std::vector<std::int64_t> top_ranks(std::span<const float> scores, std::span<const std::int32_t> relevant,
                                    std::int64_t cut);

// One user's figures at one cut-off: `ranks` as above with a cut of at least `k`, of `relevant_count` relevant items.
struct UserFigures {
  double hr = 0.0, recall = 0.0, ndcg = 0.0, mrr = 0.0;
};
UserFigures figures_at(std::span<const std::int64_t> ranks, std::int64_t relevant_count, std::int64_t k);

// Scores users[q]·items for every query q (users and items float32, one row each, of one width) and ranks. By query.
std::vector<std::vector<std::int64_t>> rank_all(kernels::HostMatrix<const float> users,
                                                kernels::HostMatrix<const float> items, const RankingQueries& queries);

// Means over users and 1.96 standard errors: "recall@20", "recall@20_ci", and so on for hr, ndcg and mrr at each
// cut-off, and "users". Empty without queries.
std::map<std::string, double> ranking_metrics(const std::vector<std::vector<std::int64_t>>& ranks,
                                              const RankingQueries& queries);

}  // namespace trib::tasks::cold_start
