#include "tasks/lora_text/simulate.h"

#include <spdlog/fmt/fmt.h>

#include "common/files.h"
#include "tasks/data/dirichlet_split.h"
#include "tasks/lora_text/records.h"

namespace trib::tasks::lora_text {

Result<std::vector<TaskDefinition::SiteData>> split_data(const JobSpec& job,
                                                         const std::filesystem::path& data_directory,
                                                         std::int64_t sites, RandomSource& random,
                                                         const std::filesystem::path& directory) {
  TRIB_ASSIGN(const Config config, config_of(job));
  if (config.simulated_file.empty()) {
    return Error{
        Errc::invalid_argument,
        fmt::format("job {} has no data to simulate sites with: set simulate.train to a labelled file", job.name)};
  }
  TRIB_ASSIGN(const data::TextTable table, read_table(data_directory / config.simulated_file, config.table));
  std::vector<std::int32_t> labels;
  labels.reserve(table.rows.size());
  for (const data::TextRow& row : table.rows) {
    TRIB_ASSIGN(const std::int32_t label, data::label_index(config.labels, table, row));
    labels.push_back(label);
  }
  TRIB_ASSIGN(const auto split, data::dirichlet_split(labels, static_cast<std::size_t>(sites), config.dirichlet_alpha,
                                                      static_cast<std::size_t>(config.minimum_records), random));

  TRIB_TRY(make_directories(directory));
  const data::TextTableOptions columns{.text_column = config.table.text_column,
                                       .label_column = config.table.label_column};
  std::vector<TaskDefinition::SiteData> result;
  for (const std::vector<std::size_t>& records : split) {
    std::vector<data::TextRow> rows;
    rows.reserve(records.size());
    for (const std::size_t record : records) rows.push_back(table.rows[record]);
    const std::filesystem::path file = directory / fmt::format("site-{}.csv", result.size() + 1);
    TRIB_TRY(data::write_csv(file, rows, columns));
    result.push_back({.file = file, .records = static_cast<std::int64_t>(rows.size())});
  }
  return result;
}

}  // namespace trib::tasks::lora_text
