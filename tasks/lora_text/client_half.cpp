#include "tasks/lora_text/client_half.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "kernels/per_sample.h"
#include "tasks/dp_sgd_round.h"
#include "tasks/halves.h"
#include "tasks/lora_text/aggregation.h"
#include "tasks/lora_text/base_model.h"
#include "tasks/lora_text/records.h"
#include "tasks/lora_text/trainer.h"
#include "tasks/site_evaluation.h"

namespace trib::tasks::lora_text {
namespace {

using models::TokenizedText;

class ClientHalf final : public ClientTask {
 public:
  ClientHalf(JobSpec job, Config config, SiteContext site, privacy::Mechanism mechanism, Replicas replicas,
             std::vector<TokenizedText> records)
      : job_(std::move(job)),
        config_(std::move(config)),
        site_(std::move(site)),
        mechanism_(mechanism),
        replicas_(std::move(replicas)),
        model_(replicas_.models.front()),
        longest_record_(longest(records)),
        records_(std::move(records)) {}

  Result<privacy::Charge> charge(const RoundPlan& plan) const override {
    return round_charge(job_, site_, plan, mechanism_);
  }

  Status set_constants(const TensorMap& constants) override {
    TRIB_TRY(constants.check_schema(constants_schema(*model_, config_)));
    TRIB_TRY(constants.check_finite());
    // The sites of one process hold one copy.
    const std::string key = "lora_text/constants/" + to_hex(constants.digest());
    using Made = Result<std::shared_ptr<TensorMap>>;
    TRIB_ASSIGN(constants_,
                site_.shared->get<TensorMap>(key, [&]() -> Made { return std::make_shared<TensorMap>(constants); }));
    return {};
  }

  Result<privacy::Contribution> train(const TensorMap& broadcast, const RoundPlan&, privacy::PrivacySession& privacy,
                                      Progress& progress) override {
    TRIB_TRY(broadcast.check_schema(broadcast_schema(*model_, config_)));
    TRIB_TRY(broadcast.check_finite());
    std::vector<std::unique_lock<std::mutex>> locks;
    for (const auto& model : replicas_.models) {
      locks.emplace_back(model->mutex);
      TRIB_TRY(set_model(*model, broadcast));
    }
    TRIB_TRY(take_steps(privacy, progress));

    const TensorMap state = model_->classifier->state();
    TensorMap trained;
    for (const TensorSpec& spec : model_->trained) trained[spec.name] = state.at(spec.name);
    return privacy.contribute(std::move(trained), static_cast<double>(site_.declared_records));
  }

  Result<privacy::Charge> evaluation_charge(const RoundPlan& plan) const override {
    return tasks::evaluation_charge(job_, plan.job_id, plan.round, site_.declared_records);
  }

  Result<privacy::Contribution> evaluate(const TensorMap& broadcast, privacy::PrivacySession& privacy,
                                         Progress& progress) override {
    TRIB_TRY(broadcast.check_schema(broadcast_schema(*model_, config_)));
    TRIB_TRY(broadcast.check_finite());
    const std::lock_guard lock(model_->mutex);
    TRIB_TRY(set_model(*model_, broadcast));
    models::TextClassifier& classifier = *model_->classifier;
    const privacy::SummandFunctions<TokenizedText> functions{
        .per_record = [&](auto records, kernels::PerSampleGradients& out) { count(records, out); },
        .micro_batch = classifier.suggested_micro_batch(longest_record_),
    };
    progress.fraction("evaluating", 0.0);
    TRIB_ASSIGN(std::vector<HostTensor> sums, privacy.release_sum(classifier.stream(), records_, {{3}}, functions));
    progress.fraction("evaluating", 1.0);
    TensorMap counts;
    counts[evaluation_tensor] = std::move(sums.front());
    return privacy.contribute(std::move(counts), 1.0);
  }

 private:
  Status set_model(SharedModel& model, const TensorMap& broadcast) {
    static const TensorMap none;
    return set_classifier(model, config_, constants_ ? *constants_ : none, broadcast);
  }

