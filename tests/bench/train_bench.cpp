// Training steps of RoBERTa-sized models with random weights on one device or several, beside bench/torch_dp_lora.py:
//   train_bench DEVICE base|large PRECISION BATCH TOKENS|sst2 [STEPS [SHAPES]]
// PRECISION is fp32, tf32, bf16, fp8, int8 or int4 (the last two: bf16 with a base of 8 or 4 bits). TOKENS is a length,
// or "sst2" for lengths as that data set has them. At least STEPS are timed of each kind, private and plain in turn, on
// a GPU in blocks of four. SHAPES is how many shapes of a micro-batch are recorded, 0 for none. It is `trib bench
// train` with the yardstick's adapters: rank 8 on query and value, only B trained; a private step as jobs take it
// (privacy/dp_sgd.h): flat clip, sums and discrete Gaussian noise on a grid. It needs nothing but the model's code, so
// it runs on a machine with a GPU and little else.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

#include "tasks/lora_text/benchmark.h"

namespace trib::tasks {
namespace {

// clamp(exp(0.62·N(0, 1) + 2.55), 4, 62).
std::vector<std::int64_t> sst2_lengths(std::int64_t count) {
  std::mt19937 random(0);
  std::normal_distribution<double> normal;
  std::vector<std::int64_t> lengths;
  for (std::int64_t i = 0; i < count; ++i)
    lengths.push_back(static_cast<std::int64_t>(std::clamp(std::exp(0.62 * normal(random) + 2.55), 4.0, 62.0)));
  return lengths;
}

int run(int count, char** arguments) {
  if (count < 6) {
    std::fprintf(
        stderr,
        "usage: train_bench DEVICE base|large fp32|tf32|bf16|fp8|int8|int4 BATCH TOKENS|sst2 [STEPS [SHAPES]]\n");
    return 2;
  }
  const std::string tokens = arguments[5];
  lora_text::BenchmarkRequest request;
  request.size = arguments[2];
  const std::string precision = arguments[3];
  const bool is_few_bits = precision == "int8" || precision == "int4";
  request.precision = is_few_bits ? "bf16" : precision;
  request.batch = std::atoll(arguments[4]);
  request.steps = count > 6 ? std::atoll(arguments[6]) : 10;
  if (count > 7) request.recorded_shapes = static_cast<std::size_t>(std::atoll(arguments[7]));
  request.settings = {"adapter.alpha=16", "training.head=\"frozen\""};
  if (is_few_bits) request.settings.push_back(precision == "int8" ? "model.base_bits=8" : "model.base_bits=4");
  request.lengths =
      tokens == "sst2" ? sst2_lengths(4 * request.batch) : std::vector{std::int64_t{std::atoll(tokens.c_str())}};
  const auto devices = kernels::open_devices(arguments[1]);
  if (!devices) {
    std::fprintf(stderr, "train_bench: %s\n", devices.error().message.c_str());
    return 1;
  }
  request.devices = *devices;
  QuietProgress progress;
  const auto measured = lora_text::benchmark_training(request, progress);
  if (!measured) {
    std::fprintf(stderr, "train_bench: %s\n", measured.error().message.c_str());
    return 1;
  }
  if (measured->model_memory > 0)
    std::printf("%s %s: the loaded model takes %.3f GiB\n", request.size.c_str(), precision.c_str(),
                static_cast<double>(measured->model_memory) / (1 << 30));
  for (const bool is_private : {true, false}) {
    const double seconds = is_private ? measured->private_seconds : measured->plain_seconds;
    const auto batch = static_cast<double>(request.batch);
    std::printf("ours %s %s dp=%d bs=%lld T=%s: %.2f ms/step %.0f samples/s %.0f tokens/s", request.size.c_str(),
                precision.c_str(), is_private, static_cast<long long>(request.batch), tokens.c_str(), seconds * 1e3,
                batch / seconds, batch * measured->mean_tokens / seconds);
    if (is_private)
      std::printf(" %.0f of %.0f TFLOP/s, peak %.2f GiB, %.3f times a plain step", measured->operations * 1e-12,
                  measured->product_limit * 1e-12, static_cast<double>(measured->peak_memory) / (1 << 30),
                  measured->overhead);
    std::printf("\n");
  }
  return 0;
}

}  // namespace
}  // namespace trib::tasks

int main(int count, char** arguments) {
  return trib::tasks::run(count, arguments);
}
