// Hugging Face's JSON files, read with errors that name the file and the key.
#pragma once

#include <boost/json/object.hpp>
#include <filesystem>
#include <string>
#include <string_view>

#include "common/result.h"

namespace trib::models {

// The object in a file of JSON text. Errc::not_found or io_error from reading, corrupt if it is not one JSON object;
// the message names the path.
Result<boost::json::object> read_json_object(const std::filesystem::path& path);

// object[key] as an object, array or integer; Errc::corrupt names the file, the key and what was expected.
Result<const boost::json::object*> object_at(const boost::json::object& object, std::string_view key,
                                             const std::filesystem::path& path);
Result<const boost::json::array*> array_at(const boost::json::object& object, std::string_view key,
                                           const std::filesystem::path& path);

// object[key] as an integer above 0; as a number above 0, or `fallback` where it is absent; as a text, or "" where it
// is absent or something else.
Result<std::int64_t> positive_at(const boost::json::object& object, std::string_view key,
                                 const std::filesystem::path& path);
Result<double> number_at(const boost::json::object& object, std::string_view key, double fallback,
                         const std::filesystem::path& path);
std::string text_at(const boost::json::object& object, std::string_view key);

// "PATH: PROBLEM", as Errc::corrupt.
Error corrupt_file(const std::filesystem::path& path, std::string_view problem);

}  // namespace trib::models
