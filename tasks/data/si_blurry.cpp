#include "tasks/data/si_blurry.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <numeric>

namespace trib::tasks::data {
namespace {

// Fisher–Yates. std::shuffle leaves the use of the bits to the library, and so the stream.
void shuffle(std::vector<std::size_t>& values, RandomSource& random) {
  for (std::size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[random.below(i)]);
}

// `count` things cut into `parts` at uniformly random places: the ends of the parts, the last of them `count`.
std::vector<std::size_t> random_cuts(std::size_t count, std::size_t parts, RandomSource& random) {
  std::vector<std::size_t> ends;
  for (std::size_t i = 1; i < parts; ++i) ends.push_back(count == 0 ? 0 : random.below(count));
  std::ranges::sort(ends);
  ends.push_back(count);
  return ends;
}

Status check(const SiBlurryOptions& options) {
  if (options.tasks < 1) {
    return Error{Errc::invalid_argument, fmt::format("a stream has at least one task, not {}", options.tasks)};
  }
  for (const auto& [name, percent] :
       {std::pair{"disjoint classes", options.disjoint_percent}, std::pair{"blurry samples", options.blurry_percent}}) {
    if (percent < 0 || percent > 100) {
      return Error{Errc::invalid_argument, fmt::format("{} per cent of {}: must be from 0 to 100", percent, name)};
    }
  }
  return {};
}

}  // namespace

Result<ClassSchedule> draw_class_schedule(std::size_t classes, const SiBlurryOptions& options, RandomSource& random) {
  TRIB_TRY(check(options));
  const auto tasks = static_cast<std::size_t>(options.tasks);
  std::vector<std::size_t> order(classes);
  std::iota(order.begin(), order.end(), std::size_t{0});
  shuffle(order, random);

  const std::size_t disjoint = classes * static_cast<std::size_t>(options.disjoint_percent) / 100 / tasks * tasks;
  const std::size_t blurry = (classes - disjoint) / tasks * tasks;
  if (disjoint + blurry == 0) {
    return Error{Errc::invalid_argument,
                 fmt::format("{} classes are too few for a stream of {} tasks", classes, options.tasks)};
  }
  ClassSchedule schedule{.task_of_class = std::vector<std::int32_t>(classes, 0),
                         .is_blurry = std::vector<bool>(classes, false)};
  const auto cut = [&](std::size_t first, std::size_t count, bool is_blurry) {
    std::size_t task = 0;
    const std::vector<std::size_t> ends = random_cuts(count, tasks, random);
    for (std::size_t i = 0; i < count; ++i) {
      while (i >= ends[task]) ++task;
      schedule.task_of_class[order[first + i]] = static_cast<std::int32_t>(task + 1);
      schedule.is_blurry[order[first + i]] = is_blurry;
    }
  };
  cut(0, disjoint, false);
  cut(disjoint, blurry, true);
  return schedule;
}

Result<std::vector<std::vector<std::size_t>>> deal_samples(std::span<const std::int32_t> labels,
                                                           const ClassSchedule& schedule,
                                                           const SiBlurryOptions& options, RandomSource& random) {
  TRIB_TRY(check(options));
  const auto tasks = static_cast<std::size_t>(options.tasks);
  std::vector<std::vector<std::size_t>> stream(tasks);
  std::vector<std::size_t> blurry;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const auto label = static_cast<std::size_t>(labels[i]);
    if (labels[i] < 0 || label >= schedule.task_of_class.size()) {
      return Error{Errc::invalid_argument, fmt::format("sample {} has class {}, and the schedule has {}", i, labels[i],
                                                       schedule.task_of_class.size())};
    }
    if (schedule.task_of_class[label] == 0) continue;
    if (schedule.is_blurry[label]) {
      blurry.push_back(i);
    } else {
      stream[static_cast<std::size_t>(schedule.task_of_class[label] - 1)].push_back(i);
    }
  }
  shuffle(blurry, random);
  const std::size_t pooled = blurry.size() * static_cast<std::size_t>(options.blurry_percent) / 100;
  const std::vector<std::size_t> ends = random_cuts(pooled, tasks, random);
  std::size_t task = 0;
  for (std::size_t i = 0; i < blurry.size(); ++i) {
    if (i < pooled) {
      while (i >= ends[task]) ++task;
      stream[task].push_back(blurry[i]);
    } else {
      const auto label = static_cast<std::size_t>(labels[blurry[i]]);
      stream[static_cast<std::size_t>(schedule.task_of_class[label] - 1)].push_back(blurry[i]);
    }
  }
  for (std::vector<std::size_t>& samples : stream) shuffle(samples, random);
  return stream;
}

}  // namespace trib::tasks::data
