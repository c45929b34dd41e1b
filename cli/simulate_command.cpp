#include <boost/json.hpp>
#include <cmath>
#include <csignal>
#include <iostream>

#include "cli/commands.h"
#include "cli/simulate.h"
#include "cli/terminal.h"
#include "common/clock.h"
#include "server/job_report.h"
#include "tasks/progress.h"

namespace trib::cli {
namespace {

volatile std::sig_atomic_t interrupted = 0;

// A bar over all rounds on a terminal; a line a round elsewhere.
class SimulationDisplay {
 public:
  void show(const SimulationProgress& now) {
    if (!now.work.empty()) return show_work(now);
    const double site = now.steps > 0 ? static_cast<double>(now.step) / static_cast<double>(now.steps) : 0.0;
    const double in_round = now.sites_chosen > 0
                                ? (static_cast<double>(now.sites_done) + site) / static_cast<double>(now.sites_chosen)
                                : 0.0;
    const double done =
        (static_cast<double>(now.round - 1) + std::min(1.0, in_round)) / static_cast<double>(now.rounds);
    std::string accuracy = now.accuracy ? "  accuracy " + format_percent(*now.accuracy) : "";
    block_.update({bar(done, 30) + " round " + std::to_string(now.round) + "/" + std::to_string(now.rounds) + "  " +
                   now.site + "  step " + std::to_string(now.step) + "/" + std::to_string(now.steps) + accuracy});
    if (!block_.live() && now.round != last_round_) {
      block_.log("round " + std::to_string(now.round) + "/" + std::to_string(now.rounds) + accuracy);
      last_round_ = now.round;
    }
  }
  void finish() { block_.finish(); }

 private:
  void show_work(const SimulationProgress& now) {
    const std::string text =
        (now.site.empty() ? "aggregator" : now.site) + "  " + now.work + " " + format_percent(now.work_done);
    block_.update({bar(now.work_done, 30) + " " + text});
    if (work_.is_due(now.work, now.work_done, system_clock().now()) && !block_.live()) block_.log(text);
  }

  LiveBlock block_{stderr};
  tasks::LongWork work_;
  std::int64_t last_round_ = 0;
};

struct Options {
  SimulationOptions simulation;
  std::uint64_t seed = 0;
  double site_epsilon = 0.0;
  bool json = false;
};

Status run(Options& options) {
  SimulationDisplay display;
  options.simulation.on_progress = [&](const SimulationProgress& now) { display.show(now); };
  options.simulation.cancelled = [] { return interrupted != 0; };
  TRIB_ASSIGN(const std::string document, run_simulation(options.simulation));
  display.finish();
  if (options.json) {
    std::cout << document << "\n";
  } else {
    TRIB_ASSIGN(const std::string text, server::render_job_report(document));
    std::cout << text;
  }
  const boost::json::value report = boost::json::parse(document);
  if (report.at("state").as_string() != "finished") {
    return Error{
        interrupted ? Errc::cancelled : Errc::internal,
        "the job " + std::string(report.at("state").as_string()) + ": " + std::string(report.at("reason").as_string())};
  }
  return {};
}

}  // namespace

void add_simulate_command(CLI::App& app, Exit& exit) {
  auto options = std::make_shared<Options>();
  SimulationOptions& simulation = options->simulation;
  simulation.model_directories = {"base"};
  CLI::App* command =
      app.add_subcommand("simulate",
                         "Run a job with any number of sites in one process: same task code, same round engine\n"
                         "Example: trib simulate experiments/fedsvd/quick.toml --clients 10 --set privacy.epsilon=4");
  command->add_option("job", simulation.job_file, "Job file with a [simulate] section")->required()->type_name("FILE");
  command->add_option("--clients", simulation.clients, "Number of sites [simulate.sites of the job]")
      ->check(CLI::Range(1, 1'000'000));
  command->add_option("--set", simulation.overrides, "Override a key of the job file")->type_name("SECTION.KEY=VALUE");
  CLI::Option* seed =
      command->add_option("--seed", options->seed, "Repeatable randomness everywhere: the result is then not private");
  command->add_option("--models", simulation.model_directories, "Directories with base models")->capture_default_str();
  command->add_option("--threads", simulation.threads, "Threads of the CPU device [all processors]")
      ->check(CLI::Range(1, 1024));
  command->add_option("--device", simulation.device, "auto, cpu, cuda, cuda:N, or several GPUs: cuda:0,1, cuda:all")
      ->capture_default_str();
  command->add_option("--work-dir", simulation.work_directory, "Keep the sites' ledgers and the states here")
      ->type_name("DIR");
  command->add_option("--export", simulation.export_directory, "Write the model here at the end")->type_name("DIR");
  CLI::Option* cap = command
                         ->add_option("--site-epsilon", options->site_epsilon,
                                      "Each site's own cap [the job's epsilon and its evaluations']")
                         ->check(CLI::Validator(
                             [](const std::string& text) {
                               double epsilon = 0.0;
                               return CLI::detail::lexical_cast(text, epsilon) && epsilon > 0.0
                                          ? std::string()
                                          : "must be a number above 0, and not " + text;
                             },
                             ""));
  command->add_flag("--json", options->json, "One JSON object on standard output");
  command->callback([options, seed, cap, &exit] {
    if (seed->count() > 0) options->simulation.seed = options->seed;
    if (cap->count() > 0) options->simulation.site_epsilon = options->site_epsilon;
    std::signal(SIGINT, [](int) { interrupted = 1; });
    exit.report(run(*options));
  });
}

}  // namespace trib::cli