  // What each record adds to an evaluation (tasks/site_evaluation.h). A loss that is not a number counts as the bound.
  void count(std::span<const TokenizedText* const> records, kernels::PerSampleGradients& out) {
    const HostTensor logits = model_->classifier->logits(records);
    std::vector<std::int32_t> expected;
    for (const TokenizedText* record : records) expected.push_back(record->label);
    const std::vector<std::int32_t> predicted = predict_classes(logits);
    const std::vector<double> losses = cross_entropies(logits, expected);
    std::vector<float> values;
    for (std::size_t i = 0; i < records.size(); ++i) {
      const double loss = losses[i] < evaluation_loss_bound ? losses[i] / evaluation_loss_bound : 1.0;
      values.insert(values.end(), {1.0f, predicted[i] == expected[i] ? 1.0f : 0.0f, static_cast<float>(loss)});
    }
    out.sample_count = static_cast<std::int64_t>(records.size());
    kernels::PerSampleGradient summand;
    summand.name = evaluation_tensor;
    summand.shape = {3};
    summand.values =
        kernels::Tensor::from_host(model_->classifier->stream(), HostTensor::from_f32({out.sample_count, 3}, values));
    out.tensors.assign(1, summand);
  }

  static std::int64_t longest(const std::vector<TokenizedText>& records) {
    std::size_t tokens = 1;
    for (const TokenizedText& record : records) tokens = std::max(tokens, record.tokens.size());
    return static_cast<std::int64_t>(tokens);
  }

  Status take_steps(privacy::PrivacySession& privacy, Progress& progress) {
    Trainer trainer(replicas_, config_, longest_record_);
    // A device that works beside the host gets its next step before the last one is reported: it never waits for a
    // sample to be drawn and packed.
    std::optional<privacy::PendingStep> last;
    const auto report_last = [&]() -> Status {
      if (!last) return {};
      TRIB_ASSIGN(const privacy::StepReport report, last->report());
      last.reset();
      progress.step(report.step, config_.local_steps, report.mean_loss);
      return {};
    };
    for (std::int64_t step = 1; step <= config_.local_steps; ++step) {
      if (progress.cancelled()) return Error{Errc::cancelled, "training was cancelled"};
      TRIB_ASSIGN(privacy::PendingStep submitted, trainer.submit(privacy, records_));
      TRIB_TRY(report_last());
      last = std::move(submitted);
      if (last->ready()) TRIB_TRY(report_last());
    }
    return report_last();
  }

  JobSpec job_;
  Config config_;
  SiteContext site_;
  privacy::Mechanism mechanism_;
  Replicas replicas_;
  std::shared_ptr<SharedModel> model_;  // the first of them, which does what is not shared
  std::int64_t longest_record_;         // in tokens; sizes the micro-batches and nothing else
  privacy::RecordStore<TokenizedText> records_;
  std::shared_ptr<TensorMap> constants_;
};

}  // namespace

Result<privacy::Mechanism> round_mechanism(const JobSpec& job, const Config& config, std::int64_t declared_records) {
  return dp_sgd_round(job, config.batch_size, config.local_steps, declared_records);
}

Result<std::unique_ptr<ClientTask>> make_client(const JobSpec& job, const SiteContext& site) {
  TRIB_ASSIGN(Config config, config_of(job));
  SiteContext context = site;
  if (!context.shared) context.shared = std::make_shared<SharedResources>();
  TRIB_ASSIGN(const privacy::Mechanism mechanism, round_mechanism(job, config, site.declared_records));
  TRIB_ASSIGN(const BaseModel base,
              find_base_model({config.base, config.base_sha256}, {}, site.model_directories, *context.shared));
  TRIB_ASSIGN(Replicas replicas, load_replicas(base, config.classifier, site.devices, *context.shared));
  TRIB_ASSIGN(const data::TextTable table, read_table(site.data_file, config.table));
  TRIB_ASSIGN(std::vector<TokenizedText> records,
              tokenize(table, config.labels, *replicas.models.front()->tokenizer, config.classifier.max_tokens));
  return std::unique_ptr<ClientTask>(std::make_unique<ClientHalf>(job, std::move(config), std::move(context), mechanism,
                                                                  std::move(replicas), std::move(records)));
}

}  // namespace trib::tasks::lora_text
