#include "tasks/lora_text/canaries.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <utility>

#include "kernels/per_sample.h"
#include "tasks/lora_text/base_model.h"
#include "tasks/lora_text/config.h"
#include "tasks/lora_text/records.h"

namespace trib::tasks::lora_text {
namespace {

using models::TokenizedText;

// A few words that nobody writes.
std::string random_text(RandomSource& random) {
  std::string text;
  const std::uint64_t words = 4 + random.below(9);
  for (std::uint64_t word = 0; word < words; ++word) {
    if (word > 0) text += ' ';
    const std::uint64_t letters = 2 + random.below(7);
    for (std::uint64_t i = 0; i < letters; ++i) text += static_cast<char>('a' + random.below(26));
  }
  return text;
}

class TextCanaries final : public Canaries {
 public:
  TextCanaries(Config config, double clip_norm, std::shared_ptr<SharedModel> model, data::TextTable texts,
               std::vector<TokenizedText> records)
      : config_(std::move(config)),
        clip_norm_(clip_norm),
        model_(std::move(model)),
        texts_(std::move(texts)),
        records_(std::move(records)) {}

  Status add_to(const std::filesystem::path& data_file, const std::vector<bool>& included) const override {
    TRIB_ASSIGN(data::TextTable table, read_table(data_file, config_.table));
    for (std::size_t i = 0; i < texts_.rows.size(); ++i)
      if (included.at(i)) table.rows.push_back(texts_.rows[i]);
    return data::write_csv(data_file, table.rows,
                           {.text_column = config_.table.text_column, .label_column = config_.table.label_column});
  }

  Result<std::vector<double>> score(const TensorMap& constants, const TensorMap& broadcast,
                                    const TensorMap& contribution, double weight) override {
    TRIB_TRY(broadcast.check_schema(broadcast_schema(*model_, config_)));
    TRIB_TRY(contribution.check_schema(contribution_schema(*model_)));
    const std::lock_guard lock(model_->mutex);
    TRIB_TRY(set_classifier(*model_, config_, constants, broadcast));
    const std::vector<std::vector<double>> step = step_of(broadcast, contribution, weight);

    models::TextClassifier& classifier = *model_->classifier;
    kernels::Stream& stream = classifier.stream();
    std::vector<kernels::Tensor> gradient;
    for (const kernels::Tensor& parameter : classifier.parameters())
      gradient.push_back(kernels::Tensor::zeros(stream, DType::f32, parameter.shape()));
    std::vector<double> scores;
    for (const TokenizedText& record : records_) {
      for (const kernels::Tensor& tensor : gradient) tensor.zero(stream);
      const TokenizedText* const one = &record;
      classifier.summed_gradients({&one, 1}, gradient);
      double product = 0.0, square = 0.0;
      for (std::size_t t = 0; t < gradient.size(); ++t) {
        const HostTensor host = gradient[t].to_host(stream);
        const std::span<const float> values = host.as<float>();
        for (std::size_t i = 0; i < values.size(); ++i) {
          product += values[i] * step[t][i];
          square += static_cast<double>(values[i]) * values[i];
        }
      }
      // A job without privacy need not clip.
      const double bound = clip_norm_ > 0.0 ? clip_norm_ : std::sqrt(square);
      const double score = square > 0.0 ? product * std::min(1.0, bound / std::sqrt(square)) : 0.0;
      if (!std::isfinite(score)) {
        return Error{Errc::invalid_argument,
                     "the gradient of a canary is not finite: the job diverges; lower training.learning_rate"};
      }
      scores.push_back(score);
    }
    return scores;
  }

 private:
  // What the site subtracted from the broadcast, in units of a gradient: one vector a trained tensor, in their order.
  std::vector<std::vector<double>> step_of(const TensorMap& broadcast, const TensorMap& contribution,
                                           double weight) const {
    std::vector<std::vector<double>> step;
    for (const TensorSpec& spec : model_->trained) {
      const auto before = broadcast.at(spec.name).as<float>(), after = contribution.at(spec.name).as<float>();
      std::vector<double>& moved = step.emplace_back(before.size());
      for (std::size_t i = 0; i < moved.size(); ++i)
        moved[i] = (before[i] - after[i] / weight) / learning_rate_of(config_, spec.name);
    }
    return step;
  }

  Config config_;
  double clip_norm_;
  std::shared_ptr<SharedModel> model_;
  data::TextTable texts_;
  std::vector<TokenizedText> records_;
};

}  // namespace

Result<std::vector<std::string>> canary_overrides(const JobSpec& job, std::int64_t count) {
  TRIB_ASSIGN(const Config config, config_of(job));
  boost::json::array labels(config.labels.begin(), config.labels.end());
  for (std::int64_t i = 1; i <= count; ++i) labels.emplace_back(fmt::format("canary-{}", i));
  // A list of texts is written alike in JSON and TOML.
  return std::vector<std::string>{"model.labels=" + boost::json::serialize(labels)};
}

Result<std::unique_ptr<Canaries>> make_canaries(const JobSpec& job, const AggregatorContext& context,
                                                std::int64_t count, RandomSource& random) {
  TRIB_ASSIGN(Config config, config_of(job));
  if (count < 1 || count > static_cast<std::int64_t>(config.labels.size())) {
    return Error{Errc::invalid_argument,
                 fmt::format("{} canaries need as many labels, and the job has {}", count, config.labels.size())};
  }
  const std::shared_ptr<SharedResources> shared = context.shared ? context.shared : std::make_shared<SharedResources>();
  TRIB_ASSIGN(const BaseModel base, find_base_model({config.base, config.base_sha256}, context.data_directory,
                                                    context.model_directories, *shared));
  TRIB_ASSIGN(std::shared_ptr<SharedModel> model, load_shared_model(base, config.classifier, *context.device, *shared));
  data::TextTable texts{.path = "canaries", .rows = {}};
  for (auto label = config.labels.end() - count; label != config.labels.end(); ++label) {
    const auto line = static_cast<std::int64_t>(texts.rows.size()) + 1;
    texts.rows.push_back({.text = random_text(random), .label = *label, .line = line});
  }
  TRIB_ASSIGN(std::vector<TokenizedText> records,
              tokenize(texts, config.labels, *model->tokenizer, config.classifier.max_tokens));
  return std::unique_ptr<Canaries>(std::make_unique<TextCanaries>(
      std::move(config), job.privacy.clip_norm, std::move(model), std::move(texts), std::move(records)));
}

}  // namespace trib::tasks::lora_text
