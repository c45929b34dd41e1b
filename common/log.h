// Structured logs on stderr: a line for people, or JSON for machines. Never a key, a token or a record.
#pragma once

#include <spdlog/spdlog.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "common/result.h"

namespace trib {

enum class LogFormat { text, json };

// Sets the process's logger: every line carries time, level and `program`. Levels: trace, debug, info, warn, error.
Status configure_logging(std::string_view program, std::string_view level, LogFormat format);

// What a line is about, for whoever filters: members of their own in JSON ("job", "round", "client"), and
// ` job=… round=… client=…` at the end of a line of text. Empty, or round 0: it is about none.
struct LogFields {
  std::string_view job = {};
  std::int64_t round = 0;
  std::string_view client = {};
};

// In a client: every line with a field carries its own name as client, unless it names another.
void set_log_client(std::string name);

// While it lives, what this thread logs has these fields.
class LogScope {
 public:
  explicit LogScope(const LogFields& fields);
  ~LogScope();
  LogScope(const LogScope&) = delete;
  LogScope& operator=(const LogScope&) = delete;

 private:
  LogFields fields_;
  const LogFields* outer_;
};

// One line with fields: log_info({.job = id, .round = 3}, "…", …).
template <typename... Arguments>
void log_line(spdlog::level::level_enum level, const LogFields& fields, fmt::format_string<Arguments...> format,
              Arguments&&... arguments) {
  const LogScope scope(fields);
  spdlog::log(level, format, std::forward<Arguments>(arguments)...);
}
template <typename... Arguments>
void log_debug(const LogFields& fields, fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  log_line(spdlog::level::debug, fields, format, std::forward<Arguments>(arguments)...);
}
template <typename... Arguments>
void log_info(const LogFields& fields, fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  log_line(spdlog::level::info, fields, format, std::forward<Arguments>(arguments)...);
}
template <typename... Arguments>
void log_warn(const LogFields& fields, fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  log_line(spdlog::level::warn, fields, format, std::forward<Arguments>(arguments)...);
}
template <typename... Arguments>
void log_error(const LogFields& fields, fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  log_line(spdlog::level::err, fields, format, std::forward<Arguments>(arguments)...);
}

}  // namespace trib
