#include <spdlog/fmt/fmt.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "common/files.h"
#include "common/hash.h"
#include "tasks/data/image_table.h"
#include "tasks/features/extractor.h"
#include "tasks/features/feature_cache.h"

namespace trib::tasks::features {
namespace {

constexpr std::size_t items_at_once = 1024;  // that are kept before the next are made

Result<Sha256> key_of(const Item& item, ItemKind kind) {
  if (kind == ItemKind::text) return sha256(item.text);
  Result<Sha256> hash = sha256_file(item.image);
  if (!hash) return hash.error().with_context(item.name);
  return hash;
}

}  // namespace

Result<data::TextTable> read_items(const std::filesystem::path& path, ItemKind kind,
                                   const data::TextTableOptions& options) {
  return kind == ItemKind::text ? data::read_text_table(path, options) : data::read_image_table(path, options);
}

std::vector<Item> items_of(const data::TextTable& table, ItemKind kind) {
  std::vector<Item> items;
  items.reserve(table.rows.size());
  for (const data::TextRow& row : table.rows) {
    Item& item = items.emplace_back();
    item.name = fmt::format("{}:{}", table.path.native(), row.line);
    if (kind == ItemKind::text) {
      item.text = row.text;
    } else {
      item.image = table.path.parent_path() / row.text;
    }
  }
  return items;
}

Result<HostTensor> extract_features(FeatureExtractor& extractor, FeatureCache* cache, std::span<const Item> items,
                                    Progress& progress) {
  const std::lock_guard lock(extractor.mutex);
  const auto width = static_cast<std::size_t>(extractor.width());
  HostTensor all(DType::f32, {static_cast<std::int64_t>(items.size()), extractor.width()});
  const auto row = [&](std::size_t i) { return all.as<float>().subspan(i * width, width); };

  std::map<Sha256, std::vector<std::size_t>> wanted;  // what has to be made, and for which items
  std::vector<Sha256> order;                          // of its keys, as the items come
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i % items_at_once == 0 && progress.cancelled()) return Error{Errc::cancelled, "the extraction was cancelled"};
    TRIB_ASSIGN(const Sha256 key, key_of(items[i], extractor.kind()));
    if (cache != nullptr) {
      TRIB_ASSIGN(const bool found, cache->find(key, row(i)));
      if (found) continue;
    }
    std::vector<std::size_t>& same = wanted[key];
    if (same.empty()) order.push_back(key);
    same.push_back(i);
  }

  for (std::size_t first = 0; first < order.size(); first += items_at_once) {
    const auto keys = std::span(order).subspan(first, std::min(items_at_once, order.size() - first));
    std::vector<Item> batch;
    for (const Sha256& key : keys) batch.push_back(items[wanted[key].front()]);
    const double total = static_cast<double>(order.size());
    PartProgress part(progress, static_cast<double>(first) / total, static_cast<double>(keys.size()) / total);
    TRIB_ASSIGN(const HostTensor features, extractor.extract(batch, part));
    for (std::size_t k = 0; k < keys.size(); ++k) {
      const auto values = features.as<float>().subspan(k * width, width);
      if (!std::ranges::all_of(values, [](float value) { return std::isfinite(value); })) {
        return Error{Errc::corrupt, fmt::format("{}: the backbone gives features that are not finite numbers: compute "
                                                "in fp32 (features.precision), or leave the record out",
                                                batch[k].name)};
      }
      for (const std::size_t i : wanted[keys[k]]) std::ranges::copy(values, row(i).begin());
    }
    if (cache == nullptr) continue;
    if (const Status kept = cache->append(keys, features.as<float>()); !kept) {
      spdlog::warn("features are not kept from here on: {}", kept.error().message);
      cache = nullptr;
    }
  }
  progress.fraction("features", 1.0);
  return all;
}

}  // namespace trib::tasks::features
