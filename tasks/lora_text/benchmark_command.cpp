// `trib bench train`: its options, and what it prints.
#include <spdlog/fmt/fmt.h>

#include <boost/json.hpp>

#include "tasks/benchmark_options.h"
#include "tasks/lora_text/benchmark.h"

namespace trib::tasks::lora_text {
namespace {

namespace json = boost::json;

std::string rate(double value) {
  return fmt::format("{:.{}f}", value, value >= 100.0 ? 0 : 1);
}

// "412 of 785 T": both in the unit of the larger.
std::string operations(double done, double limit) {
  const bool tera = limit >= 1e12;
  const double unit = tera ? 1e12 : 1e9;
  return rate(done / unit) + " of " + rate(limit / unit) + (tera ? " T" : " G");
}

std::string memory(std::uint64_t bytes) {
  const auto gibibytes = static_cast<double>(bytes) / (1 << 30);
  return gibibytes >= 1.0 ? fmt::format("{:.1f} GiB", gibibytes) : fmt::format("{:.0f} MiB", gibibytes * 1024.0);
}

json::object to_json(const TrainingBenchmark& b, const BenchmarkRequest& request) {
  const auto batch = static_cast<double>(b.batch);
  const auto mode = [&](double seconds) {
    return json::object{{"seconds_per_step", seconds},
                        {"samples_per_second", batch / seconds},
                        {"tokens_per_second", batch * b.mean_tokens / seconds}};
  };
  return {{"model", b.model},
          {"device", b.device},
          {"collective", b.collective},
          {"precision", request.precision},
          {"batch", b.batch},
          {"micro_batch", b.micro_batch},
          {"mean_tokens", b.mean_tokens},
          {"longest_tokens", b.longest_tokens},
          {"private", mode(b.private_seconds)},
          {"plain", mode(b.plain_seconds)},
          {"dp_overhead", b.overhead},
          {"operations_per_second", b.operations},
          {"gemm_operations_per_second", b.product_limit},
          {"gemm_share", b.operations / b.product_limit},
          {"peak_memory_bytes", b.peak_memory},
          {"memory_of", b.memory_of_device ? "device" : "process"}};
}

BenchmarkReport report_of(const TrainingBenchmark& b, const BenchmarkRequest& request) {
  const auto batch = static_cast<double>(b.batch);
  const auto speed = [&](double seconds) {
    return fmt::format("{} samples/s, {} tokens/s, {:.1f} ms a step", rate(batch / seconds),
                       rate(batch * b.mean_tokens / seconds), seconds * 1e3);
  };
  return {{{"model", b.model + ", " + request.precision},
           {"device", b.device + (b.collective.empty() ? "" : "; sums over " + b.collective)},
           {"batch", fmt::format("{} records of {:.1f} tokens (longest {}), {} at once", b.batch, b.mean_tokens,
                                 b.longest_tokens, b.micro_batch)},
           {"private", speed(b.private_seconds)},
           {"not private", speed(b.plain_seconds)},
           {"DP overhead", fmt::format("{:.3f} times a step without privacy", b.overhead)},
           {"GEMM", fmt::format("{} operations/s of a large product: {:.1f} %",
                                operations(b.operations, b.product_limit), 100.0 * b.operations / b.product_limit)},
           {"peak memory", memory(b.peak_memory) + (b.memory_of_device ? " of the device" : " of this process")}},
          json::serialize(to_json(b, request))};
}

Result<BenchmarkReport> run(const BenchmarkArguments& arguments, Progress& progress) {
  if (!arguments.has("base") && !arguments.has("size"))
    return Error{Errc::invalid_argument, "which model? --base DIRECTORY, or --size base or --size large"};
  BenchmarkRequest request;
  request.base = arguments.text("base");
  request.size = arguments.text("size");
  request.precision = arguments.text("precision");
  request.settings = arguments.texts("set");
  request.batch = arguments.integer("batch");
  request.steps = arguments.integer("steps");
  request.data = arguments.text("file");
  if (request.data.empty()) request.lengths = {arguments.integer("tokens")};
  request.format = arguments.text("format");
  request.text_column = arguments.text("text-column");
  request.max_tokens = arguments.integer("max-tokens");
  request.devices = arguments.devices;
  TRIB_ASSIGN(const TrainingBenchmark measured, benchmark_training(request, progress));
  return report_of(measured, request);
}

}  // namespace

Benchmark train_benchmark() {
  using Kind = BenchmarkOption::Kind;
  return {
      .name = "train",
      .summary =
          "Training steps of a model on this machine: speed, memory, what privacy costs\n"
          "Example: trib bench train --size large --precision bf16 --batch 512 --tokens 128 --device cuda",
      .options =
          {
              {.name = "base", .help = "Base model directory (Hugging Face files)", .kind = Kind::directory},
              {.name = "size",
               .help = "Or random weights of RoBERTa's size: base or large",
               .choices = {"base", "large"},
               .excludes = {"base"}},
              {.name = "precision", .help = "As model.precision of a job file", .value = "fp32"},
              integer_option("batch", "Records a step", 64, 1, 1'000'000),
              integer_option("steps", "Steps that are timed, private and not private each", 10, 1, 1'000'000),
              integer_option("tokens", "Length of every record", 128, 1, 100'000),
              {.name = "file",
               .help = "Or lengths as these texts have them: TSV, CSV or JSONL; needs --base",
               .kind = Kind::file,
               .needs = {"base"},
               .excludes = {"tokens"}},
              {.name = "text-column", .help = "Column with the text", .value = "text"},
              {.name = "format",
               .help = "auto, tsv, csv or jsonl",
               .value = "auto",
               .choices = {"auto", "tsv", "csv", "jsonl"}},
              integer_option("max-tokens", "Longer texts are cut", 128, 3, 100'000),
              {.name = "set",
               .help = "A key of a job's [model], [adapter] or [training]: SECTION.KEY=VALUE",
               .kind = Kind::texts},
          },
      .run = run,
  };
}

}  // namespace trib::tasks::lora_text
