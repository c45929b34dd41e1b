// What the tests of the text classifier share: the golden model, its records, and comparisons of tensors.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "common/safetensors.h"
#include "models/text_classifier.h"

namespace trib::models {

inline std::filesystem::path golden_directory() {
  return std::filesystem::path(TRIBUTARY_SOURCE_DIR) / "tests/golden/roberta-tiny";
}

inline ClassifierConfig golden_config() {
  ClassifierConfig config;
  config.label_count = 3;
  config.adapter = {.rank = 4, .alpha = 8.0};
  config.head = HeadTraining::all;
  config.max_tokens = 64;
  return config;
}

inline std::unique_ptr<TextClassifier> load_golden(const ClassifierConfig& config = golden_config(),
                                                   kernels::Device& device = kernels::cpu_device()) {
  return TextClassifier::load(device, golden_directory(), config).value();
}

// Every device that this build knows; a test is skipped, with the reason, where the machine lacks its device.
class EachDevice : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    Result<kernels::Device*> opened = kernels::open_device(GetParam());
    if (!opened) GTEST_SKIP() << opened.error().message;
    device = *opened;
  }
  std::unique_ptr<TextClassifier> load(const ClassifierConfig& config = golden_config()) const {
    return load_golden(config, *device);
  }
  kernels::Device* device = nullptr;
};
inline std::string device_name(const testing::TestParamInfo<const char*>& info) {
  return info.param;
}

// The golden adapter's tensors under this project's names.
inline TensorMap golden_adapter_state() {
  const SafetensorsFile file = read_safetensors(golden_directory() / "adapter/adapter_model.safetensors").value();
  TensorMap state;
  for (const auto& [peft_name, tensor] : file.tensors) {
    std::string name = peft_name.substr(std::string("base_model.model.").size());
    for (const char* factor : {".lora_A", ".lora_B"})
      if (auto at = name.find(std::string(factor) + ".weight"); at != std::string::npos)
        name = name.substr(0, at) + factor;
    state[name] = tensor;
  }
  return state;
}

// The golden batch, without its padding.
inline std::vector<TokenizedText> golden_records() {
  const SafetensorsFile file = read_safetensors(golden_directory() / "expected.safetensors").value();
  const HostTensor& ids = file.tensors.at("input_ids");
  const auto tokens = ids.as<std::int32_t>(), mask = file.tensors.at("attention_mask").as<std::int32_t>(),
             labels = file.tensors.at("labels").as<std::int32_t>();
  std::vector<TokenizedText> records(static_cast<std::size_t>(ids.shape()[0]));
  const auto width = static_cast<std::size_t>(ids.shape()[1]);
  for (std::size_t i = 0; i < records.size(); ++i) {
    records[i].label = labels[i];
    for (std::size_t j = 0; j < width; ++j)
      if (mask[i * width + j] != 0) records[i].tokens.push_back(tokens[i * width + j]);
  }
  return records;
}

// Records of random tokens with the given lengths.
inline std::vector<TokenizedText> random_records(const std::vector<std::size_t>& lengths, std::int32_t vocabulary,
                                                 std::int32_t labels, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<TokenizedText> records(lengths.size());
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    records[i].label = static_cast<std::int32_t>(random() % static_cast<unsigned>(labels));
    for (std::size_t j = 0; j < lengths[i]; ++j)
      records[i].tokens.push_back(static_cast<std::int32_t>(5 + random() % static_cast<unsigned>(vocabulary - 5)));
  }
  return records;
}

inline std::vector<const TokenizedText*> pointers(const std::vector<TokenizedText>& records) {
  std::vector<const TokenizedText*> result;
  for (const TokenizedText& record : records) result.push_back(&record);
  return result;
}

// Fills every tensor of the model's state with small random values, so that no gradient is zero by symmetry.
inline TensorMap random_state(TextClassifier& model, unsigned seed, float deviation = 0.1f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, deviation);
  TensorMap state = model.state();
  for (auto& [name, tensor] : state)
    for (float& value : tensor.as<float>()) value = normal(random);
  return state;
}

// Gradients, and the sum of the records' losses.
inline double per_sample_loss(TextClassifier& model, std::span<const TokenizedText* const> records,
                              kernels::PerSampleGradients& out) {
  model.per_sample_gradients(records, out);
  const HostTensor losses = out.losses.to_host(model.stream());
  double total = 0;
  for (const float loss : losses.as<float>()) total += static_cast<double>(loss);
  return total;
}
inline double summed_loss(TextClassifier& model, std::span<const TokenizedText* const> records,
                          const std::vector<kernels::Tensor>& sums) {
  const kernels::Tensor loss = kernels::Tensor::zeros(model.stream(), DType::f64, {1});
  model.summed_gradients(records, sums, loss);
  return loss.to_host(model.stream()).as<double>()[0];
}

// ‖actual − expected‖_max / ‖expected‖_max: the relative error of a tensor as a whole.
inline double relative_error(std::span<const float> actual, std::span<const float> expected) {
  EXPECT_EQ(actual.size(), expected.size());
  double difference = 0, magnitude = 0;
  for (std::size_t i = 0; i < std::min(actual.size(), expected.size()); ++i) {
    const double gap = std::abs(static_cast<double>(actual[i]) - expected[i]);
    difference = std::isnan(gap) ? INFINITY : std::max(difference, gap);
    magnitude = std::max(magnitude, static_cast<double>(std::abs(expected[i])));
  }
  return magnitude > 0 ? difference / magnitude : difference;
}

// The gradient of one sample, materialized.
inline std::vector<float> sample_gradient(kernels::Stream& stream, const kernels::PerSampleGradient& gradient,
                                          std::int64_t sample) {
  std::vector<float> result;
  if (!gradient.is_outer_product()) {
    const HostTensor row = gradient.values.rows(sample, 1).to_host(stream);
    result.assign(row.as<float>().begin(), row.as<float>().end());
    return result;
  }
  const HostTensor g = gradient.output_grads.rows(sample, 1).to_host(stream);
  const HostTensor x = gradient.inputs.rows(sample, 1).to_host(stream);
  for (float a : g.as<float>())
    for (float b : x.as<float>()) result.push_back(a * b);
  return result;
}

}  // namespace trib::models
