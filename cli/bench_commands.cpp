#include <boost/json.hpp>
#include <csignal>
#include <cstdlib>
#include <iostream>

#include "cli/commands.h"
#include "cli/terminal.h"
#include "kernels/device.h"
#include "tasks/task.h"

namespace trib::cli {
namespace {

namespace json = boost::json;

volatile std::sig_atomic_t interrupted = 0;

class BenchProgress final : public tasks::Progress {
 public:
  void step(std::int64_t, std::int64_t, double) override {}
  void fraction(std::string_view what, double done) override {
    block_.update({std::string(what) + " " + bar(done, 30) + " " + format_percent(done)});
  }
  bool cancelled() const override { return interrupted != 0; }
  void finish() { block_.finish(); }

 private:
  LiveBlock block_{stderr};
};

struct Options {
  tasks::BenchmarkRequest request;
  std::string task = "lora_text", device = "auto";
  std::int64_t tokens = 128;
  int threads = 0;
  bool json = false;
};

std::string rate(double value) {
  return value >= 100.0 ? format_fixed(value, 0) : format_fixed(value, 1);
}

// "412 of 785 T": both in the unit of the larger.
std::string operations(double done, double limit) {
  const bool tera = limit >= 1e12;
  const double unit = tera ? 1e12 : 1e9;
  return rate(done / unit) + " of " + rate(limit / unit) + (tera ? " T" : " G");
}

std::string memory(std::uint64_t bytes) {
  const auto gibibytes = static_cast<double>(bytes) / (1 << 30);
  return gibibytes >= 1.0 ? format_fixed(gibibytes, 1) + " GiB" : format_fixed(gibibytes * 1024.0, 0) + " MiB";
}

json::object to_json(const tasks::TrainingBenchmark& b, const Options& options) {
  const auto batch = static_cast<double>(b.batch);
  const auto mode = [&](double seconds) {
    return json::object{{"seconds_per_step", seconds},
                        {"samples_per_second", batch / seconds},
                        {"tokens_per_second", batch * b.mean_tokens / seconds}};
  };
  return {{"model", b.model},
          {"device", b.device},
          {"collective", b.collective},
          {"precision", options.request.precision},
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

std::string to_text(const tasks::TrainingBenchmark& b, const Options& options) {
  const auto batch = static_cast<double>(b.batch);
  const auto speed = [&](double seconds) {
    return rate(batch / seconds) + " samples/s, " + rate(batch * b.mean_tokens / seconds) + " tokens/s, " +
           format_fixed(seconds * 1e3, 1) + " ms a step";
  };
  std::string text;
  const auto line = [&](const std::string& name, const std::string& value) {
    text += name + std::string(14 - name.size(), ' ') + value + "\n";
  };
  line("model", b.model + ", " + options.request.precision);
  line("device", b.device + (b.collective.empty() ? "" : "; sums over " + b.collective));
  line("batch", std::to_string(b.batch) + " records of " + format_fixed(b.mean_tokens, 1) + " tokens (longest " +
                    std::to_string(b.longest_tokens) + "), " + std::to_string(b.micro_batch) + " at once");
  line("private", speed(b.private_seconds));
  line("not private", speed(b.plain_seconds));
  line("DP overhead", format_fixed(b.overhead, 3) + " times a step without privacy");
  line("GEMM", operations(b.operations, b.product_limit) +
                   " operations/s of a large product: " + format_percent(b.operations / b.product_limit));
  line("peak memory", memory(b.peak_memory) + (b.memory_of_device ? " of the device" : " of this process"));
  return text;
}

Status run(Options& options) {
  if (options.threads > 0) ::setenv("TRIBUTARY_THREADS", std::to_string(options.threads).c_str(), 1);
  TRIB_ASSIGN(const tasks::TaskDefinition* task, tasks::find_task(options.task));
  if (!task->benchmark) return Error{Errc::unsupported, "the task " + options.task + " has no benchmark"};
  TRIB_ASSIGN(options.request.devices, kernels::open_devices(options.device));
  if (options.request.data.empty()) options.request.lengths = {options.tokens};
  BenchProgress progress;
  const Result<tasks::TrainingBenchmark> measured = task->benchmark(options.request, progress);
  progress.finish();
  if (!measured) return measured.error();
  std::cout << (options.json ? json::serialize(to_json(*measured, options)) + "\n" : to_text(*measured, options));
  return {};
}

}  // namespace

void add_bench_commands(CLI::App& app, Exit& exit) {
  CLI::App* group = app.add_subcommand("bench", "Measure this machine");
  group->require_subcommand(1);
  auto options = std::make_shared<Options>();
  tasks::BenchmarkRequest& request = options->request;
  CLI::App* command = group->add_subcommand(
      "train",
      "Training steps of a model on this machine: speed, memory, what privacy costs\n"
      "Example: trib bench train --size large --precision bf16 --batch 512 --tokens 128 --device cuda");
  CLI::Option* base = command->add_option("--base", request.base, "Base model directory (Hugging Face files)")
                          ->check(CLI::ExistingDirectory);
  CLI::Option* size = command->add_option("--size", request.size, "Or random weights of RoBERTa's size: base or large")
                          ->check(CLI::IsMember({"base", "large"}))
                          ->excludes(base);
  command->add_option("--precision", request.precision, "As model.precision of a job file")->capture_default_str();
  command->add_option("--batch", request.batch, "Records a step")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  command->add_option("--steps", request.steps, "Steps that are timed, private and not private each")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  CLI::Option* tokens = command->add_option("--tokens", options->tokens, "Length of every record")
                            ->check(CLI::Range(1, 100'000))
                            ->capture_default_str();
  command->add_option("--file", request.data, "Or lengths as these texts have them: TSV, CSV or JSONL; needs --base")
      ->check(CLI::ExistingFile)
      ->excludes(tokens)
      ->needs(base);
  command->add_option("--text-column", request.text_column, "Column with the text")->capture_default_str();
  command->add_option("--format", request.format, "auto, tsv, csv or jsonl")
      ->check(CLI::IsMember({"auto", "tsv", "csv", "jsonl"}))
      ->capture_default_str();
  command->add_option("--max-tokens", request.max_tokens, "Longer texts are cut")
      ->check(CLI::Range(3, 100'000))
      ->capture_default_str();
  command->add_option("--set", request.settings, "A key of a job's [model], [adapter] or [training]")
      ->type_name("SECTION.KEY=VALUE");
  command->add_option("--task", options->task, "Task whose steps they are")->capture_default_str();
  command->add_option("--device", options->device, "auto, cpu, cuda, cuda:N, or several GPUs: cuda:0,1, cuda:all")
      ->capture_default_str();
  command->add_option("--threads", options->threads, "Threads of the CPU device [all processors]")
      ->check(CLI::Range(1, 1024));
  command->add_flag("--json", options->json, "One JSON object on standard output");
  command->callback([options, base, size, &exit] {
    if (base->count() + size->count() == 0)
      return exit.report(
          Error{Errc::invalid_argument, "which model? --base DIRECTORY, or --size base or --size large"});
    std::signal(SIGINT, [](int) { interrupted = 1; });
    exit.report(run(*options));
  });
}

}  // namespace trib::cli
