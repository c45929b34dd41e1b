#include <csignal>
#include <cstdio>
#include <exception>
#include <string_view>

#include "cli/commands.h"
#include "cli/version.h"
#include "common/log.h"

namespace {

constexpr const char* description =
    "Tributary trains one model on data that may not leave its owners: sites train LoRA adapters with differential\n"
    "privacy and send what has to be summed; the aggregator sums.\n\n"
    "First steps:\n"
    "  trib demo                          a federation of three sites on this machine, start to finish\n"
    "  trib simulate JOB --clients 100    the same round engine and task code in one process\n"
    "  trib init DIR                      a real federation: its CA, the aggregator's certificate and configuration\n"
    "  trib invite SITE                   a one-time token; the site runs `trib-client join TOKEN --data FILE`\n"
    "  trib token create NAME             a token for the dashboard and the HTTP API\n"
    "  trib job submit JOB                then `trib job watch`, `trib job show`, `trib model export`\n"
    "  trib status                        sites, who is waited for, privacy budgets and jobs on one screen\n"
    "  trib doctor                        what is wrong with this machine's setup, and what to do";

constexpr const char* footer =
    "Exit codes: 0 done, 1 failed, 2 bad arguments or job file, 3 the aggregator cannot be reached,\n"
    "4 refused (budget, policy, rights), 130 interrupted. `--json` prints one JSON object on standard output;\n"
    "messages for people go to standard error.";

// The words of a command that does not exist, and those there are: the parser only says that one is required.
int exit_without_command(const CLI::App& app) {
  const CLI::App* group = &app;
  while (!group->get_subcommands().empty()) group = group->get_subcommands().front();
  const std::vector<std::string> rest = group->remaining();
  std::string names;
  for (const CLI::App* child : group->get_subcommands([](const CLI::App*) { return true; }))
    names += (names.empty() ? "" : ", ") + child->get_name();
  const std::string problem = rest.empty() ? "a command is missing" : "there is no command \"" + rest.front() + "\"";
  std::fprintf(stderr, "trib: %s; the commands are: %s\n", problem.c_str(), names.c_str());
  return trib::cli::exit_usage;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  CLI::App app{description, "trib"};
  app.footer(footer);
  app.set_version_flag("--version", trib::version);
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);
  trib::cli::Exit exit;
  try {
    trib::configure_logging("trib", "warn", trib::LogFormat::text).value();
    trib::cli::add_demo_command(app, exit);
    trib::cli::add_simulate_command(app, exit);
    trib::cli::add_federation_commands(app, exit);
    trib::cli::add_token_commands(app, exit);
    trib::cli::add_job_commands(app, exit);
    trib::cli::add_privacy_commands(app, exit);
    trib::cli::add_model_commands(app, exit);
    trib::cli::add_status_command(app, exit);
    trib::cli::add_doctor_command(app, exit);
    trib::cli::add_data_commands(app, exit);
    trib::cli::add_bench_commands(app, exit);
    trib::cli::add_completion_command(app);
    app.parse(argc, argv);
  } catch (const CLI::RequiredError& error) {
    if (std::string_view(error.what()) == CLI::RequiredError::Subcommand(1).what()) return exit_without_command(app);
    app.exit(error);
    return trib::cli::exit_usage;
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? trib::cli::exit_ok : trib::cli::exit_usage;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "trib: %s\n", error.what());
    return trib::cli::exit_failure;
  }
  return exit.code();
}
