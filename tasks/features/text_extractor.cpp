#include "tasks/features/text_extractor.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

#include "models/roberta_checkpoint.h"
#include "models/text_classifier.h"
#include "models/tokenizer.h"

namespace trib::tasks::features {
namespace {

constexpr std::string_view precision_names[] = {"fp32", "bf16", "fp8", "tf32"};

class TextExtractor final : public FeatureExtractor {
 public:
  TextExtractor(std::unique_ptr<models::TextClassifier> encoder, models::Tokenizer tokenizer, std::string identity)
      : encoder_(std::move(encoder)), tokenizer_(std::move(tokenizer)), identity_(std::move(identity)) {}

  ItemKind kind() const override { return ItemKind::text; }
  std::int64_t width() const override { return encoder_->hidden_size(); }
  const std::string& identity() const override { return identity_; }

  Result<HostTensor> extract(std::span<const Item> items, Progress& progress) override {
    std::vector<models::TokenizedText> records;
    records.reserve(items.size());
    for (const Item& item : items)
      records.push_back({.tokens = tokenizer_.encode(item.text, encoder_->config().max_tokens), .label = 0});
    // Texts of similar length share a batch.
    std::vector<std::size_t> order(records.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::ranges::stable_sort(order, std::greater<>(), [&](std::size_t i) { return records[i].tokens.size(); });

    const auto row_size = static_cast<std::size_t>(width());
    HostTensor all(DType::f32, {static_cast<std::int64_t>(items.size()), width()});
    std::vector<const models::TokenizedText*> batch;
    for (std::size_t first = 0; first < order.size(); first += batch.size()) {
      if (progress.cancelled()) return Error{Errc::cancelled, "the extraction was cancelled"};
      progress.fraction("features", static_cast<double>(first) / static_cast<double>(order.size()));
      const auto longest = static_cast<std::int64_t>(records[order[first]].tokens.size());
      const auto count =
          std::min(static_cast<std::size_t>(encoder_->suggested_micro_batch(longest)), order.size() - first);
      batch.clear();
      for (std::size_t i = first; i < first + count; ++i) batch.push_back(&records[order[i]]);
      const HostTensor means = encoder_->mean_states(batch);
      for (std::size_t i = 0; i < count; ++i) {
        std::ranges::copy(means.as<float>().subspan(i * row_size, row_size),
                          all.as<float>().begin() + static_cast<std::ptrdiff_t>(order[first + i] * row_size));
      }
    }
    progress.fraction("features", 1.0);
    return all;
  }

 private:
  std::unique_ptr<models::TextClassifier> encoder_;
  models::Tokenizer tokenizer_;
  std::string identity_;
};

}  // namespace

Result<std::shared_ptr<FeatureExtractor>> load_text_extractor(const BaseModel& backbone, const FeaturesConfig& config,
                                                              kernels::Device& device) {
  TRIB_ASSIGN(const models::RobertaConfig roberta, models::read_roberta_config(backbone.directory));
  if (config.max_tokens > roberta.longest_record()) {
    return Error{Errc::invalid_argument,
                 fmt::format("features.max_tokens is {}; the backbone in {} takes at most {} tokens", config.max_tokens,
                             backbone.directory.native(), roberta.longest_record())};
  }
  models::ClassifierConfig encoder_config;
  encoder_config.adapter.targets = {};
  encoder_config.adapter.rank = 1;
  encoder_config.head = models::HeadTraining::frozen;
  encoder_config.precision = config.precision;
  encoder_config.base_bits = config.base_bits;
  encoder_config.max_tokens = config.max_tokens;
  TRIB_ASSIGN(std::unique_ptr<models::TextClassifier> encoder,
              models::TextClassifier::load(device, backbone.directory, encoder_config));
  TRIB_ASSIGN(models::Tokenizer tokenizer, models::Tokenizer::load(backbone.directory));
  if (tokenizer.vocabulary_size() > roberta.vocabulary_size) {
    return Error{Errc::corrupt,
                 fmt::format("{}: the tokenizer has {} tokens, but the model {}", backbone.directory.native(),
                             tokenizer.vocabulary_size(), roberta.vocabulary_size)};
  }
  const std::string identity =
      to_hex(sha256(fmt::format("tributary features 1\nbackbone {}\nmean of the last hidden states\nmax_tokens {}\n"
                                "precision {}\nbase_bits {}\n",
                                to_hex(backbone.hash), config.max_tokens,
                                precision_names[static_cast<std::size_t>(config.precision)], config.base_bits)));
  return std::shared_ptr<FeatureExtractor>(
      std::make_shared<TextExtractor>(std::move(encoder), std::move(tokenizer), identity));
}

}  // namespace trib::tasks::features
