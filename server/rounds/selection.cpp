#include "server/rounds/selection.h"

#include <algorithm>
#include <utility>

namespace trib::server {

std::vector<std::string> choose_sites(std::vector<Candidate> candidates, std::size_t count, tasks::SelectionOrder order,
                                      RandomSource& random) {
  for (std::size_t i = candidates.size(); i > 1; --i) std::swap(candidates[i - 1], candidates[random.below(i)]);
  if (order == tasks::SelectionOrder::balanced)
    std::stable_sort(candidates.begin(), candidates.end(),
                     [](const Candidate& a, const Candidate& b) { return a.turns < b.turns; });
  std::vector<std::string> chosen;
  for (std::size_t i = 0; i < std::min(count, candidates.size()); ++i) chosen.push_back(std::move(candidates[i].site));
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

}  // namespace trib::server
