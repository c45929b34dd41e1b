// Canaries for an audit: texts of random letters, each with a label of its own, and how well the aggregator can tell
// which of them a site trained on.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/random.h"
#include "common/result.h"
#include "tasks/task.h"

namespace trib::tasks::lora_text {

// Adds `count` labels to model.labels, "canary-1" and so on: a canary's gradient then lies mostly in its own row of the
// head (frozen: in the direction that its row sends back), where no other record's does.
Result<std::vector<std::string>> canary_overrides(const JobSpec& job, std::int64_t count);

// One canary for each of the last `count` labels. Its score is the inner product of its gradient at the broadcast
// state, clipped as a private site clips it, with the step that the site took from there: broadcast minus mean
// contribution, over the learning rate. Against isotropic noise and canaries at right angles that is the most powerful
// linear test. Finds and loads the base model.
Result<std::unique_ptr<Canaries>> make_canaries(const JobSpec& job, const AggregatorContext& context,
                                                std::int64_t count, RandomSource& random);

}  // namespace trib::tasks::lora_text
