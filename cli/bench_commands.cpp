#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <map>

#include "cli/commands.h"
#include "cli/terminal.h"
#include "kernels/device.h"
#include "tasks/task.h"

namespace trib::cli {
namespace {

using Kind = tasks::BenchmarkOption::Kind;

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
  std::map<std::string, std::vector<std::string>> values;  // by the name of a benchmark's option
  std::string device = "auto";
  int threads = 0;
  bool json = false;
};

Status run(const tasks::Benchmark& benchmark, const Options& options) {
  if (options.threads > 0) ::setenv("TRIBUTARY_THREADS", std::to_string(options.threads).c_str(), 1);
  tasks::BenchmarkArguments arguments;
  for (const auto& [name, values] : options.values) arguments.set(name, values);
  TRIB_ASSIGN(arguments.devices, kernels::open_devices(options.device));
  BenchProgress progress;
  const Result<tasks::BenchmarkReport> report = benchmark.run(arguments, progress);
  progress.finish();
  if (!report) return report.error();
  if (options.json) {
    std::cout << report->json << "\n";
    return {};
  }
  std::size_t width = 0;
  for (const auto& [name, value] : report->lines) width = std::max(width, name.size());
  for (const auto& [name, value] : report->lines)
    std::cout << name << std::string(std::max<std::size_t>(width + 2, 14) - name.size(), ' ') << value << "\n";
  return {};
}

void add_option(CLI::App& command, const tasks::BenchmarkOption& option, std::vector<std::string>& values,
                std::map<std::string, CLI::Option*>& added) {
  CLI::Option* const made = command.add_option("--" + option.name, values, option.help);
  if (option.kind != Kind::texts) made->expected(1);
  switch (option.kind) {
    case Kind::text:
    case Kind::texts:
      break;
    case Kind::integer:
      made->type_name("INT")->check(CLI::Range(option.least, option.most));
      break;
    case Kind::file:
      made->check(CLI::ExistingFile);
      break;
    case Kind::directory:
      made->check(CLI::ExistingDirectory);
      break;
  }
  if (!option.choices.empty()) made->check(CLI::IsMember(option.choices));
  if (!option.value.empty()) {
    values = {option.value};
    made->default_str(option.value);
  }
  for (const std::string& other : option.needs) made->needs(added.at(other));
  for (const std::string& other : option.excludes) made->excludes(added.at(other));
  added[option.name] = made;
}

}  // namespace

void add_bench_commands(CLI::App& app, Exit& exit) {
  CLI::App* group = app.add_subcommand("bench", "Measure this machine");
  group->require_subcommand(1);
  for (const tasks::TaskDefinition& task : tasks::registered_tasks())
    for (const tasks::Benchmark& benchmark : task.benchmarks) {
      auto options = std::make_shared<Options>();
      CLI::App* const command = group->add_subcommand(benchmark.name, benchmark.summary);
      std::map<std::string, CLI::Option*> added;
      for (const tasks::BenchmarkOption& option : benchmark.options)
        add_option(*command, option, options->values[option.name], added);
      command->add_option("--device", options->device, "auto, cpu, cuda, cuda:N, or several GPUs: cuda:0,1, cuda:all")
          ->capture_default_str();
      command->add_option("--threads", options->threads, "Threads of the CPU device [all processors]")
          ->check(CLI::Range(1, 1024));
      command->add_flag("--json", options->json, "One JSON object on standard output");
      command->callback([options, &benchmark, &exit] {
        std::signal(SIGINT, [](int) { interrupted = 1; });
        exit.report(run(benchmark, *options));
      });
    }
}

}  // namespace trib::cli
