// The half that runs in the aggregator: turns the sum of a round into the next state.
//
// The state is flat, by tensor name:
//   <layer>.lora_B          (out, rank) float32   every algorithm
//   <layer>.lora_A          (rank, in) float32    fedavg
//   <layer>.rotation        (rank, rank) float64  fedsvd: A_t = rotation·A_0
//   classifier.…            float32               what of the head trains
//   average.<name>          float64               running average, where the job keeps one: adapters whose product is
//   the
//                                                 average of ΔW (against A_0; fedavg: its best approximation of the
//                                                 rank), and the head
//   average.rounds          [1] int64             how many states it holds
// A round sends down all but the averages.
#pragma once

#include <memory>

#include "common/result.h"
#include "tasks/lora_text/config.h"
#include "tasks/task.h"

namespace trib::tasks::lora_text {

// Finds and loads the base model and reads the public test set.
Result<std::unique_ptr<ServerTask>> make_server(const JobSpec& job, const AggregatorContext& context);

}  // namespace trib::tasks::lora_text
