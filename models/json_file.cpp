#include "models/json_file.h"

#include <spdlog/fmt/fmt.h>

#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <string>

#include "common/files.h"

namespace trib::models {

Error corrupt_file(const std::filesystem::path& path, std::string_view problem) {
  return {Errc::corrupt, fmt::format("{}: {}", path.string(), problem)};
}

Result<boost::json::object> read_json_object(const std::filesystem::path& path) {
  TRIB_ASSIGN(const std::string text, read_file(path));
  boost::system::error_code error;
  boost::json::value value = boost::json::parse(text, error);
  if (error) return corrupt_file(path, "not JSON: " + error.message());
  if (!value.is_object()) return corrupt_file(path, "expected one JSON object");
  return std::move(value.get_object());
}

Result<const boost::json::object*> object_at(const boost::json::object& object, std::string_view key,
                                             const std::filesystem::path& path) {
  const boost::json::value* value = object.if_contains(key);
  if (value == nullptr || !value->is_object()) {
    return corrupt_file(path, fmt::format("\"{}\" must be an object", key));
  }
  return &value->get_object();
}

Result<const boost::json::array*> array_at(const boost::json::object& object, std::string_view key,
                                           const std::filesystem::path& path) {
  const boost::json::value* value = object.if_contains(key);
  if (value == nullptr || !value->is_array()) {
    return corrupt_file(path, fmt::format("\"{}\" must be an array", key));
  }
  return &value->get_array();
}

Result<std::int64_t> positive_at(const boost::json::object& object, std::string_view key,
                                 const std::filesystem::path& path) {
  const boost::json::value* value = object.if_contains(key);
  if (value == nullptr) return corrupt_file(path, fmt::format("\"{}\" is missing", key));
  if (!value->is_int64() || value->get_int64() <= 0)
    return corrupt_file(path, fmt::format("\"{}\" must be a positive integer", key));
  return value->get_int64();
}

Result<double> number_at(const boost::json::object& object, std::string_view key, double fallback,
                         const std::filesystem::path& path) {
  const boost::json::value* value = object.if_contains(key);
  if (value == nullptr) return fallback;
  if (!value->is_number() || !(value->to_number<double>() > 0))
    return corrupt_file(path, fmt::format("\"{}\" must be a positive number", key));
  return value->to_number<double>();
}

std::string text_at(const boost::json::object& object, std::string_view key) {
  const boost::json::value* value = object.if_contains(key);
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}

}  // namespace trib::models
