// A trained model applied to a table of texts.
#pragma once

#include "common/result.h"
#include "tasks/task.h"

namespace trib::tasks::lora_text {

// Label and logits for every row of request.data. With an adapter, its rank, targets, head and labels are used; without
// one, the base model's own head and the labels of its config.json. Errors name the file and, for a row, its line.
Result<Predictions> predict_text(const PredictRequest& request, Progress& progress);

}  // namespace trib::tasks::lora_text
