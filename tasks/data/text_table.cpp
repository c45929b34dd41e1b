#include "tasks/data/text_table.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include "common/files.h"
#include "common/utf8.h"
#include "tasks/data/delimited.h"

namespace trib::tasks::data {
namespace {

namespace json = boost::json;
using Path = std::filesystem::path;

constexpr std::string_view format_names[] = {"auto", "tsv", "csv", "jsonl"};
constexpr std::string_view byte_order_mark = "\xEF\xBB\xBF";
constexpr std::size_t longest_list = 20;
constexpr std::size_t longest_value = 60;

Error bad_table(const Path& path, std::string_view problem) {
  return {Errc::invalid_argument, fmt::format("{}: {}", path.string(), problem)};
}

Error bad_line(const Path& path, std::int64_t line, std::string_view problem) {
  return {Errc::invalid_argument, fmt::format("{}:{}: {}", path.string(), line, problem)};
}

// `value` as an error may show it: quoted, with control characters escaped, and not much of it.
std::string show(std::string_view value) {
  std::size_t end = std::min(value.size(), longest_value);
  while (end > 0 && end < value.size() && (value[end] & 0xC0) == 0x80) --end;  // not inside a character
  std::string shown = json::serialize(json::string(value.substr(0, end)));
  if (end < value.size()) shown += "…";
  return shown;
}

template <typename Names>
std::string show_list(const Names& names) {
  std::string list;
  std::size_t shown = 0;
  for (const auto& name : names) {
    if (shown == longest_list) return fmt::format("{} and {} more", list, std::size(names) - shown);
    list += fmt::format("{}{}", shown++ == 0 ? "" : ", ", show(name));
  }
  return list;
}

Result<TableFormat> format_of(const Path& path, TableFormat wanted) {
  if (wanted != TableFormat::automatic) return wanted;
  std::string ending = path.extension().string();
  std::ranges::transform(ending, ending.begin(), [](unsigned char c) { return std::tolower(c); });
  if (ending == ".tsv") return TableFormat::tsv;
  if (ending == ".csv") return TableFormat::csv;
  if (ending == ".jsonl") return TableFormat::jsonl;
  return bad_table(path,
                   fmt::format("cannot tell the format from the ending {}: name it (tsv, csv or jsonl), or rename "
                               "the file to end in .tsv, .csv or .jsonl",
                               show(ending)));
}

Status check_utf8(std::string_view bytes, const Path& path) {
  const std::optional<std::size_t> position = find_invalid_utf8(bytes);
  if (!position) return {};
  const std::string_view before = bytes.substr(0, *position);
  const auto line = std::ranges::count(before, '\n') + 1;
  const std::size_t line_start = before.rfind('\n') + 1;  // npos + 1 is 0
  return bad_line(path, line,
                  fmt::format("byte {} of the line (0x{:02X}) is not UTF-8: convert the file to UTF-8",
                              *position - line_start + 1, static_cast<unsigned char>(bytes[*position])));
}

Result<std::size_t> find_column(const std::vector<std::string>& header, std::string_view name, const Path& path,
                                std::int64_t line) {
  const auto found = std::ranges::find(header, name);
  if (found == header.end()) {
    return bad_line(path, line, fmt::format("there is no column {}; columns: {}", show(name), show_list(header)));
  }
  if (std::find(found + 1, header.end(), name) != header.end()) {
    return bad_line(path, line, fmt::format("there are two columns {}", show(name)));
  }
  return static_cast<std::size_t>(found - header.begin());
}

Status read_delimited(std::string_view text, DelimitedReader::Dialect dialect, const TextTableOptions& options,
                      TextTable& table) {
  const Path& path = table.path;
  DelimitedReader reader(text, dialect, path.string());
  std::vector<std::string> header, fields;
  TRIB_ASSIGN(const bool has_header, reader.next(header));
  if (!has_header) return bad_table(path, "is empty; its first line must name the columns");
  TRIB_ASSIGN(const std::size_t text_column, find_column(header, options.text_column, path, reader.line()));
  std::optional<std::size_t> label_column;
  if (!options.label_column.empty()) {
    TRIB_ASSIGN(label_column, find_column(header, options.label_column, path, reader.line()));
  }
  std::optional<std::size_t> extra_column;
  if (!options.extra_column.empty() && std::ranges::find(header, options.extra_column) != header.end()) {
    TRIB_ASSIGN(extra_column, find_column(header, options.extra_column, path, reader.line()));
  }
  while (true) {
    TRIB_ASSIGN(const bool has_record, reader.next(fields));
    if (!has_record) return {};
    if (fields.size() != header.size()) {
      return bad_line(path, reader.line(),
                      fmt::format("has {} fields where the header names {}", fields.size(), header.size()));
    }
    TextRow& row = table.rows.emplace_back();
    row.line = reader.line();
    if (label_column) row.label = fields[*label_column];
    if (extra_column) row.extra = fields[*extra_column];
    row.text = std::move(fields[text_column]);
  }
}

Result<const json::value*> find_key(const json::object& object, std::string_view key, const Path& path,
                                    std::int64_t line) {
  const json::value* value = object.if_contains(key);
  if (value != nullptr) return value;
  std::vector<std::string> keys;
  for (const auto& [name, unused] : object) keys.emplace_back(name);
  return bad_line(path, line, fmt::format("there is no key {}; keys: {}", show(key), show_list(keys)));
}

// A label, or another value that is not a text: as it is written.
Result<std::string> short_value(const json::value& value, std::string_view key, const Path& path, std::int64_t line) {
  if (value.is_string()) return std::string(value.get_string());
  if (value.is_int64() || value.is_uint64() || value.is_bool()) return json::serialize(value);
  return bad_line(
      path, line,
      fmt::format("{} must be a string, a whole number or a boolean, is {}", show(key), show(json::serialize(value))));
}

Result<TextRow> parse_json_row(std::string_view text, std::int64_t line, const Path& path,
                               const TextTableOptions& options) {
  boost::system::error_code error;
  const json::value value = json::parse(text, error);
  if (error) return bad_line(path, line, fmt::format("is not JSON: {}", error.message()));
  const json::object* object = value.if_object();
  if (object == nullptr) return bad_line(path, line, fmt::format("must be a JSON object, is {}", show(text)));
  TextRow row;
  row.line = line;
  TRIB_ASSIGN(const json::value* text_value, find_key(*object, options.text_column, path, line));
  if (!text_value->is_string()) {
    return bad_line(
        path, line,
        fmt::format("{} must be a string, is {}", show(options.text_column), show(json::serialize(*text_value))));
  }
  row.text = std::string_view(text_value->get_string());
  if (!options.label_column.empty()) {
    TRIB_ASSIGN(const json::value* label, find_key(*object, options.label_column, path, line));
    TRIB_ASSIGN(row.label, short_value(*label, options.label_column, path, line));
  }
  if (!options.extra_column.empty()) {
    if (const json::value* extra = object->if_contains(options.extra_column)) {
      TRIB_ASSIGN(row.extra, short_value(*extra, options.extra_column, path, line));
    }
  }
  return row;
}

Status read_json_lines(std::string_view text, const TextTableOptions& options, TextTable& table) {
  std::int64_t line_number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    ++line_number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    TRIB_ASSIGN(TextRow row, parse_json_row(line, line_number, table.path, options));
    table.rows.push_back(std::move(row));
  }
  return {};
}

}  // namespace

