// What the models of a stream got right, round by round, as part of a task's state.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/tensor_map.h"
#include "tasks/class_stream/classifier.h"

namespace trib::tasks::class_stream {

// Adds empty "history" (accuracy, records and phase end of each round), "class_accuracy" and "class_best" (−1: none).
void begin_history(TensorMap& state, std::int64_t classes);

// Adds one round's judgement; `records` arrived in it (0: nobody may know).
void add_to_history(TensorMap& state, const Judgement& judged, double records, bool ends_phase);

// The metrics of what was added so far: accuracy, A_AUC, A_avg, A_last, forgetting and forgetting/LABEL. None if
// nothing was.
std::map<std::string, double> history_metrics(const TensorMap& state, const std::vector<std::string>& labels);

}  // namespace trib::tasks::class_stream
