// From the items of a table, texts, pictures or vectors, to features.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/result.h"
#include "common/tensor_map.h"
#include "tasks/class_stream/config.h"
#include "tasks/data/text_table.h"
#include "tasks/task.h"

namespace trib::tasks::class_stream {

// A frozen map from items to features.
class ItemFeatures {
 public:
  virtual ~ItemFeatures() = default;
  virtual std::int64_t width() const = 0;
  // What the features depend on, besides the item: goes into what sites and aggregator compare before they begin.
  virtual std::string identity() const = 0;
  // (rows, width) float32, finite. Errc::invalid_argument names file, line and value of an item that has no features;
  // Errc::cancelled if `progress` says so. `progress` may be null.
  virtual Result<HostTensor> extract(const data::TextTable& table, Progress* progress) = 0;
};

// Where a backbone may be, as in SiteContext and AggregatorContext, and where features may be kept.
struct ItemContext {
  kernels::Device* device = nullptr;
  std::filesystem::path data_directory;  // the aggregator's; empty at sites
  std::vector<std::filesystem::path> model_directories;
  std::filesystem::path cache_directory;  // empty: nowhere, unless TRIBUTARY_FEATURES_CACHE names a folder
  std::shared_ptr<SharedResources> shared;
};

// Errc::not_found as from looking for the backbone. With features.cache, features are kept in the cache folder from one
// run to the next; a folder that cannot be used is a warning.
Result<std::shared_ptr<ItemFeatures>> open_items(const Config& config, const ItemContext& context);

// The same for a site, which keeps its features beside its data, in FILE.features; and for the aggregator.
Result<std::shared_ptr<ItemFeatures>> open_site_items(const Config& config, const SiteContext& site);
Result<std::shared_ptr<ItemFeatures>> open_aggregator_items(const Config& config, const AggregatorContext& context);

// The SHA-256 of the backbone that the aggregator has; none where there is no backbone.
Result<std::optional<Sha256>> find_backbone(const Config& config, const AggregatorContext& context);

}  // namespace trib::tasks::class_stream
