// The [features] section of a job file: which frozen backbone turns records into vectors, and how.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "common/config.h"
#include "common/hash.h"
#include "models/text_classifier.h"
#include "tasks/base_model.h"

namespace trib::tasks::features {

struct FeaturesConfig {
  BaseModelName backbone;
  models::Precision precision = models::Precision::fp32;
  std::int64_t base_bits = 16;   // as in ClassifierConfig
  std::int64_t max_tokens = 64;  // of a text, <s> and </s> included; longer ones are cut
  std::int64_t image_size = 0;   // pixels that pictures are brought to, both ways; 0: the backbone's own
  bool cache = true;             // whether a machine keeps features that it has made
};

// Reads features.backbone, backbone_sha256, precision, base_bits, max_tokens, image_size and cache. Errors wait for
// config.finish().
FeaturesConfig read_features_config(ConfigReader& config);

}  // namespace trib::tasks::features
