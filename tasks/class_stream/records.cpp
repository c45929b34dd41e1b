#include "tasks/class_stream/records.h"

#include <spdlog/fmt/fmt.h>

#include <charconv>

#include "tasks/features/extractor.h"

namespace trib::tasks::class_stream {

Result<data::TextTable> read_table(const std::filesystem::path& path, const Config& config, bool with_phases) {
  data::TextTableOptions options{.format = data::TableFormat::automatic,
                                 .text_column = config.item_column,
                                 .label_column = config.label_column,
                                 .extra_column = with_phases ? config.phase_column : ""};
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    return features::read_items(path, features::ItemKind::image, options);
  }
  const std::filesystem::path ending = path.extension();
  if (ending != ".tsv" && ending != ".csv" && ending != ".jsonl") {
    TRIB_ASSIGN(options.format, data::table_format_from_string(config.format));
  }
  return data::read_text_table(path, options);
}

Result<std::vector<std::int32_t>> labels_of(const data::TextTable& table, const Config& config) {
  std::vector<std::int32_t> labels;
  labels.reserve(table.rows.size());
  for (const data::TextRow& row : table.rows) {
    TRIB_ASSIGN(const std::int32_t label, data::label_index(config.labels, table, row));
    labels.push_back(label);
  }
  return labels;
}

Result<std::vector<std::int32_t>> steps_of(const data::TextTable& table, const Config& config) {
  std::vector<std::int32_t> steps;
  steps.reserve(table.rows.size());
  for (const data::TextRow& row : table.rows) {
    std::int32_t step = 1;
    if (row.extra) {
      const char* const end = row.extra->data() + row.extra->size();
      const auto [last, error] = std::from_chars(row.extra->data(), end, step);
      if (error != std::errc() || last != end || step < 1 || step > config.step_count()) {
        return data::bad_row(
            table, row,
            fmt::format("{} is \"{}\", and must be a whole number from 1 to {}: the phase of the job in "
                        "which the record arrives",
                        config.phase_column, row.extra->substr(0, 60), config.step_count()));
      }
    }
    steps.push_back(step);
  }
  return steps;
}

Result<std::vector<Record>> read_records(const std::filesystem::path& path, const Config& config, ItemFeatures& items,
                                         Progress* progress) {
  TRIB_ASSIGN(const data::TextTable table, read_table(path, config, true));
  TRIB_ASSIGN(const std::vector<std::int32_t> labels, labels_of(table, config));
  TRIB_ASSIGN(const std::vector<std::int32_t> steps, steps_of(table, config));
  TRIB_ASSIGN(const HostTensor features, items.extract(table, progress));
  const std::span<const float> values = features.as<float>();
  const auto width = static_cast<std::size_t>(items.width());
  std::vector<Record> records(table.rows.size());
  for (std::size_t i = 0; i < records.size(); ++i) {
    const auto row = values.subspan(i * width, width);
    records[i] = {.features = {row.begin(), row.end()}, .label = labels[i], .step = steps[i]};
  }
  return records;
}

Result<PublicSet> read_public_set(const std::filesystem::path& path, const Config& config, std::int64_t limit) {
  TRIB_ASSIGN(data::TextTable table, read_table(path, config, false));
  const auto wanted = static_cast<std::size_t>(limit);
  if (limit > 0 && wanted < table.rows.size()) {
    std::vector<data::TextRow> kept;
    for (std::size_t i = 0; i < wanted; ++i) kept.push_back(std::move(table.rows[i * table.rows.size() / wanted]));
    table.rows = std::move(kept);
  }
  TRIB_ASSIGN(std::vector<std::int32_t> labels, labels_of(table, config));
  return PublicSet{std::move(table), std::move(labels)};
}

}  // namespace trib::tasks::class_stream
