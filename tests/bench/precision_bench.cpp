// What narrow numbers cost in accuracy: `precision_bench DEVICE BASE_DIRECTORY OUTPUT_FILE`. Prints the relative errors
// of logits and per-sample gradients against fp32, and against bf16, for bf16, fp8 and a base of 8 and 4 bits, as far
// as the device has them; and writes adapters, head and records to OUTPUT_FILE, so that
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

  std::mt19937 random(3);
  std::normal_distribution<float> normal(0.0f, 0.05f);
  TensorMap state = exact->state();
  for (auto& [name, tensor] : state)
    if (!name.ends_with(".lora_A"))
      for (float& value : tensor.as<float>()) value = normal(random);
  exact->set_state(state).value();
  const TensorMap trained = state;
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
  const Outcome reference = outcome(*exact, pointers);
  Outcome in_bf16;
  struct Narrow {
    const char* name;
    Precision precision;
    std::int64_t base_bits;
  };
  for (const Narrow& narrow : {Narrow{"bf16", Precision::bf16, 16},
                               {"fp8", Precision::fp8, 16},
                               {"base of 8 bits", Precision::bf16, 8},
                               {"base of 4 bits", Precision::bf16, 4}}) {
    config.precision = narrow.precision;
    config.base_bits = narrow.base_bits;
    const auto model = TextClassifier::load(device, arguments[2], config);
    if (!model) {
      std::printf("ours %s: %s\n", narrow.name, model.error().message.c_str());
      continue;
    }
    (*model)->set_state(trained).value();
    const Outcome rounded = outcome(**model, pointers);
    std::printf("ours %s against fp32: logits %.5f per-sample gradients of B %.5f", narrow.name,
                mean_error(rounded.logits, reference.logits), mean_error(rounded.gradients, reference.gradients));
    if (in_bf16.logits.empty()) {
      std::printf("\n");
      in_bf16 = rounded;
      continue;
    }
    std::printf("; against bf16: logits %.5f gradients %.5f\n", mean_error(rounded.logits, in_bf16.logits),
                mean_error(rounded.gradients, in_bf16.gradients));
  }
  write_safetensors(arguments[3], state).value();
  return 0;
}

}  // namespace
}  // namespace trib::models

int main(int count, char** arguments) {
  return trib::models::run(count, arguments);
}
