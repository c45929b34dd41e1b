// Checked TOML: every key is declared by the code that reads it, so an unknown key or a bad value is an error that
// names the file, the line, the key and what would be accepted.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace trib {

// A TOML document with "section.key=value" overrides applied, read through typed getters that record what was asked
// for. After reading, finish() reports the first key that nobody asked for, with the nearest known name.
//
//   TRIB_ASSIGN(auto config, ConfigReader::from_file("job.toml", {"privacy.epsilon=4"}));
//   auto rounds = config.integer("job.rounds", {.minimum = 1, .maximum = 1'000'000}, 20);
//   TRIB_TRY(config.finish());
//
// Getters never fail on the spot: they keep the first error for finish() and return the default, so that a reader is
// a flat list of lines. A getter without a default makes the key required.
class ConfigReader {
 public:
  struct IntegerRange {
    std::int64_t minimum = std::numeric_limits<std::int64_t>::min();
    std::int64_t maximum = std::numeric_limits<std::int64_t>::max();
  };
  struct NumberRange {
    double minimum = -std::numeric_limits<double>::infinity();
    double maximum = std::numeric_limits<double>::infinity();
    bool exclude_minimum = false;
    bool exclude_maximum = false;
  };

  static Result<ConfigReader> from_file(const std::filesystem::path& path,
                                        const std::vector<std::string>& overrides = {});
  static Result<ConfigReader> from_text(std::string_view text, std::string_view name_for_errors,
                                        const std::vector<std::string>& overrides = {});
  ConfigReader(ConfigReader&&) noexcept;
  ConfigReader& operator=(ConfigReader&&) noexcept;
  ~ConfigReader();

  // Keys are dotted paths: "privacy.epsilon".
  bool has(std::string_view key) const;
  std::string text(std::string_view key, const std::optional<std::string>& fallback = std::nullopt);
  std::string choice(std::string_view key, std::span<const std::string_view> accepted,
                     const std::optional<std::string>& fallback = std::nullopt);
  std::int64_t integer(std::string_view key, IntegerRange range, std::optional<std::int64_t> fallback = std::nullopt);
  double number(std::string_view key, NumberRange range, std::optional<double> fallback = std::nullopt);
  bool boolean(std::string_view key, std::optional<bool> fallback = std::nullopt);
  std::vector<std::string> texts(std::string_view key,
                                 const std::optional<std::vector<std::string>>& fallback = std::nullopt);
  std::vector<std::int64_t> integers(std::string_view key, IntegerRange range,
                                     const std::optional<std::vector<std::int64_t>>& fallback = std::nullopt);
  // "30s", "5m", "250ms", "2h", "30d": a duration in milliseconds.
  std::int64_t duration_ms(std::string_view key, IntegerRange range,
                           std::optional<std::int64_t> fallback = std::nullopt);
  // Names of the sub-tables of a table: [dataset.default], [dataset.other] give {"default", "other"}.
  std::vector<std::string> tables(std::string_view key) const;

  // An error about `key` in this document's terms: "job.toml:12: privacy.epsilon = 90: must be …".
  Error error_at(std::string_view key, std::string_view problem) const;
  // Records such an error, for checks that span several keys; finish() returns the first.
  void fail(std::string_view key, std::string_view problem);
  // The first recorded error, or the first unknown key.
  Status finish() const;
  // The document with its overrides, as TOML text: what travels to the sites and into the store.
  std::string to_toml() const;

 private:
  struct Impl;
  explicit ConfigReader(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace trib