Result<TableFormat> table_format_from_string(std::string_view name) {
  const auto found = std::ranges::find(format_names, name);
  if (found != std::end(format_names)) return static_cast<TableFormat>(found - std::begin(format_names));
  return Error{Errc::invalid_argument,
               fmt::format("{} is no table format; accepted: {}", show(name), show_list(format_names))};
}

Result<TextTable> parse_text_table(std::string_view bytes, const Path& path, const TextTableOptions& options) {
  TRIB_ASSIGN(const TableFormat format, format_of(path, options.format));
  TRIB_TRY(check_utf8(bytes, path));
  if (bytes.starts_with(byte_order_mark)) bytes.remove_prefix(byte_order_mark.size());
  TextTable table;
  table.path = path;
  if (format == TableFormat::jsonl) {
    TRIB_TRY(read_json_lines(bytes, options, table));
  } else {
    const bool is_csv = format == TableFormat::csv;
    TRIB_TRY(read_delimited(bytes, is_csv ? DelimitedReader::csv : DelimitedReader::tsv, options, table));
  }
  if (table.rows.empty()) return bad_table(path, "holds no records");
  return table;
}

Result<TextTable> read_text_table(const Path& path, const TextTableOptions& options) {
  TRIB_TRY(format_of(path, options.format));  // before a large file is read for nothing
  TRIB_ASSIGN(const std::string bytes, read_file(path));
  return parse_text_table(bytes, path, options);
}

Result<std::int32_t> label_index(std::span<const std::string> labels, const TextTable& table, const TextRow& row) {
  if (!row.label) return bad_line(table.path, row.line, "has no label: the table was read without a label column");
  const auto found = std::ranges::find(labels, *row.label);
  if (found != labels.end()) return static_cast<std::int32_t>(found - labels.begin());
  return bad_line(table.path, row.line,
                  fmt::format("label {} is none of the accepted labels: {}", show(*row.label), show_list(labels)));
}

Error bad_row(const TextTable& table, const TextRow& row, std::string_view problem) {
  return bad_line(table.path, row.line, problem);
}

Status write_csv(const Path& path, std::span<const TextRow> rows, const TextTableOptions& options) {
  const bool has_labels = !options.label_column.empty();
  const bool has_extras = !options.extra_column.empty();
  std::string text = csv_field(options.text_column);
  if (has_labels) text.append(1, ',').append(csv_field(options.label_column));
  if (has_extras) text.append(1, ',').append(csv_field(options.extra_column));
  text += '\n';
  for (const TextRow& row : rows) {
    text += csv_field(row.text);
    if (has_labels) {
      if (!row.label) return bad_line(path, row.line, "a row without a label cannot be written with a label column");
      text.append(1, ',').append(csv_field(*row.label));
    }
    if (has_extras) {
      if (!row.extra) return bad_line(path, row.line, "a row without an extra value cannot be written with its column");
      text.append(1, ',').append(csv_field(*row.extra));
    }
    text += '\n';
  }
  return write_file_durably(path, text);
}

}  // namespace trib::tasks::data
