// trib-client: one site of a federation.
#include <spdlog/fmt/fmt.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <optional>

#include "client/daemon.h"
#include "client/join.h"
#include "client/site_commands.h"
#include "client/site_status.h"
#include "common/log.h"

namespace {

using namespace trib;
using namespace trib::client;

// As `trib --help` lists them.
enum ExitCode : int { exit_ok = 0, exit_failure = 1, exit_usage = 2, exit_unavailable = 3, exit_refused = 4 };

constexpr const char* footer =
    "Exit codes: 0 done; 1 it was tried and failed; 2 bad arguments or configuration; 3 the aggregator cannot be\n"
    "reached, or another client uses the directory; 4 the aggregator or a policy refused it.";

int exit_code_for(Errc code) {
  switch (code) {
    case Errc::invalid_argument:
    case Errc::not_found:
    case Errc::already_exists:
    case Errc::unsupported:
      return exit_usage;
    case Errc::unavailable:
    case Errc::deadline_exceeded:
      return exit_unavailable;
    case Errc::over_budget:
    case Errc::permission_denied:
    case Errc::unauthenticated:
      return exit_refused;
    default:
      return exit_failure;
  }
}

int fail(const Error& error) {
  std::fprintf(stderr, "trib-client: %s\n", error.message.c_str());
  return exit_code_for(error.code);
}

int run_join(const JoinRequest& request) {
  constexpr Milliseconds timeout{20'000};  // for each address in the token
  const auto joined = join(request, system_clock(), timeout);
  if (!joined) return fail(joined.error());
  fmt::print(
      "joined federation '{}' as site '{}'\n"
      "  certificate  valid until {}, renews itself\n"
      "  settings     {}{}\n"
      "start it with: trib-client run --dir {}\n",
      joined->federation, joined->site, to_iso8601(joined->certificate_expires), request.directory.config().native(),
      joined->kept_config ? " (was there already: not changed)" : "", request.directory.root.native());
  return exit_ok;
}

int run_client(const DaemonOptions& options, const std::string& log_level, const std::string& log_format) {
  auto config = read_site_config(options.directory.config());
  if (!config && config.error().code == Errc::not_found) {
    return fail(
        {Errc::not_found,
         fmt::format("there is no '{}': this directory has not joined a federation; run `trib-client join TOKEN "
                     "--data FILE --dir {}`",
                     options.directory.config().native(), options.directory.root.native())});
  }
  if (!config) return fail(config.error());
  if (!log_level.empty()) config->log_level = log_level;
  if (!log_format.empty()) config->log_format = log_format == "json" ? LogFormat::json : LogFormat::text;
  if (const Status logging = configure_logging("trib-client", config->log_level, config->log_format); !logging) {
    return fail(logging.error());
  }
  const Status ran = run_daemon(*config, options, system_clock());
  return ran ? exit_ok : fail(ran.error());
}

int report(const Result<std::string>& said) {
  if (!said) return fail(said.error());
  std::fputs(said->c_str(), stdout);
  return exit_ok;
}

int show_status(const SiteDirectory& directory, bool json) {
  return report(describe_site(directory, json));
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "The site's half of Tributary: trains on data that stays here, within a privacy budget that is set here.");
  app.set_version_flag("--version", TRIBUTARY_VERSION);
  app.require_subcommand(1);
  app.footer(footer);

  std::string directory = "tributary-site";
  const auto add_directory = [&](CLI::App& command) {
    command.add_option("--dir", directory, "The site's directory: key, ledger, outbox, client.toml")
        ->capture_default_str();
  };

  JoinRequest request;
  double delta = 0.0;
  CLI::App& join_command = *app.add_subcommand("join", "Join a federation with a token from its operator");
  join_command.footer(
      "Example:\n"
      "  trib-client join trib1.… --data messages.tsv --records 6000 --epsilon-cap 8 --models /srv/models\n\n"
      "The private key is made here and never leaves this machine. A token works once; after a failure the same "
      "command\n"
      "may be repeated.");
  join_command.add_option("token", request.token, "What `trib invite` printed")->required();
  join_command.add_option("--data", request.data, "The file with the site's records")->required();
  join_command.add_option("--records", request.records,
                          "How many records the file has, as a number that may be public: a round one is best");
  join_command.add_option("--epsilon-cap", request.epsilon_cap, "What all jobs together may spend on this data")
      ->capture_default_str();
  CLI::Option* delta_option = join_command.add_option(
      "--delta", delta, "Delta of the cap, below 1/records (1e-5, or less for large data sets)");
  join_command.add_option("--models", request.models, "Directories with base models");
  join_command.add_option("--data-set", request.data_set, "The data set's name, as jobs call it")
      ->capture_default_str();
  join_command.add_option("--device", request.device, "auto, cpu, cuda, cuda:N, or several GPUs: cuda:0,1, cuda:all")
      ->capture_default_str();
  join_command.add_flag("--allow-non-private", request.allow_non_private,
                        "Let jobs without differential privacy train on this data");
  add_directory(join_command);

  DaemonOptions options;
  std::int64_t drain_seconds = 60;
  std::string log_level, log_format;
  bool is_quiet = false;
  CLI::App& run_command = *app.add_subcommand("run", "Connect and take part until stopped (SIGTERM drains)");
  run_command.add_option("--drain-timeout", drain_seconds, "Seconds that a round may take to finish after SIGTERM")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{86'400}));
  run_command.add_option("--log-level", log_level, "trace, debug, info, warn, error (default: as client.toml says)");
  run_command.add_option("--log-format", log_format, "text or json (default: as client.toml says)")
      ->check(CLI::IsMember({"text", "json"}));
  run_command.add_flag("--quiet", is_quiet, "No progress on the screen; the log stays");
  add_directory(run_command);

  bool json = false;
  CLI::App& status_command = *app.add_subcommand("status", "Show budget, outbox and what the daemon last did");
  status_command.add_flag("--json", json, "One JSON object");
  add_directory(status_command);

  std::string data_set;
  std::int64_t records = 0;
  CLI::App& data_group = *app.add_subcommand("data", "The site's data sets, whose files the ledger remembers");
  data_group.require_subcommand(1);
  CLI::App& update_command = *data_group.add_subcommand(
      "update", "Say that a changed file is the next version of its data set; what was spent stays spent");
  update_command.footer(
      "A budget belongs to a data set by name, so a client does not train on a file that has changed since the ledger\n"
      "last saw it. Declare it here, with the client stopped, if it is the same data set grown or corrected. Other\n"
      "records deserve another name.\n\n"
      "Example:\n"
      "  trib-client data update default --records 8000");
  update_command.add_option("name", data_set, "The data set, as client.toml names it")->required();
  CLI::Option* records_option =
      update_command.add_option("--records", records, "Its new declared size, which client.toml is changed to")
          ->check(CLI::Range(std::int64_t{1}, std::int64_t{1'000'000'000'000}));
  add_directory(update_command);

  std::string reason, old_key;
  CLI::App& ledger_group = *app.add_subcommand("ledger", "The site's privacy ledger");
  ledger_group.require_subcommand(1);
  CLI::App& rekey_command =
      *ledger_group.add_subcommand("rekey", "Sign the ledger with the site's new key from here on");
  rekey_command.footer(
      "A site keeps its key when its certificate is renewed. Where key.pem was lost and the site enrolled anew, its\n"
      "ledger goes on under the new key once its owner has said so here.\n\n"
      "Example:\n"
      "  trib-client ledger rekey --reason \"key.pem was lost with the old disk\"");
  rekey_command.add_option("--reason", reason, "Why, for the record")->required();
  rekey_command.add_option("--old-key", old_key, "The old key.pem, to countersign the change");
  add_directory(rekey_command);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? exit_ok : exit_usage;
  }
  const SiteDirectory site_directory{directory};
  if (join_command.parsed()) {
    request.directory = site_directory;
    if (delta_option->count() > 0) request.delta = delta;
    return run_join(request);
  }
  if (run_command.parsed()) {
    options.directory = site_directory;
    options.drain_timeout = Milliseconds(drain_seconds * 1000);
    options.screen = is_quiet ? -1 : 1;
    return run_client(options, log_level, log_format);
  }
  if (update_command.parsed()) {
    const auto declared = records_option->count() > 0 ? std::optional(records) : std::nullopt;
    return report(update_data_set(site_directory, data_set, declared, system_clock()));
  }
  if (rekey_command.parsed()) return report(rekey_ledger(site_directory, reason, old_key, system_clock()));
  return show_status(site_directory, json);
}
