// A RoBERTa encoder for sequence classification with LoRA adapters: the frozen base, and the few tensors that train.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "common/hash.h"
#include "common/result.h"
#include "common/tensor_map.h"
#include "kernels/per_sample.h"

namespace trib::models {

enum class HeadTraining { frozen, out_proj, all };  // which part of the classification head trains
// Of the frozen matrix products; adapters and sums stay fp32. fp8: e4m3 with a scale for each token and each output.
// tf32: values stay fp32, and tensor cores round the factors of a product to 10 bits behind the point; on a device
// without them it is fp32.
enum class Precision { fp32, bf16, fp8, tf32 };

struct AdapterConfig {
  std::int64_t rank = 8;
  double alpha = 8.0;  // y += (alpha/rank)·B·(A·x)
  // Linear layers by the end of their name: "query", "value", "key", "attention.output.dense", "intermediate.dense",
  // "output.dense".
  std::vector<std::string> targets = {"query", "value"};
  // Block-LoRA: n blocks share A and their up-projections add up. Only the sum is trained and sent, which equals n
  // explicit blocks at a learning rate n times larger on the sum (see models/README.md).
  std::int64_t blocks = 1;
  bool train_a = false;  // FedAvg-LoRA
};

struct ClassifierConfig {
  std::int64_t label_count = 2;
  AdapterConfig adapter;
  HeadTraining head = HeadTraining::out_proj;
  Precision precision = Precision::fp32;
  // In which the frozen weights are stored: 16 is the precision's own type; 8 and 4 (kernels/quantized_weights.h) save
  // memory on a GPU, for products in bf16.
  std::int64_t base_bits = 16;
  std::int64_t max_tokens = 128;
  // Shapes of a micro-batch whose work is recorded, on a device that records (kernels/recorded_work.h); 0: none.
  std::size_t recorded_shapes = 32;
  std::uint64_t head_seed = 0;  // for a head that the base files lack: N(0, initializer_range²), zero bias
};

// One record, ready for the model.
struct TokenizedText {
  std::vector<std::int32_t> tokens;  // with <s> and </s>
  std::int32_t label = 0;
};

// Names: adapters are "<layer path>.lora_A" (rank, in) and ".lora_B" (out, rank), e.g.
// "roberta.encoder.layer.0.attention.self.query.lora_B"; the head's are "classifier.dense.weight" …
// "classifier.out_proj.bias".
class TextClassifier {
 public:
  // Reads config.json and model.safetensors (fp16, bf16 or fp32). Errors name the file and what is missing.
  static Result<std::unique_ptr<TextClassifier>> load(kernels::Device& device,
                                                      const std::filesystem::path& base_directory,
                                                      const ClassifierConfig& config);
  ~TextClassifier();

  const ClassifierConfig& config() const;
  kernels::Stream& stream();

  // The layers that carry an adapter, with (out, in), in forward order.
  struct AdaptedLayer {
    std::string name;
    std::int64_t out_features = 0, in_features = 0;
  };
  const std::vector<AdaptedLayer>& adapted_layers() const;

  // The trained tensors in a fixed order, and their names. Updating them in place changes the model.
  const std::vector<std::string>& parameter_names() const;
  const std::vector<kernels::Tensor>& parameters() const;

  // Copies adapters (A and B of every adapted layer) and head tensors from `state` (those that are present; names as
  // above, float32), or out into a map. `state()` holds every adapter and the whole head, trained or not.
  Status set_state(const TensorMap& state);
  TensorMap state();

  // Per-sample gradients of the summed cross-entropy for packed records, and their losses. Submits the work and waits
  // for nothing; the tensors in `out` stay valid until the next call on this model.
  void per_sample_gradients(std::span<const TokenizedText* const> records, kernels::PerSampleGradients& out);
  // Adds the gradient of the summed loss to `sums` (as parameters()), and the sum of the losses to `loss` (one float64)
  // if it is defined. Waits for nothing.
  void summed_gradients(std::span<const TokenizedText* const> records, const std::vector<kernels::Tensor>& sums,
                        const kernels::Tensor& loss = {});
  // (N, label_count) float32, in host memory.
  HostTensor logits(std::span<const TokenizedText* const> records);
  // (N, hidden size) float32, in host memory: each record's mean, over all its tokens, of the encoder's output.
  HostTensor mean_states(std::span<const TokenizedText* const> records);
  std::int64_t hidden_size() const;

  // A micro-batch that fits the device's memory for records of up to `tokens` tokens.
  std::int64_t suggested_micro_batch(std::int64_t tokens) const;
  std::size_t peak_workspace_bytes() const;

 private:
  struct Impl;
  explicit TextClassifier(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// SHA-256 that names a base model: over config.json, the tensor file, the tokenizer's files and
// preprocessor_config.json
// (where there are any), each by name, size and content. Both ends of a job must have the same.
Result<Sha256> base_model_hash(const std::filesystem::path& directory);

}  // namespace trib::models
