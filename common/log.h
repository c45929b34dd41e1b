// Structured logs on stderr: a line for people, or JSON for machines. Never a key, a token or a record.
#pragma once

#include <spdlog/spdlog.h>

#include <string_view>

#include "common/result.h"

namespace trib {

enum class LogFormat { text, json };

// Sets the process's logger: every line carries time, level and `program`. Levels: trace, debug, info, warn, error.
Status configure_logging(std::string_view program, std::string_view level, LogFormat format);

}  // namespace trib
