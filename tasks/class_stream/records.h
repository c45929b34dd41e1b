// Tables of labelled items as records that arrive in one round or another.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "common/result.h"
#include "tasks/class_stream/config.h"
#include "tasks/class_stream/items.h"
#include "tasks/data/text_table.h"

namespace trib::tasks::class_stream {

struct Record {
  std::vector<float> features;  // the backbone's
  std::int32_t label = 0;
  std::int32_t step = 1;  // in which round of the protocol it arrives, from 1
};

// Reads a table by its ending, .tsv, .csv or .jsonl; a file with another ending is read as data.format says, and a
// directory as pictures in a folder for each class. With the phase column only where `with_phases` asks for it. Errors
// as data::read_text_table.
Result<data::TextTable> read_table(const std::filesystem::path& path, const Config& config, bool with_phases);

// Each row's place in config.labels. Errc::invalid_argument names file, line and value of one that is not there.
Result<std::vector<std::int32_t>> labels_of(const data::TextTable& table, const Config& config);

// When each row arrives: its phase column, a whole number from 1 to config.step_count(); 1 for all rows of a file that
// has no such column. Errc::invalid_argument names file, line and value.
Result<std::vector<std::int32_t>> steps_of(const data::TextTable& table, const Config& config);

// A site's records: file, labels, steps and features. `progress` may be null.
Result<std::vector<Record>> read_records(const std::filesystem::path& path, const Config& config, ItemFeatures& items,
                                         Progress* progress);

// A labelled public set, for evaluation.
struct PublicSet {
  data::TextTable table;
  std::vector<std::int32_t> labels;
};
// At most `limit` rows (0: all) at even distances, so that a file sorted by label still gives every label.
Result<PublicSet> read_public_set(const std::filesystem::path& path, const Config& config, std::int64_t limit);

}  // namespace trib::tasks::class_stream
