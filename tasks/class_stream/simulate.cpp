#include "tasks/class_stream/simulate.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cctype>

#include "common/files.h"
#include "tasks/class_stream/records.h"
#include "tasks/data/dirichlet_split.h"

namespace trib::tasks::class_stream {
namespace {

// Independent streams of job.seed.
constexpr std::uint64_t classes_stream = 0x636c'6173'7365'7300, samples_stream = classes_stream + 1;

// A row's item as a file in another folder names it: the path of a picture beside the table becomes absolute.
std::string movable_item(const data::TextTable& table, const data::TextRow& row) {
  std::string ending = std::filesystem::path(row.text).extension().string();
  std::ranges::transform(ending, ending.begin(), [](unsigned char c) { return std::tolower(c); });
  if (ending != ".jpg" && ending != ".jpeg" && ending != ".png") return row.text;
  const std::filesystem::path file = std::filesystem::absolute(table.path.parent_path() / row.text).lexically_normal();
  std::error_code ignored;
  return std::filesystem::is_regular_file(file, ignored) ? file.native() : row.text;
}

}  // namespace

Result<data::ClassSchedule> simulated_schedule(const JobSpec& job, const Config& config) {
  ChaCha20Random random(RandomKey::from_seed(job.seed, classes_stream));
  return data::draw_class_schedule(config.labels.size(), config.stream, random);
}

Result<std::vector<TaskDefinition::SiteData>> deal_stream(const JobSpec& job, const Config& config,
                                                          const std::filesystem::path& data_directory,
                                                          std::int64_t sites, RandomSource& random,
                                                          const std::filesystem::path& directory) {
  if (config.simulated_file.empty()) {
    return Error{
        Errc::invalid_argument,
        fmt::format("job {} has no data to simulate sites with: set simulate.train to a labelled file", job.name)};
  }
  TRIB_ASSIGN(const data::TextTable table, read_table(data_directory / config.simulated_file, config, false));
  TRIB_ASSIGN(const std::vector<std::int32_t> labels, labels_of(table, config));
  TRIB_ASSIGN(const data::ClassSchedule schedule, simulated_schedule(job, config));
  ChaCha20Random stream_random(RandomKey::from_seed(job.seed, samples_stream));
  TRIB_ASSIGN(const auto stream, data::deal_samples(labels, schedule, config.stream, stream_random));

  // Records that arrive at all, and when.
  std::vector<data::TextRow> rows;
  std::vector<std::int32_t> row_labels;
  const auto parts = static_cast<std::size_t>(config.steps_per_phase);
  for (std::size_t phase = 0; phase < stream.size(); ++phase) {
    for (std::size_t i = 0; i < stream[phase].size(); ++i) {
      const std::size_t record = stream[phase][i];
      data::TextRow row = table.rows[record];
      row.text = movable_item(table, row);
      row.extra = std::to_string(phase * parts + i * parts / stream[phase].size() + 1);
      rows.push_back(std::move(row));
      row_labels.push_back(labels[record]);
    }
  }
  TRIB_ASSIGN(const auto split,
              data::dirichlet_split(row_labels, static_cast<std::size_t>(sites), config.dirichlet_alpha,
                                    static_cast<std::size_t>(config.minimum_records), random));

  TRIB_TRY(make_directories(directory));
  const data::TextTableOptions columns{
      .text_column = config.item_column, .label_column = config.label_column, .extra_column = config.phase_column};
  std::vector<TaskDefinition::SiteData> result;
  for (const std::vector<std::size_t>& records : split) {
    std::vector<data::TextRow> own;
    own.reserve(records.size());
    for (const std::size_t record : records) own.push_back(rows[record]);
    const std::filesystem::path file = directory / fmt::format("site-{}.csv", result.size() + 1);
    TRIB_TRY(data::write_csv(file, own, columns));
    result.push_back({.file = file, .records = static_cast<std::int64_t>(own.size())});
  }
  return result;
}

}  // namespace trib::tasks::class_stream
