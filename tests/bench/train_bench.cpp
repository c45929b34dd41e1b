// Training steps of RoBERTa-sized models with random weights on one device, beside bench/torch_dp_lora.py:
//   train_bench DEVICE MODEL PRECISION BATCH TOKENS [STEPS]
// MODEL is base or large; PRECISION is fp32, bf16, fp8, int8 or int4 (the last two: bf16 with a base of 8 or 4 bits);
// TOKENS is a length, or "sst2" for lengths as that data set has them; STEPS are timed after
// as many again for warming up. Prints one line each for a private and a plain step. Rank 8 on query and value, only
// B trained, flat clip, Gaussian noise, SGD.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>

#include "common/random.h"
#include "common/safetensors.h"
#include "models/text_classifier.h"

namespace trib::models {
namespace {

struct Size {
  std::int64_t hidden, layers, heads, intermediate;
  double encoder_parameters;
};

// A checkpoint as Hugging Face stores it, bfloat16, weights uniform with RoBERTa's initial deviation of 0.02.
std::filesystem::path random_checkpoint(const std::string& name, const Size& size) {
  const std::filesystem::path directory = std::filesystem::temp_directory_path() / ("train_bench_" + name);
  if (std::filesystem::exists(directory / "model.safetensors")) return directory;
  std::filesystem::create_directories(directory);
  constexpr std::int64_t vocabulary = 50265, positions = 514;
  std::ofstream(directory / "config.json")
      << R"({"model_type":"roberta","hidden_act":"gelu","layer_norm_eps":1e-5,"pad_token_id":1,"type_vocab_size":1,)"
      << "\"hidden_size\":" << size.hidden << ",\"num_hidden_layers\":" << size.layers
      << ",\"num_attention_heads\":" << size.heads << ",\"intermediate_size\":" << size.intermediate
      << ",\"vocab_size\":" << vocabulary << ",\"max_position_embeddings\":" << positions << "}";
  TensorMap tensors;
  std::uint64_t state = 1;
  auto random = [&](const std::string& tensor, Shape shape) {
    HostTensor host(DType::bf16, std::move(shape));
    auto* const to = reinterpret_cast<std::uint16_t*>(host.bytes().data());
    for (std::int64_t i = 0; i < host.element_count(); ++i) {
      state = state * 6364136223846793005ULL + 1442695040888963407ULL;
      to[i] = float_to_bfloat16((static_cast<float>(state >> 40) * 0x1p-24f - 0.5f) * 0.02f * 3.4641f);
    }
    tensors["roberta." + tensor] = std::move(host);
  };
  auto constant = [&](const std::string& tensor, std::int64_t count, float value) {
    HostTensor host(DType::bf16, {count});
    auto* const to = reinterpret_cast<std::uint16_t*>(host.bytes().data());
    std::fill_n(to, count, float_to_bfloat16(value));
    tensors["roberta." + tensor] = std::move(host);
  };
  auto norm = [&](const std::string& path) {
    constant(path + ".weight", size.hidden, 1.0f);
    constant(path + ".bias", size.hidden, 0.0f);
  };
  auto linear = [&](const std::string& path, std::int64_t outputs, std::int64_t inputs) {
    random(path + ".weight", {outputs, inputs});
    constant(path + ".bias", outputs, 0.0f);
  };
  const std::int64_t d = size.hidden;
  random("embeddings.word_embeddings.weight", {vocabulary, d});
  random("embeddings.position_embeddings.weight", {positions, d});
  random("embeddings.token_type_embeddings.weight", {1, d});
  norm("embeddings.LayerNorm");
  for (std::int64_t i = 0; i < size.layers; ++i) {
    const std::string path = "encoder.layer." + std::to_string(i) + ".";
    for (const char* part : {"query", "key", "value"}) linear(path + "attention.self." + part, d, d);
    linear(path + "attention.output.dense", d, d);
    norm(path + "attention.output.LayerNorm");
    linear(path + "intermediate.dense", size.intermediate, d);
    linear(path + "output.dense", d, size.intermediate);
    norm(path + "output.LayerNorm");
  }
  write_safetensors(directory / "model.safetensors", tensors).value();
  return directory;
}

std::vector<TokenizedText> records(std::size_t count, const std::string& tokens) {
  std::mt19937 random(0);
  std::normal_distribution<double> normal;
  std::vector<TokenizedText> result(count);
  for (TokenizedText& record : result) {
    const auto length = tokens == "sst2"
                            ? static_cast<std::size_t>(std::clamp(std::exp(0.62 * normal(random) + 2.55), 4.0, 62.0))
                            : static_cast<std::size_t>(std::atoi(tokens.c_str()));
    record.label = static_cast<std::int32_t>(random() % 2);
    for (std::size_t i = 0; i < length; ++i) record.tokens.push_back(static_cast<std::int32_t>(5 + random() % 50000));
  }
  return result;
}

struct Trainer {
  Trainer(TextClassifier& trained, std::int64_t longest)
      : model(trained), micro_batch(static_cast<std::size_t>(model.suggested_micro_batch(longest))) {
    for (const kernels::Tensor& parameter : model.parameters())
      sums.push_back(kernels::Tensor::zeros(model.stream(), DType::f32, parameter.shape()));
  }
  void step(std::span<const TokenizedText* const> batch, bool is_private) {
    kernels::Stream& stream = model.stream();
    for (const kernels::Tensor& sum : sums) sum.zero(stream);
    for (std::size_t first = 0; first < batch.size(); first += micro_batch) {
      const auto part = batch.subspan(first, std::min(micro_batch, batch.size() - first));
      if (!is_private) {
        model.summed_gradients(part, sums);
        continue;
      }
      model.per_sample_gradients(part, gradients);
      const kernels::Tensor factors(stream.device(), DType::f32, {gradients.sample_count});
      kernels::joint_squared_norms(stream, gradients, factors);
      kernels::clip_factors(stream, factors, 1.0, kernels::ClippingRule::flat, 0.0, factors);
      kernels::add_weighted_sum(stream, gradients, factors, sums);
    }
    if (is_private)
      for (const kernels::Tensor& sum : sums)
        counter = kernels::add_gaussian_noise(stream, 1.0, key.bytes(), 0, counter, sum);
    for (std::size_t i = 0; i < sums.size(); ++i)
      kernels::axpy(stream, -0.1 / static_cast<double>(batch.size()), sums[i], model.parameters()[i]);
  }
  TextClassifier& model;
  std::size_t micro_batch;
  std::vector<kernels::Tensor> sums;
  kernels::PerSampleGradients gradients;
  RandomKey key = RandomKey::from_seed(1);
  std::uint64_t counter = 0;
};

int run(int count, char** arguments) {
  if (count < 6) {
    std::fprintf(stderr, "usage: train_bench DEVICE base|large fp32|bf16|fp8|int8|int4 BATCH TOKENS|sst2 [STEPS]\n");
    return 2;
  }
  const std::string name = arguments[2], precision = arguments[3], tokens = arguments[5];
  const Size size = name == "large" ? Size{1024, 24, 16, 4096, 302e6} : Size{768, 12, 12, 3072, 85e6};
  const auto batch_size = static_cast<std::size_t>(std::atoi(arguments[4]));
  const int steps = count > 6 ? std::atoi(arguments[6]) : 10;
  kernels::Device& device = *kernels::open_device(arguments[1]).value();
  ClassifierConfig config;
  config.precision = precision == "fp32" ? Precision::fp32 : precision == "fp8" ? Precision::fp8 : Precision::bf16;
  config.base_bits = precision == "int8" ? 8 : precision == "int4" ? 4 : 16;
  config.head = HeadTraining::frozen;
  config.adapter.alpha = 16;
  const std::size_t free_before = device.free_memory();
  const auto model = TextClassifier::load(device, random_checkpoint(name, size), config).value();
  device.trim();
  std::printf("%s %s: the loaded model takes %.3f GiB\n", name.c_str(), precision.c_str(),
              static_cast<double>(free_before - device.free_memory()) / (1 << 30));
  const std::vector<TokenizedText> data = records(batch_size * 4, tokens);
  std::size_t longest = 0;
  for (const TokenizedText& record : data) longest = std::max(longest, record.tokens.size());
  for (bool is_private : {true, false}) {
    Trainer trainer(*model, static_cast<std::int64_t>(longest));
    std::vector<double> seconds;
    double token_count = 0;
    for (int step = 0; step < 2 * steps; ++step) {
      std::vector<const TokenizedText*> batch;
      const std::size_t first = static_cast<std::size_t>(step % 4) * batch_size;
      for (std::size_t i = 0; i < batch_size; ++i) batch.push_back(&data[first + i]);
      model->stream().synchronize();
      if (step == steps) device.trim();  // the peak of steps as they are once memory has its size
      const auto begin = std::chrono::steady_clock::now();
      trainer.step(batch, is_private);
      model->stream().synchronize();
      if (step < steps) continue;
      seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
      for (const TokenizedText* record : batch) token_count += static_cast<double>(record->tokens.size()) / steps;
    }
    std::sort(seconds.begin(), seconds.end());
    const double median = seconds[seconds.size() / 2];
    std::printf(
        "ours %s %s dp=%d bs=%zu T=%s: %.2f ms/step %.0f samples/s %.0f tokens/s %.0f TFLOP/s-model peak %.2f GiB\n",
        name.c_str(), precision.c_str(), is_private, batch_size, tokens.c_str(), median * 1e3,
        static_cast<double>(batch_size) / median, token_count / median,
        4 * size.encoder_parameters * token_count / median * 1e-12,
        static_cast<double>(device.peak_memory()) / (1 << 30));
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace trib::models

int main(int count, char** arguments) {
  return trib::models::run(count, arguments);
}
