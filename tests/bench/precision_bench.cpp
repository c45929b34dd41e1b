// What bfloat16 costs in accuracy: `precision_bench DEVICE BASE_DIRECTORY OUTPUT_FILE`. Prints the relative errors of
// logits and per-sample gradients in bf16 against fp32, and writes adapters, head and records to OUTPUT_FILE, so that
// precision_torch.py can do the same with PyTorch on the same inputs.
#include <cmath>
#include <cstdio>
#include <random>

#include "common/safetensors.h"
#include "models/text_classifier.h"

namespace trib::models {
namespace {

using Rows = std::vector<std::vector<float>>;

// ‖a − b‖/‖b‖, the mean over rows.
double mean_error(const Rows& actual, const Rows& expected) {
  double total = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    double difference = 0, size = 0;
    for (std::size_t j = 0; j < expected[i].size(); ++j) {
      difference += std::pow(static_cast<double>(actual[i][j]) - expected[i][j], 2);
      size += std::pow(static_cast<double>(expected[i][j]), 2);
    }
    total += std::sqrt(difference / size) / static_cast<double>(expected.size());
  }
  return total;
}

Rows rows_of(const HostTensor& tensor) {
  Rows rows;
  const auto columns = static_cast<std::size_t>(tensor.shape()[1]);
  for (std::size_t i = 0; i < static_cast<std::size_t>(tensor.shape()[0]); ++i) {
    const auto row = tensor.as<float>().subspan(i * columns, columns);
    rows.emplace_back(row.begin(), row.end());
  }
  return rows;
}

struct Outcome {
  Rows logits, gradients;
};
Outcome outcome(TextClassifier& model, std::span<const TokenizedText* const> records) {
  Outcome result{rows_of(model.logits(records)), {}};
  kernels::PerSampleGradients gradients;
  model.per_sample_gradients(records, gradients);
  for (const kernels::PerSampleGradient& gradient : gradients.tensors)
    if (gradient.name.ends_with(".lora_B"))
      for (auto& row : rows_of(gradient.values.to_host(model.stream()))) result.gradients.push_back(std::move(row));
  return result;
}

int run(int count, char** arguments) {
  if (count < 4) {
    std::fprintf(stderr, "usage: precision_bench DEVICE BASE_DIRECTORY OUTPUT_FILE\n");
    return 2;
  }
  kernels::Device& device = *kernels::open_device(arguments[1]).value();
  ClassifierConfig config;
  config.max_tokens = 64;
  auto exact = TextClassifier::load(device, arguments[2], config).value();
  config.precision = Precision::bf16;
  auto narrow = TextClassifier::load(device, arguments[2], config).value();

  std::mt19937 random(3);
  std::normal_distribution<float> normal(0.0f, 0.05f);
  TensorMap state = exact->state();
  for (auto& [name, tensor] : state)
    if (!name.ends_with(".lora_A"))
      for (float& value : tensor.as<float>()) value = normal(random);
  exact->set_state(state).value();
  narrow->set_state(state).value();
  std::vector<TokenizedText> records(64);
  std::vector<const TokenizedText*> pointers;
  for (std::size_t i = 0; i < records.size(); ++i) {
    records[i].label = static_cast<std::int32_t>(random() % 2);
    const std::size_t length = 4 + random() % 60;
    HostTensor tokens(DType::i32, {static_cast<std::int64_t>(length + 1)});
    tokens.as<std::int32_t>()[0] = records[i].label;
    for (std::size_t j = 0; j < length; ++j) {
      records[i].tokens.push_back(static_cast<std::int32_t>(5 + random() % 500));
      tokens.as<std::int32_t>()[j + 1] = records[i].tokens.back();
    }
    state["record." + std::to_string(i)] = std::move(tokens);
    pointers.push_back(&records[i]);
  }
  const Outcome reference = outcome(*exact, pointers), rounded = outcome(*narrow, pointers);
  std::printf("ours bf16 against fp32: logits %.5f per-sample gradients of B %.5f\n",
              mean_error(rounded.logits, reference.logits), mean_error(rounded.gradients, reference.gradients));
  write_safetensors(arguments[3], state).value();
  return 0;
}

}  // namespace
}  // namespace trib::models

int main(int count, char** arguments) {
  return trib::models::run(count, arguments);
}
