#include <spdlog/fmt/fmt.h>

#include <boost/json/object.hpp>
#include <boost/json/string.hpp>

#include "models/json_file.h"
#include "tasks/features/extractor.h"
#include "tasks/features/image_extractor.h"
#include "tasks/features/text_extractor.h"

namespace trib::tasks::features {
namespace {

using Load = Result<std::shared_ptr<FeatureExtractor>> (*)(const BaseModel&, const FeaturesConfig&, kernels::Device&);

// The kinds of backbone, by the "model_type" of config.json.
struct Architecture {
  std::string_view model_type;
  ItemKind kind;
  Load load;
};
constexpr Architecture architectures[] = {
    {"roberta", ItemKind::text, &load_text_extractor},
    {"squeezenet", ItemKind::image, &load_image_extractor},
    {"vit", ItemKind::image, &load_image_extractor},
};

Result<const Architecture*> architecture_of(const BaseModel& backbone) {
  const std::filesystem::path path = backbone.directory / "config.json";
  TRIB_ASSIGN(const boost::json::object config, models::read_json_object(path));
  const boost::json::value* type = config.if_contains("model_type");
  if (type == nullptr || !type->is_string()) return models::corrupt_file(path, "\"model_type\" is missing");
  const std::string_view name(type->get_string());
  std::string accepted;
  for (const Architecture& architecture : architectures) {
    if (architecture.model_type == name) return &architecture;
    accepted += fmt::format("{}\"{}\"", accepted.empty() ? "" : ", ", architecture.model_type);
  }
  return Error{Errc::unsupported, fmt::format("{}: no features can be taken from a model of type \"{}\"; choose a "
                                              "backbone of type {} (features.backbone)",
                                              path.native(), name, accepted)};
}

}  // namespace

Result<ItemKind> item_kind(const BaseModel& backbone) {
  TRIB_ASSIGN(const Architecture* architecture, architecture_of(backbone));
  return architecture->kind;
}

Result<std::shared_ptr<FeatureExtractor>> open_extractor(const BaseModel& backbone, const FeaturesConfig& config,
                                                         kernels::Device& device, SharedResources& shared) {
  TRIB_ASSIGN(const Architecture* architecture, architecture_of(backbone));
  const std::string key = fmt::format(
      "features/extractor/{}/precision={}/base_bits={}/max_tokens={}/image_size={}/device={}", to_hex(backbone.hash),
      static_cast<int>(config.precision), config.base_bits, config.max_tokens, config.image_size, fmt::ptr(&device));
  return shared.get<FeatureExtractor>(key, [&] { return architecture->load(backbone, config, device); });
}

}  // namespace trib::tasks::features
