// The aggregator's half: running sums over sites and over time, and one solution a round.
#pragma once

#include <memory>

#include "common/result.h"
#include "tasks/analytic_cil/config.h"
#include "tasks/task.h"

namespace trib::tasks::analytic_cil {

// The state, all of it sums and what follows from them: "gram", "class_sums" and, without privacy, "counts" over all
// contributions so far; "weights" (C, d) that solve them; "gamma" and "rank" of that solution; "round"; "contributions"
// (as many noises are in the sums); and, where the job names a public test set, what the solutions got right: "history"
// (accuracy, records and phase end of each round), "class_accuracy" and "class_best".
Result<std::unique_ptr<ServerTask>> make_server(const JobSpec& job, const AggregatorContext& context);

// What the aggregator's machine fixes at submission (class_stream/pin.h).
Result<std::vector<std::string>> pin_to_aggregator(const JobSpec& job, const AggregatorContext& context);

}  // namespace trib::tasks::analytic_cil
