// Sentence features of a RoBERTa base model: the mean over a text's tokens, <s> and </s> included, of the last layer's
// output.
#pragma once

#include "tasks/features/extractor.h"

namespace trib::tasks::features {

// Errc::invalid_argument names features.max_tokens where the backbone has fewer positions.
Result<std::shared_ptr<FeatureExtractor>> load_text_extractor(const BaseModel& backbone, const FeaturesConfig& config,
                                                              kernels::Device& device);

}  // namespace trib::tasks::features
