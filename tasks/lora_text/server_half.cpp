#include "tasks/lora_text/server_half.h"

#include <algorithm>
#include <utility>

#include "models/peft_adapter.h"
#include "tasks/lora_text/aggregation.h"
#include "tasks/lora_text/base_model.h"
#include "tasks/lora_text/records.h"
#include "tasks/site_evaluation.h"

namespace trib::tasks::lora_text {
namespace {

using models::TokenizedText;

constexpr std::string_view average_prefix = "average.";
constexpr std::string_view average_rounds = "average.rounds";
constexpr const char* site_counts = "site_evaluation.counts";  // of the round that made the state, F64 of 3

// `count` records at even distances, so that a file sorted by label still gives every label.
std::vector<TokenizedText> thin_out(std::vector<TokenizedText> records, std::int64_t limit) {
  const auto wanted = static_cast<std::size_t>(limit);
  if (limit == 0 || wanted >= records.size()) return records;
  std::vector<TokenizedText> kept;
  for (std::size_t i = 0; i < wanted; ++i) kept.push_back(std::move(records[i * records.size() / wanted]));
  return kept;
}

// The running average in a state, by the names of the model.
TensorMap average_of(const TensorMap& state) {
  TensorMap average;
  for (const auto& [name, tensor] : state) {
    if (name.starts_with(average_prefix) && name != average_rounds)
      average[name.substr(average_prefix.size())] = tensor;
  }
  return average;
}

class ServerHalf final : public ServerTask {
 public:
  ServerHalf(const JobSpec& job, Config config, std::shared_ptr<SharedModel> model, std::vector<TokenizedText> test_set)
      : config_(std::move(config)),
        evaluates_at_sites_(job.site_evaluation.enabled),
        model_(std::move(model)),
        test_set_(std::move(test_set)),
        stream_(model_->classifier->stream().device().make_stream()),
        aggregation_(make_aggregation(config_.algorithm, model_->adapters)),
        initial_a_(draw_initial_a(*stream_, config_.algorithm, model_->adapters, job.seed)) {
    for (const TokenizedText& record : test_set_) test_labels_.push_back(record.label);
    if (aggregation_->has_fixed_a()) constants_ = initial_a_;
    for (const std::string& name : model_->frozen_head) constants_[name] = model_->initial_head.at(name);
  }

  Result<TensorMap> initial_state() override {
    TensorMap state = aggregation_->initial_state(initial_a_);
    for (const std::string& name : model_->trained_head) state[name] = model_->initial_head.at(name);
    return state;
  }

  Result<TensorMap> next_state(const TensorMap& state, const Sum& sum) override {
    TRIB_ASSIGN(const TensorMap mean, sum.mean());
    TRIB_ASSIGN(TensorMap next, aggregation_->next_state(*stream_, initial_a_, state, mean));
    for (const std::string& name : model_->trained_head) {
      TRIB_ASSIGN(const HostTensor* tensor, mean.find(name));
      TRIB_ASSIGN(next[name], tensor->to_f32());
    }
    if (config_.average_states > 0.0) TRIB_TRY(add_average(state, next));
    if (evaluates_at_sites_) {
      // Zeros where no site took part: the round was not due, or none may share.
      const HostTensor& counts = sum.total().at(evaluation_tensor);
      if (counts.as<double>()[0] != 0.0) next[site_counts] = counts;
    }
    return next;
  }

  const TensorMap& constants() const override { return constants_; }

  Result<TensorMap> broadcast(const TensorMap& state) const override {
    TensorMap sent;
    for (const auto& [name, tensor] : state) {
      if (!name.starts_with(average_prefix) && name != site_counts) sent[name] = tensor;
    }
    TRIB_TRY(sent.check_schema(broadcast_schema()));
    return sent;
  }

  TensorSchema broadcast_schema() const override { return lora_text::broadcast_schema(*model_, config_); }
  TensorSchema contribution_schema() const override {
    const TensorSchema trained = lora_text::contribution_schema(*model_);
    if (!evaluates_at_sites_) return trained;
    std::vector<TensorSpec> specs = trained.specs();
    specs.push_back({.name = evaluation_tensor, .dtype = DType::f64, .shape = {3}});
    return TensorSchema(std::move(specs));
  }

  Result<Evaluation> evaluate(const TensorMap& state, Progress& progress) override {
    Evaluation evaluation;
    if (state.contains(site_counts)) {
      TensorMap counts;
      counts[evaluation_tensor] = state.at(site_counts);
      // Too few records for their noise: there is nothing to report.
      if (const auto metrics = evaluation_metrics(counts)) {
        for (const auto& [name, value] : *metrics) evaluation.metrics["site_" + name] = value;
      }
    }
    if (test_set_.empty()) return evaluation;
    const std::lock_guard lock(model_->mutex);
    TRIB_ASSIGN(const Score last, score_state(state, progress));
    evaluation.metrics["accuracy"] = last.accuracy;
    evaluation.metrics["loss"] = last.loss;
    if (state.contains(average_rounds)) {
      TRIB_ASSIGN(const Score averaged, score_state(average_of(state), progress));
      evaluation.metrics["accuracy_average"] = averaged.accuracy;
      evaluation.metrics["loss_average"] = averaged.loss;
    }
    return evaluation;
  }

