#include "common/log.h"

#include <spdlog/formatter.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <string>

#include "common/clock.h"
#include "common/utf8.h"

namespace trib {
namespace {

void append(spdlog::memory_buf_t& out, std::string_view text) {
  out.append(text.data(), text.data() + text.size());
}

// Appends `text` with control characters escaped and bytes that are not UTF-8 replaced by U+FFFD: a message may quote a
// peer, and must neither end its line, nor steer the terminal, nor break the JSON around it.
void append_escaped(spdlog::memory_buf_t& out, std::string_view text, LogFormat format) {
  while (!text.empty()) {
    const std::size_t length = decode_utf8(text, 0).byte_count;
    const auto first = static_cast<unsigned char>(text.front());
    if (length == 0) {
      append(out, "\xef\xbf\xbd");
    } else if (first == '\n') {
      append(out, "\\n");
    } else if (first < 0x20 || first == 0x7f) {
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", first);
    } else if (format == LogFormat::json && (first == '"' || first == '\\')) {
      append(out, first == '"' ? "\\\"" : "\\\\");
    } else {
      append(out, text.substr(0, length));
    }
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
}

std::string_view level_name(spdlog::level::level_enum level) {
  switch (level) {
    case spdlog::level::trace:
      return "trace";
    case spdlog::level::debug:
      return "debug";
    case spdlog::level::info:
      return "info";
    case spdlog::level::warn:
      return "warn";
    default:
      return "error";
  }
}

thread_local const LogFields* current_fields = nullptr;

std::string& log_client() {
  static std::string name;
  return name;
}

LogFields fields_now() {
  LogFields fields = current_fields == nullptr ? LogFields{} : *current_fields;
  const bool has_any = !fields.job.empty() || fields.round != 0;
  if (fields.client.empty() && has_any) fields.client = log_client();
  return fields;
}

// A value that holds anything but a name's characters is quoted, so that it cannot look like another field.
void append_text_field(spdlog::memory_buf_t& out, std::string_view name, std::string_view value) {
  const bool is_plain = std::ranges::all_of(value, [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '.' || c == '-' ||
           c == '_' || c == ':';
  });
  fmt::format_to(std::back_inserter(out), " {}={}", name, is_plain ? "" : "\"");
  append_escaped(out, value, is_plain ? LogFormat::text : LogFormat::json);
  if (!is_plain) out.push_back('"');
}

void append_json_field(spdlog::memory_buf_t& out, std::string_view name, std::string_view value) {
  fmt::format_to(std::back_inserter(out), R"(,"{}":")", name);
  append_escaped(out, value, LogFormat::json);
  out.push_back('"');
}

// 2026-11-24T15:04:05.123Z info  trib-server: message job=domains-0123abcd round=3 client=st-mary
class TextFormatter final : public spdlog::formatter {
 public:
  explicit TextFormatter(std::string program) : program_(std::move(program)) {}
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    const auto time = std::chrono::floor<Milliseconds>(message.time);
    fmt::format_to(std::back_inserter(out), "{} {:<5} {}: ", to_iso8601(time), level_name(message.level), program_);
    append_escaped(out, {message.payload.data(), message.payload.size()}, LogFormat::text);
    const LogFields fields = fields_now();
    if (!fields.job.empty()) append_text_field(out, "job", fields.job);
    if (fields.round != 0) fmt::format_to(std::back_inserter(out), " round={}", fields.round);
    if (!fields.client.empty()) append_text_field(out, "client", fields.client);
    out.push_back('\n');
  }
  std::unique_ptr<spdlog::formatter> clone() const override { return std::make_unique<TextFormatter>(program_); }

 private:
  std::string program_;
};

// {"time":"2026-11-24T15:04:05.123Z","level":"info","program":"trib-server","job":"…","round":3,"client":"…",
// "message":"…"}; fields that a line is not about are absent.
class JsonFormatter final : public spdlog::formatter {
 public:
  explicit JsonFormatter(std::string program) : program_(std::move(program)) {}
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    const auto time = std::chrono::floor<Milliseconds>(message.time);
    fmt::format_to(std::back_inserter(out), R"({{"time":"{}","level":"{}","program":")", to_iso8601(time),
                   level_name(message.level));
    append_escaped(out, program_, LogFormat::json);
    out.push_back('"');
    const LogFields fields = fields_now();
    if (!fields.job.empty()) append_json_field(out, "job", fields.job);
    if (fields.round != 0) fmt::format_to(std::back_inserter(out), R"(,"round":{})", fields.round);
    if (!fields.client.empty()) append_json_field(out, "client", fields.client);
    append(out, R"(,"message":")");
    append_escaped(out, {message.payload.data(), message.payload.size()}, LogFormat::json);
    append(out, "\"}\n");
  }
  std::unique_ptr<spdlog::formatter> clone() const override { return std::make_unique<JsonFormatter>(program_); }

 private:
  std::string program_;
};

Result<spdlog::level::level_enum> parse_level(std::string_view name) {
  for (const auto level :
       {spdlog::level::trace, spdlog::level::debug, spdlog::level::info, spdlog::level::warn, spdlog::level::err}) {
    if (level_name(level) == name) return level;
  }
  return Error{Errc::invalid_argument,
               "log level '" + std::string(name) + "' is not one of trace, debug, info, warn, error"};
}

}  // namespace

LogScope::LogScope(const LogFields& fields) : fields_(fields), outer_(current_fields) {
  current_fields = &fields_;
}

LogScope::~LogScope() {
  current_fields = outer_;
}

void set_log_client(std::string name) {
  log_client() = std::move(name);
}

Status configure_logging(std::string_view program, std::string_view level, LogFormat format) {
  TRIB_ASSIGN(const auto parsed_level, parse_level(level));
  auto logger =
      std::make_shared<spdlog::logger>(std::string(program), std::make_shared<spdlog::sinks::stderr_sink_mt>());
  if (format == LogFormat::json) {
    logger->set_formatter(std::make_unique<JsonFormatter>(std::string(program)));
  } else {
    logger->set_formatter(std::make_unique<TextFormatter>(std::string(program)));
  }
  logger->set_level(parsed_level);
  spdlog::set_default_logger(std::move(logger));
  return {};
}

}  // namespace trib
