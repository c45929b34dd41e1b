// Steps of DP-SGD on a site's device or devices.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "common/result.h"
#include "models/text_classifier.h"
#include "privacy/session.h"
#include "tasks/lora_text/base_model.h"
#include "tasks/lora_text/config.h"

namespace trib::tasks::lora_text {

// Plain SGD on what the models train: w −= learning rate · noised mean gradient. The caller holds the locks of all
// models, which begin equal and stay equal.
class Trainer {
 public:
  // Micro-batches are sized for records of up to `longest_record` tokens and the smallest of the devices, or have
  // `micro_batch` records where that is above 0. `replicas` and `config` outlive the trainer.
  Trainer(const Replicas& replicas, const Config& config, std::int64_t longest_record, std::int64_t micro_batch = 0);
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  // As PrivacySession::submit_dp_sgd_step(): waits for no GPU.
  Result<privacy::PendingStep> submit(privacy::PrivacySession& session,
                                      const privacy::RecordStore<models::TokenizedText>& records);

 private:
  // What the session asks of one model.
  struct Worker {
    privacy::GradientFunctions<models::TokenizedText> functions;
    std::function<void(const std::vector<kernels::Tensor>&)> update;
  };
  static Worker make_worker(models::TextClassifier& classifier, const Config& config, std::int64_t longest_record);

  const Replicas& replicas_;
  std::vector<Worker> workers_;
};

}  // namespace trib::tasks::lora_text
