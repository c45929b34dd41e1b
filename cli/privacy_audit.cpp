// `trib privacy audit`: an attack on a simulated job, and the bound on epsilon that follows from its success.
#include <boost/json.hpp>
#include <csignal>
#include <iostream>

#include "cli/audit.h"
#include "cli/commands.h"
#include "cli/terminal.h"

namespace trib::cli {
namespace {

namespace json = boost::json;

volatile std::sig_atomic_t interrupted = 0;

struct Options {
  AuditOptions audit;
  std::uint64_t seed = 0;
  bool json = false;
};

void print_json(const AuditResult& result) {
  json::array attempts;
  for (const auto& attempt : result.attempts)
    attempts.push_back(json::object{{"guesses", attempt.guesses.guesses},
                                    {"correct", attempt.guesses.correct},
                                    {"epsilon_lower_bound", attempt.epsilon},
                                    {"epsilon_attainable", attempt.attainable}});
  json::object out{
      {"job", result.job},
      {"site", result.site},
      {"unit", "one record, add or remove"},
      {"declared_records", result.declared_records},
      {"rounds", result.contributions},
      {"private", result.is_private},
      {"noise_seeded", result.is_seeded},
      {"canaries", result.attempts.front().guesses.canaries},
      {"included", result.included},
      {"attempts", std::move(attempts)},
      {"confidence", result.confidence},
      {"delta", result.delta},
      {"epsilon_lower_bound", result.epsilon_lower_bound},
      {"epsilon_attainable", result.epsilon_attainable},
      {"epsilon_reported", result.epsilon_reported ? json::value(*result.epsilon_reported) : json::value(nullptr)},
      {"refuted", result.is_refuted()}};
  std::cout << json::serialize(out) << "\n";
}

void print_table(const AuditResult& result) {
  std::cout << bold(result.job) << " audited at " << result.site << ", which declares " << result.declared_records
            << " records and contributed to " << result.contributions << " rounds\n\n"
            << "  canaries             " << result.included << " of " << result.attempts.front().guesses.canaries
            << " were among its records\n"
            << "  attack               the aggregator's: gradients of the canaries against each contribution\n";
  for (const auto& attempt : result.attempts)
    std::cout << "  guesses              " << attempt.guesses.correct << " of " << attempt.guesses.guesses
              << " right: epsilon is at least " << format_fixed(attempt.epsilon, 3) << "\n";
  std::cout << "  epsilon, at least    " << format_fixed(result.epsilon_lower_bound, 3) << " at delta " << result.delta
            << ", with confidence " << format_percent(result.confidence) << "\n"
            << "  could have shown     " << format_fixed(result.epsilon_attainable, 3)
            << ", had every guess been right: more canaries could show more\n"
            << "  epsilon, reported    "
            << (result.epsilon_reported ? format_fixed(*result.epsilon_reported, 3) + " by the site's ledger"
                                        : std::string("without bound: the job is not private"))
            << "\n";
}

Status run(Options& options) {
  LiveBlock display(stderr);
  options.audit.simulation.on_progress = [&](const SimulationProgress& now) {
    if (!now.work.empty()) return display.update({bar(now.work_done, 30) + " " + now.work});
    const double done =
        (static_cast<double>(now.round - 1) +
         static_cast<double>(now.sites_done) / static_cast<double>(std::max<std::int64_t>(1, now.sites_chosen))) /
        static_cast<double>(now.rounds);
    display.update(
        {bar(done, 30) + " round " + std::to_string(now.round) + "/" + std::to_string(now.rounds) + "  " + now.site});
  };
  options.audit.simulation.cancelled = [] { return interrupted != 0; };
  auto audited = run_audit(options.audit);
  display.finish();
  if (interrupted != 0) return Error{Errc::cancelled, "the audit was interrupted"};
  if (!audited) return audited.error();
  options.json ? print_json(*audited) : print_table(*audited);
  if (audited->is_refuted()) {
    return Error{
        Errc::corrupt,
        "the attack refutes the reported epsilon: a lower bound above it comes by chance in at most " +
            format_percent(1.0 - audited->confidence) +
            " of audits; repeat the audit with another seed, and do not run private jobs with this build if it "
            "comes again"};
  }
  return {};
}

}  // namespace

void add_privacy_audit_command(CLI::App& privacy, Exit& exit) {
  auto options = std::make_shared<Options>();
  AuditOptions& audit = options->audit;
  SimulationOptions& simulation = audit.simulation;
  simulation.model_directories = {"base"};
  CLI::App* command = privacy.add_subcommand(
      "audit",
      "Attack a job in a simulation: canaries among one site's records, and the least epsilon that explains how many\n"
      "of them the aggregator recognizes, beside the reported one\n"
      "Example: trib privacy audit experiments/fedsvd/quick.toml --set privacy.enabled=false");
  command->add_option("job", simulation.job_file, "Job file with a [simulate] section")->required()->type_name("FILE");
  command->add_option("--site", audit.site, "The site that is attacked, from 1")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  command->add_option("--canaries", audit.canaries, "Records to recognize; each is in with probability 1/2")
      ->check(CLI::Range(2, 100'000))
      ->capture_default_str();
  command
      ->add_option("--guesses", audit.guesses,
                   "How many of them to guess at, the surest on either side; several numbers, with commas, share "
                   "the confidence [half of the canaries]")
      ->delimiter(',')
      ->type_name("N");
  command->add_option("--confidence", audit.confidence, "Share of audits whose bound holds, at least")
      ->check(CLI::Range(0.5, 0.999999))
      ->capture_default_str();
  command->add_option("--set", simulation.overrides, "Override a key of the job file")->type_name("SECTION.KEY=VALUE");
  CLI::Option* seed = command->add_option("--seed", options->seed, "Repeatable randomness everywhere");
  command->add_option("--clients", simulation.clients, "Number of sites [simulate.sites of the job]")
      ->check(CLI::Range(1, 1'000'000));
  command->add_option("--models", simulation.model_directories, "Directories with base models")->capture_default_str();
  command->add_option("--threads", simulation.threads, "Threads of the CPU device [all processors]")
      ->check(CLI::Range(1, 1024));
  command->add_option("--device", simulation.device, "auto, cpu, cuda, cuda:N")->capture_default_str();
  command->add_flag("--json", options->json, "One JSON object on standard output");
  command->callback([options, seed, &exit] {
    if (seed->count() > 0) options->audit.simulation.seed = options->seed;
    std::signal(SIGINT, [](int) { interrupted = 1; });
    exit.report(run(*options));
  });
}

}  // namespace trib::cli
