#include "tasks/cold_start/ranking.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace trib::tasks::cold_start {
namespace {

constexpr float masked = -std::numeric_limits<float>::infinity();

// The `cut` largest of `scores`, descending; fewer where there are fewer candidates.
std::vector<float> largest(std::span<const float> scores, std::size_t cut) {
  std::vector<float> heap;  // the smallest first
  heap.reserve(cut + 1);
  constexpr std::size_t block = 32;
  for (std::size_t first = 0; first < scores.size(); first += block) {
    const std::size_t last = std::min(first + block, scores.size());
    const float bound = heap.size() == cut ? heap.front() : masked;
    // Most blocks have nothing above the bound, and a comparison that does not branch is vector code.
    int above = 0;
    for (std::size_t i = first; i < last; ++i) above |= scores[i] > bound ? 1 : 0;
    if (above == 0) continue;
    for (std::size_t i = first; i < last; ++i) {
      if (!(scores[i] > (heap.size() == cut ? heap.front() : masked))) continue;
      if (heap.size() == cut) {
        std::ranges::pop_heap(heap, std::greater<>());
        heap.pop_back();
      }
      heap.push_back(scores[i]);
      std::ranges::push_heap(heap, std::greater<>());
    }
  }
  std::ranges::sort(heap, std::greater<>());
  return heap;
}

}  // namespace

std::vector<std::int64_t> top_ranks(std::span<const float> scores, std::span<const std::int32_t> relevant,
                                    std::int64_t cut) {
  const std::vector<float> top = largest(scores, static_cast<std::size_t>(cut));
  if (top.empty()) return {};
  std::vector<float> found;  // scores of relevant items that may be within the cut
  for (const std::int32_t item : relevant) {
    const float score = scores[static_cast<std::size_t>(item)];
    if (score >= top.back() && score > masked) found.push_back(score);
  }
  std::ranges::sort(found, std::greater<>());
  std::vector<std::int64_t> ranks;
  for (std::size_t first = 0; first < found.size();) {
    std::size_t last = first;
    while (last < found.size() && found[last] == found[first]) ++last;
    const float score = found[first];
    const auto better = std::ranges::lower_bound(top, score, std::greater<>()) - top.begin();
    // The smallest score within the cut may be that of more items than the cut has room for.
    std::int64_t equal = std::ranges::count(top, score);
    if (score == top.back()) equal = std::ranges::count(scores, score);
    const auto relevant_equal = static_cast<std::int64_t>(last - first);
    for (std::int64_t i = 0; i < relevant_equal; ++i) {
      const std::int64_t rank = better + (equal - relevant_equal) + i + 1;
      if (rank <= cut) ranks.push_back(rank);
    }
    first = last;
  }
  return ranks;
}

UserFigures figures_at(std::span<const std::int64_t> ranks, std::int64_t relevant_count, std::int64_t k) {
  UserFigures figures;
  double gain = 0.0, ideal = 0.0, hits = 0.0;
  for (const std::int64_t rank : ranks) {
    if (rank > k) break;
    hits += 1.0;
    gain += 1.0 / std::log2(static_cast<double>(rank) + 1.0);
  }
  for (std::int64_t rank = 1; rank <= std::min(relevant_count, k); ++rank)
    ideal += 1.0 / std::log2(static_cast<double>(rank) + 1.0);
  if (hits > 0.0) {
    figures.hr = 1.0;
    figures.mrr = 1.0 / static_cast<double>(ranks.front());
    figures.recall = hits / static_cast<double>(relevant_count);
    figures.ndcg = gain / ideal;
  }
  return figures;
}

std::vector<std::vector<std::int64_t>> rank_all(kernels::HostMatrix<const float> users,
                                                kernels::HostMatrix<const float> items, const RankingQueries& queries) {
  const std::int64_t count = users.rows, item_count = items.rows;
  std::vector<std::vector<std::int64_t>> ranks(static_cast<std::size_t>(count));
  std::vector<std::int32_t> not_candidates;
  for (std::size_t i = 0; i < queries.candidate.size(); ++i)
    if (queries.candidate[i] == 0) not_candidates.push_back(static_cast<std::int32_t>(i));
  // One block's scores stay in the cache between the product and the selection.
  constexpr std::int64_t block = 256;
  std::vector<float> turned(items.values.size());  // (width, items), turned once for all blocks
  for (std::int64_t i = 0; i < item_count; ++i) {
    for (std::int64_t j = 0; j < items.columns; ++j)
      turned[static_cast<std::size_t>(j * item_count + i)] =
          items.values[static_cast<std::size_t>(i * items.columns + j)];
  }
  const kernels::HostMatrix<const float> item_columns{turned, items.columns, item_count};
  std::vector<float> scores(static_cast<std::size_t>(std::min(block, count) * item_count));
  for (std::int64_t first = 0; first < count; first += block) {
    const std::int64_t rows = std::min(block, count - first);
    const kernels::HostMatrix<float> part{std::span<float>(scores).first(static_cast<std::size_t>(rows * item_count)),
                                          rows, item_count};
    kernels::host_product<float>(users.row_range(first, rows), item_columns, false, part);
    kernels::host_parallel_for(rows, 8, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const std::span<float> values = part.row(row);
        const auto query = static_cast<std::size_t>(first + row);
        for (const std::int32_t item : not_candidates) values[static_cast<std::size_t>(item)] = masked;
        for (const std::int32_t item : queries.excluded[query]) values[static_cast<std::size_t>(item)] = masked;
        ranks[query] = top_ranks(values, queries.relevant[query], cut_offs.back());
      }
    });
  }
  return ranks;
}

std::map<std::string, double> ranking_metrics(const std::vector<std::vector<std::int64_t>>& ranks,
                                              const RankingQueries& queries) {
  std::map<std::string, double> metrics;
  if (ranks.empty()) return metrics;
  const auto count = static_cast<double>(ranks.size());
  metrics["users"] = count;
  for (const std::int64_t k : cut_offs) {
    constexpr std::array<std::string_view, 4> names = {"hr", "recall", "ndcg", "mrr"};
    std::array<double, 4> sums{}, squares{};
    for (std::size_t q = 0; q < ranks.size(); ++q) {
      const auto relevant = static_cast<std::int64_t>(queries.relevant[q].size());
      const UserFigures figures = figures_at(ranks[q], relevant, k);
      const std::array<double, 4> values = {figures.hr, figures.recall, figures.ndcg, figures.mrr};
      for (std::size_t m = 0; m < values.size(); ++m) {
        sums[m] += values[m];
        squares[m] += values[m] * values[m];
      }
    }
    for (std::size_t m = 0; m < names.size(); ++m) {
      const double mean = sums[m] / count;
      const double variance = count > 1.0 ? std::max(0.0, (squares[m] - count * mean * mean) / (count - 1.0)) : 0.0;
      const std::string name = fmt::format("{}@{}", names[m], k);
      metrics[name] = mean;
      metrics[name + "_ci"] = 1.96 * std::sqrt(variance / count);
    }
  }
  return metrics;
}

}  // namespace trib::tasks::cold_start
