// Tables of texts as sites keep them: TSV, CSV and JSONL files, read by column name.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace trib::tasks::data {

enum class TableFormat {
  automatic,  // by the file's ending: .tsv, .csv, .jsonl
  tsv,        // fields between tabs, no quoting: a field holds neither tab nor newline
  csv,        // RFC 4180: quoted fields may hold commas, newlines and doubled quotes
  jsonl,      // one JSON object a line
};

// "auto", "tsv", "csv" or "jsonl"; Errc::invalid_argument lists them.
Result<TableFormat> table_format_from_string(std::string_view name);

struct TextTableOptions {
  TableFormat format = TableFormat::automatic;
  std::string text_column = "text";
  std::string label_column;  // empty: the rows have no labels
  std::string extra_column =
      {};  // one more that is read where the file has it, such as the time of a record; empty: none
};

struct TextRow {
  std::string text;                  // UTF-8; may be empty
  std::optional<std::string> label;  // where the options name a label column; numbers and booleans of JSON as written
  std::int64_t line = 0;             // where the row starts in its file, from 1
  std::optional<std::string> extra = {};  // where the options name a further column and the file, or its line, has it
};

struct TextTable {
  std::filesystem::path path;
  std::vector<TextRow> rows;  // in the file's order, at least one
};

// Reads a whole file. The first line of a TSV or CSV file names its columns; lines may end in CRLF, a byte-order mark
// is dropped, empty lines are skipped. Errors name the file, the line and the value: Errc::not_found, io_error, or
// invalid_argument for an unknown ending, an empty file, a missing column (with those there are), a wrong number of
// fields, a quote without an end, broken UTF-8 (with the byte), a line that is not a JSON object or a value of the
// wrong kind.
Result<TextTable> read_text_table(const std::filesystem::path& path, const TextTableOptions& options);
Result<TextTable> parse_text_table(std::string_view bytes, const std::filesystem::path& path_for_errors,
                                   const TextTableOptions& options);

// The place of the row's label in `labels`. Errc::invalid_argument names file, line, value and the accepted labels.
Result<std::int32_t> label_index(std::span<const std::string> labels, const TextTable& table, const TextRow& row);

// An error about a row: "FILE:LINE: PROBLEM".
Error bad_row(const TextTable& table, const TextRow& row, std::string_view problem);

// Writes rows as a CSV file with the options' columns (its format is not looked at), durably, so that read_text_table()
// gives them back. Every row must have a label if the options name a label column, and an extra value if they name a
// column for it.
Status write_csv(const std::filesystem::path& path, std::span<const TextRow> rows, const TextTableOptions& options);

}  // namespace trib::tasks::data
