#include "tasks/lora_text/trainer.h"

#include <algorithm>

namespace trib::tasks::lora_text {

using models::TokenizedText;

Trainer::Trainer(const Replicas& replicas, const Config& config, std::int64_t longest_record, std::int64_t micro_batch)
    : replicas_(replicas) {
  for (const auto& model : replicas.models) workers_.push_back(make_worker(*model->classifier, config, longest_record));
  // The first replica's size counts for all of them.
  std::int64_t& chosen = workers_.front().functions.micro_batch;
  for (const Worker& worker : workers_) chosen = std::min(chosen, worker.functions.micro_batch);
  if (micro_batch > 0) chosen = micro_batch;
}

Trainer::Worker Trainer::make_worker(models::TextClassifier& classifier, const Config& config,
                                     std::int64_t longest_record) {
  Worker worker;
  worker.functions = {
      .per_sample = [&](auto records,
                        kernels::PerSampleGradients& out) { classifier.per_sample_gradients(records, out); },
      .summed = [&](auto records, const auto& sums,
                    const kernels::Tensor& loss) { classifier.summed_gradients(records, sums, loss); },
      .micro_batch = classifier.suggested_micro_batch(longest_record),
      .arrange =
          [](std::vector<const TokenizedText*>& sample) {
            std::ranges::stable_sort(sample, {}, [](const TokenizedText* record) { return record->tokens.size(); });
          },
  };
  worker.update = [&](const std::vector<kernels::Tensor>& gradients) {
    std::vector<kernels::ScaledAddition> additions;
    for (std::size_t i = 0; i < gradients.size(); ++i) {
      additions.push_back(
          {-learning_rate_of(config, classifier.parameter_names()[i]), gradients[i], classifier.parameters()[i]});
    }
    kernels::add_scaled(classifier.stream(), additions);
  };
  return worker;
}

Result<privacy::PendingStep> Trainer::submit(privacy::PrivacySession& session,
                                             const privacy::RecordStore<TokenizedText>& records) {
  std::vector<privacy::Replica<TokenizedText>> replicas;
  for (std::size_t r = 0; r < workers_.size(); ++r) {
    models::TextClassifier& classifier = *replicas_.models[r]->classifier;
    replicas.push_back({classifier.stream(), classifier.parameters(), workers_[r].functions, workers_[r].update});
  }
  return session.submit_dp_sgd_step<TokenizedText>(replicas, replicas_.collective.get(), records);
}

}  // namespace trib::tasks::lora_text
