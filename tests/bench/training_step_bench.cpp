// One optimizer step over a batch of 128 records with SST-2-like lengths: rank 8 on query and value, B and out_proj
// trained, flat clip, SGD; the same work as the PyTorch yardstick, in batches without padding.
// dp: sums and discrete Gaussian noise on a grid (privacy/dp_sgd.h); dp_float: sums and Gaussian noise in float32.
// The base model is roberta-mini-imdb: TRIBUTARY_BASE, or the copies beside the sources.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <random>

#include "common/random.h"
#include "models/text_classifier.h"
#include "privacy/dp_sgd.h"

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

enum class Step { plain, dp, dp_float };

privacy::Charge charge_of(Step step) {
  privacy::Charge charge{
      .job = "bench", .round = 1, .data_set = "bench", .declared_records = 4000, .target_delta = 1e-5, .mechanism = {}};
  charge.mechanism = {privacy::MechanismKind::poisson_subsampled_gaussian, batch_size / 4000.0, 1.0, 1.0, 1};
  charge.mechanism.noise =
      step == Step::dp_float ? privacy::NoiseKind::float_gaussian : privacy::NoiseKind::discrete_gaussian;
  return charge;
}

// What a training step needs besides the model.
struct Trainer {
  Trainer(TextClassifier& trained, Step step)
      : model(trained),
        micro_batch(static_cast<std::size_t>(model.suggested_micro_batch(62))),
        noised(RandomKey::from_seed(1), charge_of(step)) {
    for (const kernels::Tensor& parameter : model.parameters()) {
      shapes.push_back(parameter.shape());
      sums.push_back(kernels::Tensor::zeros(model.stream(), DType::f32, parameter.shape()));
    }
  }

  void private_step(std::span<const TokenizedText* const> batch) {
    noised.reset(model.stream(), shapes);
    for (std::size_t first = 0; first < batch.size(); first += micro_batch) {
      model.per_sample_gradients(batch.subspan(first, std::min(micro_batch, batch.size() - first)), gradients);
      noised.add_clipped(model.stream(), gradients);
    }
    noised.finish_mean(model.stream());
    for (std::size_t i = 0; i < sums.size(); ++i)
      kernels::axpy(model.stream(), -0.5, noised.tensors()[i], model.parameters()[i]);
  }

  void plain_step(std::span<const TokenizedText* const> batch) {
    for (const kernels::Tensor& sum : sums) sum.zero(model.stream());
    for (std::size_t first = 0; first < batch.size(); first += micro_batch)
      model.summed_gradients(batch.subspan(first, std::min(micro_batch, batch.size() - first)), sums);
    for (std::size_t i = 0; i < sums.size(); ++i)
      kernels::axpy(model.stream(), -0.5 / static_cast<double>(batch_size), sums[i], model.parameters()[i]);
  }

  TextClassifier& model;
  std::size_t micro_batch;
  std::vector<kernels::Tensor> sums;
  kernels::PerSampleGradients gradients;
  privacy::GradientSum noised;
  std::vector<Shape> shapes;
};

void training_step(benchmark::State& state, Precision precision, Step kind) {
  ClassifierConfig config;
  config.precision = precision;
  auto loaded = TextClassifier::load(kernels::cpu_device(), base_directory(), config);
  if (!loaded) return state.SkipWithError(loaded.error().message.c_str());
  TextClassifier& model = **loaded;
  Trainer trainer(model, kind);
  const std::vector<TokenizedText> records = sentences(4000);
  std::vector<const TokenizedText*> batch(batch_size);
  std::size_t next = 0;
  auto step = [&] {
    for (const TokenizedText*& record : batch) record = &records[next++ % records.size()];
    kind == Step::plain ? trainer.plain_step(batch) : trainer.private_step(batch);
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

BENCHMARK_CAPTURE(training_step, dp_fp32, Precision::fp32, Step::dp)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK_CAPTURE(training_step, dp_float_fp32, Precision::fp32, Step::dp_float)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK_CAPTURE(training_step, plain_fp32, Precision::fp32, Step::plain)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK_CAPTURE(training_step, dp_bf16, Precision::bf16, Step::dp)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK_CAPTURE(training_step, plain_bf16, Precision::bf16, Step::plain)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace
}  // namespace trib::models
