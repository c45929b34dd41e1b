// One optimizer step over a batch of 128 records with SST-2-like lengths: rank 8 on query and value, B and out_proj
// trained, flat clip, Gaussian noise, SGD; the same work as the PyTorch yardstick, in batches without padding.
// The base model is roberta-mini-imdb: TRIBUTARY_BASE, or the copies beside the sources.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <random>

#include "common/random.h"
#include "models/text_classifier.h"

namespace trib::models {
namespace {

std::filesystem::path base_directory() {
  if (const char* base = std::getenv("TRIBUTARY_BASE")) return base;
  const std::filesystem::path source(TRIBUTARY_SOURCE_DIR);
  const char* shared = std::getenv("TRIBUTARY_SHARED");
  const std::filesystem::path outside = shared ? std::filesystem::path(shared) : source.parent_path() / "shared";
  for (const std::filesystem::path& path :
       {source / "experiments/base/roberta-mini-imdb", outside / "base/roberta-mini-imdb"})
    if (std::filesystem::exists(path / "config.json")) return path;
  return {};
}

constexpr std::size_t batch_size = 128;

// Lengths clamp(exp(0.62·N(0, 1) + 2.55), 4, 62).
std::vector<TokenizedText> sentences(std::size_t count) {
  std::mt19937 random(0);
  std::normal_distribution<double> normal;
  std::vector<TokenizedText> records(count);
  for (TokenizedText& record : records) {
    const auto length = static_cast<std::size_t>(std::clamp(std::exp(0.62 * normal(random) + 2.55), 4.0, 62.0));
    record.label = static_cast<std::int32_t>(random() % 2);
    for (std::size_t i = 0; i < length; ++i) record.tokens.push_back(static_cast<std::int32_t>(5 + random() % 8000));
  }
  return records;
}

// What a training step needs besides the model.
struct Trainer {
  explicit Trainer(TextClassifier& trained)
      : model(trained), micro_batch(static_cast<std::size_t>(model.suggested_micro_batch(62))) {
    for (const kernels::Tensor& parameter : model.parameters())
      sums.push_back(kernels::Tensor::zeros(model.stream(), DType::f32, parameter.shape()));
  }

  void private_step(std::span<const TokenizedText* const> batch) {
    kernels::Stream& stream = model.stream();
    for (const kernels::Tensor& sum : sums) sum.zero(stream);
    for (std::size_t first = 0; first < batch.size(); first += micro_batch) {
      const auto records = batch.subspan(first, std::min(micro_batch, batch.size() - first));
      model.per_sample_gradients(records, gradients);
      const kernels::Tensor norms(stream.device(), DType::f32, {gradients.sample_count});
      kernels::joint_squared_norms(stream, gradients, norms);
      kernels::clip_factors(stream, norms, 1.0, kernels::ClippingRule::flat, 0.0, norms);
      kernels::add_weighted_sum(stream, gradients, norms, sums);
    }
    for (const kernels::Tensor& sum : sums)
      counter = kernels::add_gaussian_noise(stream, 1.0, key.bytes(), 0, counter, sum);
    update();
  }

  void plain_step(std::span<const TokenizedText* const> batch) {
    for (const kernels::Tensor& sum : sums) sum.zero(model.stream());
    for (std::size_t first = 0; first < batch.size(); first += micro_batch)
      model.summed_gradients(batch.subspan(first, std::min(micro_batch, batch.size() - first)), sums);
    update();
  }

  void update() {
    for (std::size_t i = 0; i < sums.size(); ++i)
      kernels::axpy(model.stream(), -0.5 / static_cast<double>(batch_size), sums[i], model.parameters()[i]);
  }

  TextClassifier& model;
  std::size_t micro_batch;
  std::vector<kernels::Tensor> sums;
  kernels::PerSampleGradients gradients;
  RandomKey key = RandomKey::from_seed(1);
  std::uint64_t counter = 0;
};

void training_step(benchmark::State& state, Precision precision, bool is_private) {
  ClassifierConfig config;
  config.precision = precision;
  auto loaded = TextClassifier::load(kernels::cpu_device(), base_directory(), config);
  if (!loaded) return state.SkipWithError(loaded.error().message.c_str());
  TextClassifier& model = **loaded;
  Trainer trainer(model);
  const std::vector<TokenizedText> records = sentences(4000);
  std::vector<const TokenizedText*> batch(batch_size);
  std::size_t next = 0;
  auto step = [&] {
    for (const TokenizedText*& record : batch) record = &records[next++ % records.size()];
    is_private ? trainer.private_step(batch) : trainer.plain_step(batch);
  };
  for (int warm_up = 0; warm_up < 3; ++warm_up) step();
  std::size_t tokens = 0;
  for (auto _ : state) {
    step();
    for (const TokenizedText* record : batch) tokens += record->tokens.size();
  }
  state.SetLabel(kernels::cpu_device().name());
  state.counters["samples/s"] =
      benchmark::Counter(static_cast<double>(state.iterations() * batch_size), benchmark::Counter::kIsRate);
  state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(tokens), benchmark::Counter::kIsRate);
}

BENCHMARK_CAPTURE(training_step, dp_fp32, Precision::fp32, true)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK_CAPTURE(training_step, plain_fp32, Precision::fp32, false)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK_CAPTURE(training_step, dp_bf16, Precision::bf16, true)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK_CAPTURE(training_step, plain_bf16, Precision::bf16, false)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace trib::models
