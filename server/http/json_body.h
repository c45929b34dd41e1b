// A request's JSON object, read key by key: what is missing, of another type or unknown is named.
#pragma once

#include <boost/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace trib::server::http {

class JsonBody {
 public:
  // An empty body is an empty object.
  static Result<JsonBody> parse(std::string_view text) {
    if (text.empty()) return JsonBody({});
    boost::system::error_code error;
    boost::json::value value = boost::json::parse(text, error);
    if (error) return Error{Errc::invalid_argument, "the body is not JSON: " + error.message()};
    if (!value.is_object()) return Error{Errc::invalid_argument, "the body is not a JSON object"};
    return JsonBody(std::move(value.as_object()));
  }

  std::string text(std::string_view key, const std::optional<std::string>& fallback = std::nullopt) {
    const boost::json::value* value = find(key, fallback.has_value());
    if (value == nullptr) return fallback.value_or("");
    if (!value->is_string()) return fail(key, "must be text"), std::string();
    return std::string(value->as_string());
  }
  std::uint64_t count(std::string_view key, std::uint64_t fallback) {
    const boost::json::value* value = find(key, true);
    if (value == nullptr) return fallback;
    boost::system::error_code error;
    const auto number = value->is_number() ? value->to_number<std::uint64_t>(error) : 0;
    if (!value->is_number() || error || value->is_double()) return fail(key, "must be a whole number"), fallback;
    return number;
  }
  bool boolean(std::string_view key, bool fallback) {
    const boost::json::value* value = find(key, true);
    if (value == nullptr) return fallback;
    if (!value->is_bool()) return fail(key, "must be true or false"), fallback;
    return value->as_bool();
  }
  // The first thing that was wrong, or a key that nobody asked for.
  Status finish() const {
    if (error_) return *error_;
    for (const auto& entry : object_) {
      const std::string_view key(entry.key().data(), entry.key().size());
      bool is_known = false;
      std::string names;
      for (const std::string& known : known_) {
        is_known = is_known || known == key;
        names += (names.empty() ? "" : ", ") + known;
      }
      if (!is_known)
        return Error{Errc::invalid_argument, "the body has the unknown key '" + std::string(key.substr(0, 64)) +
                                                 "'; the keys are: " + (names.empty() ? "none" : names)};
    }
    return {};
  }

 private:
  explicit JsonBody(boost::json::object object) : object_(std::move(object)) {}
  const boost::json::value* find(std::string_view key, bool is_optional) {
    known_.emplace_back(key);
    const boost::json::value* value = object_.if_contains(key);
    if (value != nullptr && is_optional && value->is_null()) return nullptr;
    if (value == nullptr && !is_optional) fail(key, "is missing");
    return value;
  }
  void fail(std::string_view key, std::string_view problem) {
    if (!error_)
      error_ = Error{Errc::invalid_argument, "'" + std::string(key) + "' in the body " + std::string(problem)};
  }

  boost::json::object object_;
  std::vector<std::string> known_;
  std::optional<Error> error_;
};

}  // namespace trib::server::http