  Status export_model(const TensorMap& state, bool averaged, const std::filesystem::path& directory) override {
    if (averaged && !state.contains(average_rounds)) {
      return Error{Errc::not_found,
                   "this state holds no running average: the job sets evaluation.average_states = 0, or no round has "
                   "been committed yet; export the last round instead"};
    }
    TRIB_ASSIGN(const TensorMap model, model_state(averaged ? average_of(state) : state));
    return models::write_peft_adapter(directory, model, model_->classifier->config(), config_.labels,
                                      std::filesystem::path(config_.base).filename().native());
  }

 private:
  // average ← decay·average + (1 − decay)·next. The first rounds weigh equally, (t − 1)/t instead of the decay, so that
  // the untrained state has no part in it.
  Status add_average(const TensorMap& state, TensorMap& next) const {
    const std::int64_t rounds = state.contains(average_rounds) ? state.at(average_rounds).as<std::int64_t>()[0] + 1 : 1;
    const double equal_weights = static_cast<double>(rounds - 1) / static_cast<double>(rounds);
    const double decay = std::min(config_.average_states, equal_weights);

    TensorMap adapters = average_of(state), head;
    for (const std::string& name : model_->trained_head) {
      const std::span<const float> values = next.at(name).as<float>();
      HostTensor& average = head[name] = HostTensor(DType::f64, next.at(name).shape());
      for (std::size_t i = 0; i < values.size(); ++i) {
        const double before = rounds > 1 ? adapters.at(name).as<double>()[i] : 0.0;
        average.as<double>()[i] = decay * before + (1.0 - decay) * values[i];
      }
      adapters.erase(name);
    }
    TRIB_TRY(aggregation_->add_to_average(*stream_, adapters, next, decay));
    for (const TensorMap* part : {&adapters, &head}) {
      for (const auto& [name, tensor] : *part) next[std::string(average_prefix) + name] = tensor;
    }
    next[std::string(average_rounds)] = HostTensor(DType::i64, {1});
    next[std::string(average_rounds)].as<std::int64_t>()[0] = rounds;
    return {};
  }

  // Explicit adapters and the whole head, float32: what the classifier and an exported adapter hold.
  Result<TensorMap> model_state(const TensorMap& state) const {
    TRIB_ASSIGN(TensorMap model, explicit_adapters(*stream_, model_->adapters, initial_a_, state));
    for (const std::string& name : model_->trained_head) {
      TRIB_ASSIGN(const HostTensor* tensor, state.find(name));
      TRIB_ASSIGN(model[name], tensor->to_f32());
    }
    for (const std::string& name : model_->frozen_head) model[name] = model_->initial_head.at(name);
    return model;
  }

  // The caller holds the model's lock.
  Result<Score> score_state(const TensorMap& state, Progress& progress) {
    TRIB_ASSIGN(const TensorMap model, model_state(state));
    TRIB_TRY(model_->classifier->set_state(model));
    TRIB_ASSIGN(const HostTensor logits, compute_logits(*model_->classifier, test_set_, progress));
    return score(logits, test_labels_);
  }

  Config config_;
  bool evaluates_at_sites_;
  std::shared_ptr<SharedModel> model_;
  std::vector<TokenizedText> test_set_;
  std::vector<std::int32_t> test_labels_;
  std::unique_ptr<kernels::Stream> stream_;
  std::unique_ptr<Aggregation> aggregation_;
  TensorMap initial_a_;
  TensorMap constants_;
};

}  // namespace

Result<std::unique_ptr<ServerTask>> make_server(const JobSpec& job, const AggregatorContext& context) {
  TRIB_ASSIGN(Config config, config_of(job));
  const std::shared_ptr<SharedResources> shared = context.shared ? context.shared : std::make_shared<SharedResources>();
  TRIB_ASSIGN(const BaseModel base, find_base_model({config.base, config.base_sha256}, context.data_directory,
                                                    context.model_directories, *shared));
  TRIB_ASSIGN(std::shared_ptr<SharedModel> model, load_shared_model(base, config.classifier, *context.device, *shared));
  std::vector<TokenizedText> test_set;
  if (!config.evaluation_file.empty()) {
    TRIB_ASSIGN(const data::TextTable table, read_table(context.data_directory / config.evaluation_file, config.table));
    TRIB_ASSIGN(std::vector<TokenizedText> records,
                tokenize(table, config.labels, *model->tokenizer, config.classifier.max_tokens));
    test_set = thin_out(std::move(records), config.evaluation_limit);
  }
  return std::unique_ptr<ServerTask>(
      std::make_unique<ServerHalf>(job, std::move(config), std::move(model), std::move(test_set)));
}

}  // namespace trib::tasks::lora_text
