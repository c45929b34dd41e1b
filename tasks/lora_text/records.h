// Tables of labelled texts as records of the model, and the model's answers about them.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "common/result.h"
#include "common/tensor_map.h"
#include "models/text_classifier.h"
#include "models/tokenizer.h"
#include "tasks/data/text_table.h"
#include "tasks/lora_text/config.h"
#include "tasks/task.h"

namespace trib::tasks::lora_text {

// Reads a table by its ending, .tsv, .csv or .jsonl, so that each site may keep its own kind of file; a file with
// another ending is read as `format` says. Errors as data::read_text_table.
Result<data::TextTable> read_table(const std::filesystem::path& path, const TableFormat& format);

// Tokenizes rows. With `labels`, each row's label becomes its index in them; Errc::invalid_argument names file, line
// and value of one that is not among them, and the accepted ones. Without, labels are 0.
Result<std::vector<models::TokenizedText>> tokenize(const data::TextTable& table, std::span<const std::string> labels,
                                                    const models::Tokenizer& tokenizer, std::int64_t max_tokens);

// (N, labels) float32, one row a record in the records' order. Records of similar length share a batch.
// Errc::cancelled if `progress` says so.
Result<HostTensor> compute_logits(models::TextClassifier& classifier, std::span<const models::TokenizedText> records,
                                  Progress& progress);

// The index of the largest logit of each row; the first of several.
std::vector<std::int32_t> predict_classes(const HostTensor& logits);

// Against the expected classes: the share that is right, and the mean cross-entropy.
struct Score {
  double accuracy = 0.0;
  double loss = 0.0;
};
std::vector<double> cross_entropies(const HostTensor& logits, std::span<const std::int32_t> expected);  // a row each
Score score(const HostTensor& logits, std::span<const std::int32_t> expected);

}  // namespace trib::tasks::lora_text
