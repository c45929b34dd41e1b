// Training steps of RoBERTa-sized models with random weights on one device, beside bench/torch_dp_lora.py:
//   train_bench DEVICE MODEL PRECISION BATCH TOKENS [STEPS [SHAPES]]
// MODEL is base or large; TOKENS is a length, or "sst2" for lengths as that data set has them; STEPS are timed after
// as many again for warming up; SHAPES is how many shapes of a micro-batch are recorded, 0 for none. Prints one line
// each for a private and a plain step. Rank 8 on query and value, only B trained, SGD; a private step as jobs take it
// (privacy/dp_sgd.h): flat clip, sums and discrete Gaussian noise on a grid. Steps are submitted one behind the other;
// each is timed from the end of the one before it to its own.
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
#include "privacy/dp_sgd.h"

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

privacy::Charge charge_of(std::size_t batch) {
  constexpr std::int64_t records = 100'000;
  privacy::Charge charge{.job = "bench",
                         .round = 1,
                         .data_set = "bench",
                         .declared_records = records,
                         .target_delta = 1e-5,
                         .mechanism = {}};
  charge.mechanism = {privacy::MechanismKind::poisson_subsampled_gaussian,
                      static_cast<double>(batch) / static_cast<double>(records), 1.0, 1.0, 1};
  return charge;
}

struct Trainer {
  Trainer(TextClassifier& trained, std::int64_t longest, std::size_t batch)
      : model(trained),
        micro_batch(static_cast<std::size_t>(model.suggested_micro_batch(longest))),
        noised(RandomKey::from_seed(1), charge_of(batch)),
        loss(kernels::Tensor::zeros(model.stream(), DType::f64, {1})) {
    for (const kernels::Tensor& parameter : model.parameters()) {
      shapes.push_back(parameter.shape());
      sums.push_back(kernels::Tensor::zeros(model.stream(), DType::f32, parameter.shape()));
    }
  }
  // Submits a step; what is returned comes from the device when it is done.
  std::unique_ptr<kernels::HostRead> step(std::span<const TokenizedText* const> batch, bool is_private) {
    kernels::Stream& stream = model.stream();
    if (is_private) {
      noised.reset(stream, shapes);
    } else {
      for (const kernels::Tensor& sum : sums) sum.zero(stream);
    }
    for (std::size_t first = 0; first < batch.size(); first += micro_batch) {
      const auto part = batch.subspan(first, std::min(micro_batch, batch.size() - first));
      if (is_private) {
        model.per_sample_gradients(part, gradients);
        noised.add_clipped(stream, gradients);
      } else {
        model.summed_gradients(part, sums, loss);
      }
    }
    if (is_private) noised.finish_mean(stream);
    const std::vector<kernels::Tensor>& gradient = is_private ? noised.tensors() : sums;
    const double rate = is_private ? -0.1 : -0.1 / static_cast<double>(batch.size());
    std::vector<kernels::ScaledAddition> additions;
    for (std::size_t i = 0; i < sums.size(); ++i) additions.push_back({rate, gradient[i], model.parameters()[i]});
    kernels::add_scaled(stream, additions);
    return (is_private ? noised.loss() : loss).read(stream);
  }
  TextClassifier& model;
  std::size_t micro_batch;
  std::vector<Shape> shapes;
  std::vector<kernels::Tensor> sums;
  kernels::PerSampleGradients gradients;
  privacy::GradientSum noised;
  kernels::Tensor loss;
};

int run(int count, char** arguments) {
  if (count < 6) {
    std::fprintf(stderr, "usage: train_bench DEVICE base|large fp32|tf32|bf16 BATCH TOKENS|sst2 [STEPS [SHAPES]]\n");
    return 2;
  }
  const std::string name = arguments[2], precision = arguments[3], tokens = arguments[5];
  const Size size = name == "large" ? Size{1024, 24, 16, 4096, 302e6} : Size{768, 12, 12, 3072, 85e6};
  const auto batch_size = static_cast<std::size_t>(std::atoi(arguments[4]));
  const int steps = count > 6 ? std::atoi(arguments[6]) : 10;
  kernels::Device& device = *kernels::open_device(arguments[1]).value();
  ClassifierConfig config;
  config.precision = precision == "bf16" ? Precision::bf16 : precision == "tf32" ? Precision::tf32 : Precision::fp32;
  if (count > 7) config.recorded_shapes = static_cast<std::size_t>(std::atoi(arguments[7]));
  config.head = HeadTraining::frozen;
  config.adapter.alpha = 16;
  const auto model = TextClassifier::load(device, random_checkpoint(name, size), config).value();
  device.trim();
  const std::vector<TokenizedText> data = records(batch_size * 4, tokens);
  std::size_t longest = 0;
  for (const TokenizedText& record : data) longest = std::max(longest, record.tokens.size());
  for (bool is_private : {true, false}) {
    Trainer trainer(*model, static_cast<std::int64_t>(longest), batch_size);
    using Clock = std::chrono::steady_clock;
    std::vector<double> seconds;
    double token_count = 0;
    std::unique_ptr<kernels::HostRead> last;
    Clock::time_point last_end = Clock::now();
    const auto end_of_last = [&](bool timed) {
      last->bytes();
      const Clock::time_point now = Clock::now();
      if (timed) seconds.push_back(std::chrono::duration<double>(now - last_end).count());
      last_end = now;
    };
    for (int step = 0; step < 2 * steps; ++step) {
      std::vector<const TokenizedText*> batch;
      const std::size_t first = static_cast<std::size_t>(step % 4) * batch_size;
      for (std::size_t i = 0; i < batch_size; ++i) batch.push_back(&data[first + i]);
      if (step == steps) {
        end_of_last(false);
        last.reset();
        device.trim();  // the peak of steps as they are once memory has its size
        last_end = Clock::now();
      }
      auto submitted = trainer.step(batch, is_private);
      if (last) end_of_last(step > steps);
      last = std::move(submitted);
      if (step < steps) continue;
      for (const TokenizedText* record : batch) token_count += static_cast<double>(record->tokens.size()) / steps;
    }
    end_of_last(true);
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
