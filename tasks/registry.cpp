#include <spdlog/fmt/fmt.h>
#include <spdlog/fmt/ranges.h>

#include <algorithm>

#include "tasks/analytic_cil/analytic_cil.h"
#include "tasks/cold_start/cold_start.h"
#include "tasks/linear_probe/linear_probe.h"
#include "tasks/lora_text/lora_text.h"
#include "tasks/task.h"

namespace trib::tasks {

const std::vector<TaskDefinition>& registered_tasks() {
  static const std::vector<TaskDefinition> tasks = {
      analytic_cil::definition(),
      cold_start::definition(),
      linear_probe::definition(),
      lora_text::definition(),
  };
  return tasks;
}

Result<const TaskDefinition*> find_task(std::string_view name) {
  const std::vector<TaskDefinition>& tasks = registered_tasks();
  const auto found = std::ranges::find(tasks, name, &TaskDefinition::name);
  if (found != tasks.end()) return &*found;
  std::vector<std::string_view> names;
  for (const TaskDefinition& task : tasks) names.push_back(task.name);
  return Error{Errc::not_found,
               fmt::format("there is no task \"{}\"; this build has: {}", name, fmt::join(names, ", "))};
}

}  // namespace trib::tasks
