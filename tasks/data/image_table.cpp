#include "tasks/data/image_table.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cctype>
#include <system_error>
#include <vector>

namespace trib::tasks::data {
namespace {

namespace fs = std::filesystem;

bool is_hidden(const fs::path& path) {
  return path.filename().native().starts_with('.');
}

bool has_picture_ending(const fs::path& path) {
  std::string ending = path.extension().native();
  std::ranges::transform(ending, ending.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return ending == ".jpg" || ending == ".jpeg" || ending == ".png";
}

// What is in a directory, ordered by name, without hidden entries.
Result<std::vector<fs::path>> entries_of(const fs::path& directory) {
  std::error_code error;
  std::vector<fs::path> entries;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error))
    if (!is_hidden(entry->path())) entries.push_back(entry->path());
  if (error) return Error{Errc::io_error, fmt::format("cannot read {}: {}", directory.native(), error.message())};
  std::ranges::sort(entries);
  return entries;
}

Error refuse(const fs::path& path, std::string_view problem) {
  return {Errc::invalid_argument, fmt::format("{}: {}", path.native(), problem)};
}

Result<TextTable> read_classes(const fs::path& directory) {
  TextTable table;
  table.path = directory / "";
  TRIB_ASSIGN(const std::vector<fs::path> classes, entries_of(directory));
  for (const fs::path& folder : classes) {
    std::error_code ignored;
    if (!fs::is_directory(folder, ignored)) {
      if (!has_picture_ending(folder)) continue;
      return refuse(folder, "a picture beside the classes: put it into the folder of its class");
    }
    TRIB_ASSIGN(const std::vector<fs::path> files, entries_of(folder));
    const std::size_t before = table.rows.size();
    for (const fs::path& file : files) {
      if (!has_picture_ending(file)) continue;
      TextRow& row = table.rows.emplace_back();
      row.text = (folder.filename() / file.filename()).native();
      row.label = folder.filename().native();
      row.line = static_cast<std::int64_t>(table.rows.size());
    }
    if (table.rows.size() == before)
      return refuse(folder, "a class without pictures: add .jpg or .png files, or remove the folder");
  }
  if (table.rows.empty())
    return refuse(directory, "no classes: expected a folder for each class with its .jpg or .png files in it");
  return table;
}

}  // namespace

Result<TextTable> read_image_table(const fs::path& path, const TextTableOptions& options) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) return read_classes(path);
  TRIB_ASSIGN(TextTable table, read_text_table(path, options));
  for (const TextRow& row : table.rows) {
    const fs::path picture = path.parent_path() / row.text;
    if (fs::is_regular_file(picture, ignored)) continue;
    return Error{Errc::not_found, fmt::format("{}:{}: there is no picture {}: paths are relative to the table's folder",
                                              path.native(), row.line, picture.native())};
  }
  return table;
}

}  // namespace trib::tasks::data
