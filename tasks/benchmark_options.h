// Options that the tasks' benchmarks have in common.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "tasks/task.h"

namespace trib::tasks {

inline BenchmarkOption integer_option(std::string name, std::string help, std::int64_t value, std::int64_t least,
                                      std::int64_t most) {
  return {.name = std::move(name),
          .help = std::move(help),
          .kind = BenchmarkOption::Kind::integer,
          .value = std::to_string(value),
          .least = least,
          .most = most};
}

}  // namespace trib::tasks
