// Features of pictures through a frozen network (models/image_encoder.h).
#pragma once

#include "tasks/features/extractor.h"

namespace trib::tasks::features {

// Errc::invalid_argument names the key of [features] that does not fit: a precision other than fp32 and tf32, or an
// image_size that the network cannot take.
Result<std::shared_ptr<FeatureExtractor>> load_image_extractor(const BaseModel& backbone, const FeaturesConfig& config,
                                                               kernels::Device& device);

}  // namespace trib::tasks::features
