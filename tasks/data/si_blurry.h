// The order in which a labelled data set arrives over time: Si-Blurry, of disjoint classes, blurry ones and the same
// class again (Moon et al., ICCV 2023; the protocol of G-ACIL, arXiv 2403.15706).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/random.h"
#include "common/result.h"

namespace trib::tasks::data {

struct SiBlurryOptions {
  std::int64_t tasks = 5;              // K
  std::int64_t disjoint_percent = 50;  // r_D: of the classes, those that one task has for itself
  std::int64_t blurry_percent = 10;    // r_B: of the samples of the other classes, those that any task may get
};

// Which task each class belongs to, 1 to K; 0 for a class that none has.
//
// The classes come in random order. The first floor(floor(N·r_D/100)/K)·K of them are disjoint, and of the rest the
// first floor(rest/K)·K are blurry; what rounding leaves over is in no task, as in the published code. Both lists are
// cut into K parts at K − 1 independent uniform places, so that tasks have different numbers of classes and some may
// have none.
struct ClassSchedule {
  std::vector<std::int32_t> task_of_class;
  std::vector<bool> is_blurry;
};

// Errc::invalid_argument unless there is a class, tasks is at least 1 and both percentages are from 0 to 100, or if the
// rounding leaves no class at all (fewer classes than tasks).
Result<ClassSchedule> draw_class_schedule(std::size_t classes, const SiBlurryOptions& options, RandomSource& random);

// The samples of each task in the order in which they arrive. labels[i] is sample i's class, in [0, classes).
//
// A sample goes to its class's task. Of all samples of blurry classes floor(n·r_B/100), chosen at random, are taken out
// and dealt to the tasks again, in random order, cut at K − 1 independent uniform places. Each task is then shuffled.
// Samples of a class that no task has are left out. The same source gives the same stream.
// Errc::invalid_argument for a label outside of the schedule.
Result<std::vector<std::vector<std::size_t>>> deal_samples(std::span<const std::int32_t> labels,
                                                           const ClassSchedule& schedule,
                                                           const SiBlurryOptions& options, RandomSource& random);

}  // namespace trib::tasks::data
