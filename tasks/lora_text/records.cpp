#include "tasks/lora_text/records.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

namespace trib::tasks::lora_text {
namespace {

using models::TokenizedText;

bool has_known_ending(const std::filesystem::path& path) {
  const std::filesystem::path ending = path.extension();
  return ending == ".tsv" || ending == ".csv" || ending == ".jsonl";
}

}  // namespace

Result<data::TextTable> read_table(const std::filesystem::path& path, const TableFormat& format) {
  data::TextTableOptions options{.text_column = format.text_column, .label_column = format.label_column};
  if (!has_known_ending(path)) {
    TRIB_ASSIGN(options.format, data::table_format_from_string(format.format));
  }
  return data::read_text_table(path, options);
}

Result<std::vector<TokenizedText>> tokenize(const data::TextTable& table, std::span<const std::string> labels,
                                            const models::Tokenizer& tokenizer, std::int64_t max_tokens) {
  std::vector<TokenizedText> records;
  records.reserve(table.rows.size());
  for (const data::TextRow& row : table.rows) {
    TokenizedText record{.tokens = tokenizer.encode(row.text, max_tokens), .label = 0};
    if (!labels.empty()) {
      TRIB_ASSIGN(record.label, data::label_index(labels, table, row));
    }
    records.push_back(std::move(record));
  }
  return records;
}

Result<HostTensor> compute_logits(models::TextClassifier& classifier, std::span<const TokenizedText> records,
                                  Progress& progress) {
  std::vector<std::size_t> order(records.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, std::greater<>(), [&](std::size_t i) { return records[i].tokens.size(); });

  const auto labels = static_cast<std::size_t>(classifier.config().label_count);
  HostTensor all(DType::f32, {static_cast<std::int64_t>(records.size()), classifier.config().label_count});
  std::vector<const TokenizedText*> batch;
  for (std::size_t first = 0; first < order.size(); first += batch.size()) {
    if (progress.cancelled()) return Error{Errc::cancelled, "the evaluation was cancelled"};
    progress.fraction("evaluating", static_cast<double>(first) / static_cast<double>(order.size()));
    const auto longest = static_cast<std::int64_t>(records[order[first]].tokens.size());
    const auto batch_size = static_cast<std::size_t>(classifier.suggested_micro_batch(longest));
    const std::size_t count = std::min(std::max<std::size_t>(1, batch_size), order.size() - first);
    batch.clear();
    for (std::size_t i = first; i < first + count; ++i) batch.push_back(&records[order[i]]);
    const HostTensor logits = classifier.logits(batch);
    for (std::size_t i = 0; i < count; ++i) {
      std::ranges::copy(logits.as<float>().subspan(i * labels, labels),
                        all.as<float>().begin() + static_cast<std::ptrdiff_t>(order[first + i] * labels));
    }
  }
  progress.fraction("evaluating", 1.0);
  return all;
}

std::vector<std::int32_t> predict_classes(const HostTensor& logits) {
  const auto labels = static_cast<std::size_t>(logits.shape()[1]);
  std::vector<std::int32_t> classes(static_cast<std::size_t>(logits.shape()[0]));
  for (std::size_t i = 0; i < classes.size(); ++i) {
    const std::span<const float> row = logits.as<float>().subspan(i * labels, labels);
    classes[i] = static_cast<std::int32_t>(std::ranges::max_element(row) - row.begin());
  }
  return classes;
}

std::vector<double> cross_entropies(const HostTensor& logits, std::span<const std::int32_t> expected) {
  const auto labels = static_cast<std::size_t>(logits.shape()[1]);
  std::vector<double> losses;
  losses.reserve(expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const std::span<const float> row = logits.as<float>().subspan(i * labels, labels);
    const double largest = *std::ranges::max_element(row);
    double sum = 0.0;
    for (const float logit : row) sum += std::exp(logit - largest);
    losses.push_back(std::log(sum) + largest - row[static_cast<std::size_t>(expected[i])]);
  }
  return losses;
}

Score score(const HostTensor& logits, std::span<const std::int32_t> expected) {
  const std::vector<std::int32_t> predicted = predict_classes(logits);
  std::size_t right = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) right += predicted[i] == expected[i] ? 1 : 0;
  double loss = 0.0;
  for (const double one : cross_entropies(logits, expected)) loss += one;
  const double count = static_cast<double>(expected.size());
  return {.accuracy = static_cast<double>(right) / count, .loss = loss / count};
}

}  // namespace trib::tasks::lora_text
