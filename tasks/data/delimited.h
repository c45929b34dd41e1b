// Records of separated fields: TSV and CSV, one record at a time.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace trib::tasks::data {

// Reads `text` record by record; `text` must outlive it. With quoting, fields are RFC 4180's: a field that starts with
// a quote ends with one and may hold separators, newlines and doubled quotes; a quote inside an unquoted field is a
// character like any other.
class DelimitedReader {
 public:
  struct Dialect {
    char separator;
    bool quoting;
  };
  static constexpr Dialect tsv{'\t', false}, csv{',', true};

  DelimitedReader(std::string_view text, Dialect dialect, std::string_view name_for_errors)
      : text_(text), dialect_(dialect), name_(name_for_errors) {}

  // The next record that is not an empty line: false at the end. Errc::invalid_argument for a quoted field that does
  // not end, or goes on after its closing quote.
  Result<bool> next(std::vector<std::string>& fields);
  // Where the last record started, from 1.
  std::int64_t line() const { return record_line_; }

 private:
  bool at_end() const { return position_ >= text_.size(); }
  bool at_line_end() const;
  void skip_line_end();
  Status read_quoted(std::string& field);
  void read_plain(std::string& field);

  std::string_view text_;
  Dialect dialect_;
  std::string name_;
  std::size_t position_ = 0;
  std::int64_t line_ = 1;
  std::int64_t record_line_ = 0;
};

// `field`, in quotes where CSV needs them.
std::string csv_field(std::string_view field);

}  // namespace trib::tasks::data
