#include "tasks/features/config.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <filesystem>

namespace trib::tasks::features {
namespace {

constexpr std::string_view precisions[] = {"fp32", "bf16", "fp8", "tf32"};  // in the order of models::Precision

}  // namespace

FeaturesConfig read_features_config(ConfigReader& config) {
  FeaturesConfig result;
  result.backbone.base = config.text("features.backbone");
  if (config.has("features.backbone") && std::filesystem::path(result.backbone.base).filename().empty()) {
    config.fail("features.backbone", "must name a directory with a frozen model, such as \"roberta-mini-imdb\"");
  }
  if (const std::string hash = config.text("features.backbone_sha256", ""); !hash.empty()) {
    if (const Result<Sha256> parsed = sha256_from_hex(hash)) {
      result.backbone.sha256 = *parsed;
    } else {
      config.fail("features.backbone_sha256",
                  "must be the SHA-256 of the backbone as 64 hexadecimal digits, or \"\" for whichever is found");
    }
  }
  const std::string precision = config.choice("features.precision", precisions, "fp32");
  result.precision = static_cast<models::Precision>(std::ranges::find(precisions, precision) - std::begin(precisions));
  const std::int64_t bits = result.base_bits =
      config.integer("features.base_bits", {.minimum = 4, .maximum = 16}, result.base_bits);
  if (bits != 16 && bits != 8 && bits != 4) {
    config.fail("features.base_bits", fmt::format("must be 16, 8 or 4, not {}", bits));
  } else if (bits != 16 && result.precision != models::Precision::bf16) {
    config.fail("features.base_bits",
                "below 16 needs features.precision = \"bf16\": weights come back to bfloat16 in a product");
  }
  result.max_tokens = config.integer("features.max_tokens", {.minimum = 3, .maximum = 4096}, result.max_tokens);
  result.image_size = config.integer("features.image_size", {.minimum = 0, .maximum = 2048}, result.image_size);
  result.cache = config.boolean("features.cache", result.cache);
  return result;
}

}  // namespace trib::tasks::features
