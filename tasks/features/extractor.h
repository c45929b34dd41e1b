// Records as vectors: a frozen backbone applied to texts or pictures, batch by batch on a device. What it gives of a
// record depends on that record alone, so it may be kept (feature_cache.h) and shared by every site of a process.
#pragma once

#include <filesystem>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "common/tensor_map.h"
#include "kernels/device.h"
#include "tasks/data/text_table.h"
#include "tasks/features/config.h"
#include "tasks/task.h"

namespace trib::tasks::features {

enum class ItemKind { text, image };

// One record's content.
struct Item {
  std::string name;             // for errors: "messages.tsv:12"
  std::string text;             // of a text backbone, UTF-8
  std::filesystem::path image;  // of an image backbone: a JPEG or PNG file, read when it is needed
};

class FeatureExtractor {
 public:
  virtual ~FeatureExtractor() = default;
  virtual ItemKind kind() const = 0;
  virtual std::int64_t width() const = 0;
  // SHA-256 in hexadecimal over everything that determines the features: the backbone's files, the precision, how a
  // record is prepared and what is taken of the network. Not the device: the same numbers up to rounding come from all.
  virtual const std::string& identity() const = 0;
  // (N, width) float32, a row an item in the items' order. Shows its progress as "features". Errc::cancelled if
  // `progress` says so; errors about an item name it. Throws as the device does. One call at a time.
  virtual Result<HostTensor> extract(std::span<const Item> items, Progress& progress) = 0;

  // Held by whoever calls extract() on an extractor that others share.
  std::mutex mutex;
};

// What a job's backbone takes, from its files alone: for a check before anything starts.
Result<ItemKind> item_kind(const BaseModel& backbone);

// Loads the backbone; the same object for equal (backbone, configuration, device) in one process. Errc::not_found,
// unsupported (an architecture other than roberta, squeezenet and vit) or corrupt names the file; invalid_argument
// names the key of [features] that does not fit the backbone.
Result<std::shared_ptr<FeatureExtractor>> open_extractor(const BaseModel& backbone, const FeaturesConfig& config,
                                                         kernels::Device& device, SharedResources& shared);

// Reads a site's records: a table of texts, or of pictures (data/image_table.h), which may also be a directory with a
// folder for each class.
Result<data::TextTable> read_items(const std::filesystem::path& path, ItemKind kind,
                                   const data::TextTableOptions& options);

// The rows of a table as items: their texts, or the pictures whose paths, relative to the table's file, their texts
// are.
std::vector<Item> items_of(const data::TextTable& table, ItemKind kind);

class FeatureCache;

// As extract(), under the extractor's lock, but what `cache` (which may be null) knows is taken from it, equal items
// are extracted once, and what is new is kept, batch by batch, so that little is lost when the process dies.
// Errc::corrupt names an item whose features are not finite numbers. A cache that cannot be written is a warning, not
// an error.
Result<HostTensor> extract_features(FeatureExtractor& extractor, FeatureCache* cache, std::span<const Item> items,
                                    Progress& progress);

}  // namespace trib::tasks::features
