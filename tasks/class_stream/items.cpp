#include "tasks/class_stream/items.h"

#include <spdlog/fmt/fmt.h>
#include <spdlog/spdlog.h>

#include <charconv>
#include <cmath>
#include <cstdlib>

#include "tasks/base_model.h"
#include "tasks/features/extractor.h"
#include "tasks/features/feature_cache.h"

namespace trib::tasks::class_stream {
namespace {

// Items that are features already.
class Vectors final : public ItemFeatures {
 public:
  explicit Vectors(std::int64_t width) : width_(width) {}
  std::int64_t width() const override { return width_; }
  std::string identity() const override { return fmt::format("vector of {}", width_); }

  Result<HostTensor> extract(const data::TextTable& table, Progress*) override {
    constexpr float largest = 1e12f;  // so that sums over all features stay within float32
    HostTensor features(DType::f32, {static_cast<std::int64_t>(table.rows.size()), width_});
    auto to = features.as<float>().begin();
    for (const data::TextRow& row : table.rows) {
      std::string_view rest = row.text;
      std::int64_t count = 0;
      while (true) {
        rest.remove_prefix(std::min(rest.find_first_not_of(" \t"), rest.size()));
        if (rest.empty()) break;
        const std::string_view word = rest.substr(0, rest.find_first_of(" \t"));
        float value = 0.0f;
        const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
        if (error != std::errc() || end != word.data() + word.size() || !(std::abs(value) <= largest)) {
          return data::bad_row(
              table, row,
              fmt::format("feature {} is \"{}\", not a finite number of at most {:g}: leave the record "
                          "out, fill the gap before, or scale the features",
                          count + 1, word.substr(0, 60), largest));
        }
        if (count++ < width_) *to++ = value;
        rest.remove_prefix(word.size());
      }
      if (count != width_) {
        return data::bad_row(
            table, row, fmt::format("has {} features where features.vector_width = {} are expected", count, width_));
      }
    }
    return features;
  }

 private:
  std::int64_t width_;
};

// Items that a frozen network looks at.
class BackboneFeatures final : public ItemFeatures {
 public:
  BackboneFeatures(std::shared_ptr<features::FeatureExtractor> extractor, std::shared_ptr<features::FeatureCache> cache)
      : extractor_(std::move(extractor)), cache_(std::move(cache)) {}
  std::int64_t width() const override { return extractor_->width(); }
  std::string identity() const override { return extractor_->identity(); }
  Result<HostTensor> extract(const data::TextTable& table, Progress* progress) override {
    QuietProgress quiet;
    return features::extract_features(*extractor_, cache_.get(), features::items_of(table, extractor_->kind()),
                                      progress != nullptr ? *progress : quiet);
  }

 private:
  std::shared_ptr<features::FeatureExtractor> extractor_;
  std::shared_ptr<features::FeatureCache> cache_;  // null: none
};

Result<BaseModel> find(const Config& config, const ItemContext& context) {
  return find_base_model(config.features.backbone, context.data_directory, context.model_directories, *context.shared);
}

ItemContext context_of(const AggregatorContext& context) {
  return {.device = context.device,
          .data_directory = context.data_directory,
          .model_directories = context.model_directories,
          .cache_directory = context.cache_directory,
          .shared = context.shared};
}

}  // namespace

Result<std::shared_ptr<ItemFeatures>> open_items(const Config& config, const ItemContext& context) {
  if (config.vector_width > 0) return std::shared_ptr<ItemFeatures>(std::make_shared<Vectors>(config.vector_width));
  TRIB_ASSIGN(const BaseModel backbone, find(config, context));
  TRIB_ASSIGN(std::shared_ptr<features::FeatureExtractor> extractor,
              features::open_extractor(backbone, config.features, *context.device, *context.shared));
  std::shared_ptr<features::FeatureCache> cache;
  const char* const everywhere = std::getenv("TRIBUTARY_FEATURES_CACHE");
  const std::filesystem::path directory = everywhere != nullptr ? everywhere : context.cache_directory;
  if (config.features.cache && !directory.empty()) {
    auto opened = features::shared_cache(directory, *extractor, *context.shared);
    if (opened) {
      cache = *std::move(opened);
    } else {
      spdlog::warn("features are not kept: {}", opened.error().message);
    }
  }
  return std::shared_ptr<ItemFeatures>(std::make_shared<BackboneFeatures>(std::move(extractor), std::move(cache)));
}

Result<std::shared_ptr<ItemFeatures>> open_site_items(const Config& config, const SiteContext& site) {
  return open_items(config, {.device = site.devices.front(),
                             .data_directory = {},
                             .model_directories = site.model_directories,
                             .cache_directory = site.data_file.native() + ".features",
                             .shared = site.shared});
}

Result<std::shared_ptr<ItemFeatures>> open_aggregator_items(const Config& config, const AggregatorContext& context) {
  return open_items(config, context_of(context));
}

Result<std::optional<Sha256>> find_backbone(const Config& config, const AggregatorContext& context) {
  if (config.vector_width > 0) return std::optional<Sha256>();
  TRIB_ASSIGN(const BaseModel backbone, find(config, context_of(context)));
  return std::optional<Sha256>(backbone.hash);
}

}  // namespace trib::tasks::class_stream
