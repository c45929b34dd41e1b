// Records grouped by their labels, for sums of each class.
#pragma once

#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

namespace trib::kernels::detail {

struct LabelOrder {
  std::vector<std::int32_t> offsets;  // classes + 1: class c has order[offsets[c]] to order[offsets[c + 1] − 1]
  std::vector<std::int32_t> order;    // the records, by label, and within a label as they came
};

// Labels in [0, classes), fewer than 2³¹.
inline LabelOrder order_by_label(std::span<const std::int32_t> labels, std::int64_t classes) {
  LabelOrder result{std::vector<std::int32_t>(static_cast<std::size_t>(classes) + 1),
                    std::vector<std::int32_t>(labels.size())};
  for (const std::int32_t label : labels) ++result.offsets[static_cast<std::size_t>(label) + 1];
  std::partial_sum(result.offsets.begin(), result.offsets.end(), result.offsets.begin());
  std::vector<std::int32_t> next(result.offsets.begin(), result.offsets.end() - 1);
  for (std::size_t i = 0; i < labels.size(); ++i)
    result.order[static_cast<std::size_t>(next[static_cast<std::size_t>(labels[i])]++)] = static_cast<std::int32_t>(i);
  return result;
}

}  // namespace trib::kernels::detail
