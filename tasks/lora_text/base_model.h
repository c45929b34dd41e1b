// The base model of a job: found on this machine, named by its hash, loaded once for all halves in the process.
#pragma once

#include <filesystem>
#include <memory>
#include <mutex>
#include <vector>

#include "common/hash.h"
#include "common/result.h"
#include "common/tensor_map.h"
#include "kernels/collective.h"
#include "models/text_classifier.h"
#include "models/tokenizer.h"
#include "tasks/base_model.h"
#include "tasks/lora_text/aggregation.h"
#include "tasks/lora_text/config.h"
#include "tasks/task.h"

namespace trib::tasks::lora_text {

// A loaded classifier, with what the job's layout says of it. Its users set the tensors that they need each time, under
// the lock.
struct SharedModel {
  std::mutex mutex;
  std::unique_ptr<models::TextClassifier> classifier;
  std::unique_ptr<models::Tokenizer> tokenizer;

  // Of the job, fixed from loading on.
  AdapterLayout adapters;
  std::vector<TensorSpec> trained;                     // what sites train and send, float32
  TensorMap initial_head;                              // the classification head before training, all of it
  std::vector<std::string> trained_head, frozen_head;  // names in initial_head
};

// The same object for equal (base, configuration, device) in one process.
Result<std::shared_ptr<SharedModel>> load_shared_model(const BaseModel& base, const models::ClassifierConfig& config,
                                                       kernels::Device& device, SharedResources& shared);

// Equal models on several devices, and what joins them.
struct Replicas {
  std::vector<std::shared_ptr<SharedModel>> models;  // one a device, in the devices' order
  std::shared_ptr<kernels::Collective> collective;   // null where there is one device
};
Result<Replicas> load_replicas(const BaseModel& base, const models::ClassifierConfig& config,
                               const std::vector<kernels::Device*>& devices, SharedResources& shared);

// What travels, from the job's layout. Constants: A_0 where A is fixed, and the part of the head that does not train.
// Broadcast: what trains, and FedSVD's rotations. Contribution: what trains.
TensorSchema constants_schema(const SharedModel& model, const Config& config);
TensorSchema broadcast_schema(const SharedModel& model, const Config& config);
TensorSchema contribution_schema(const SharedModel& model);

// Makes the classifier what a site trains from: head and adapters as `broadcast` and `constants` say. The caller holds
// the model's lock. Errc::invalid_argument if the job has constants and `constants` is empty.
Status set_classifier(SharedModel& model, const Config& config, const TensorMap& constants, const TensorMap& broadcast);

}  // namespace trib::tasks::lora_text
