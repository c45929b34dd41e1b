#include "tasks/class_stream/metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace trib::tasks::class_stream {

std::map<std::string, double> stream_metrics(std::span<const Evaluated> rounds) {
  std::map<std::string, double> metrics;
  if (rounds.empty()) return metrics;
  double weighted = 0.0, weights = 0.0, plain = 0.0, ends = 0.0, phases = 0.0;
  for (const Evaluated& round : rounds) {
    weighted += round.accuracy * round.records;
    weights += round.records;
    plain += round.accuracy;
    if (round.ends_phase) {
      ends += round.accuracy;
      phases += 1.0;
    }
  }
  metrics["A_AUC"] = weights > 0.0 ? weighted / weights : plain / static_cast<double>(rounds.size());
  if (phases > 0.0) {
    metrics["A_avg"] = ends / phases;
    metrics["A_last"] = rounds.back().accuracy;
  }
  return metrics;
}

Forgetting forgetting(std::span<const double> best, std::span<const double> now) {
  Forgetting result{.of_class = std::vector<double>(now.size(), std::numeric_limits<double>::quiet_NaN())};
  double count = 0.0;
  for (std::size_t c = 0; c < now.size(); ++c) {
    if (std::isnan(best[c]) || std::isnan(now[c])) continue;
    result.of_class[c] = std::max(best[c], now[c]) - now[c];
    result.mean += result.of_class[c];
    count += 1.0;
  }
  if (count > 0.0) result.mean /= count;
  return result;
}

}  // namespace trib::tasks::class_stream
