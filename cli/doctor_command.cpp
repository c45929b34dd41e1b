// `trib doctor`: checks a site's or an aggregator's machine and says what to do.
#include <algorithm>
#include <boost/json.hpp>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>

#include "cli/commands.h"
#include "cli/doctor.h"
#include "cli/terminal.h"

namespace trib::cli {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

struct Options {
  std::string site, server;
  bool json = false;
};

struct Machine {
  std::string role;  // "site", "aggregator"
  fs::path directory;
  std::vector<Check> checks;
};

// What is named, or what lies where the other commands look.
Result<std::vector<Machine>> choose(const Options& options) {
  std::vector<Machine> machines;
  std::string site = options.site, server = options.server;
  std::error_code error;
  if (site.empty() && server.empty()) {
    const char* environment = std::getenv("TRIBUTARY_SERVER");
    const fs::path usual_server = environment != nullptr && *environment != '\0' ? environment : "federation";
    if (fs::exists(usual_server / "server.toml", error)) server = usual_server.string();
    if (fs::exists(fs::path("tributary-site") / "client.toml", error)) site = "tributary-site";
    if (site.empty() && server.empty())
      return Error{Errc::not_found,
                   "there is neither ./federation nor ./tributary-site: name a directory with --server DIR "
                   "or --site DIR"};
  }
  if (!server.empty()) machines.push_back({"aggregator", server, examine_server(server)});
  if (!site.empty()) machines.push_back({"site", site, examine_site(site)});
  return machines;
}

void print(const Machine& machine) {
  std::cout << bold(machine.role) << " in " << machine.directory.string() << "\n";
  std::size_t width = 0;
  for (const Check& check : machine.checks) width = std::max(width, check.name.size());
  for (const Check& check : machine.checks) {
    const std::string mark = check.health == Health::ok     ? "  ok    "
                             : check.health == Health::warn ? "  WARN  "
                                                            : "  FAIL  ";
    std::cout << mark << check.name << std::string(width - check.name.size() + 2, ' ') << check.found << "\n";
    if (!check.remedy.empty()) std::cout << std::string(width + 10, ' ') << "-> " << check.remedy << "\n";
  }
}

void run(const Options& options, Exit& exit) {
  const auto machines = choose(options);
  if (!machines) return exit.report(machines.error());
  json::array documents;
  int failed = 0, warned = 0;
  for (const Machine& machine : *machines) {
    json::array checks;
    for (const Check& check : machine.checks) {
      failed += check.health == Health::fail ? 1 : 0;
      warned += check.health == Health::warn ? 1 : 0;
      checks.push_back(
          json::object{{"check", check.name},
                       {"result", to_string(check.health)},
                       {"found", check.found},
                       {"remedy", check.remedy.empty() ? json::value(nullptr) : json::value(check.remedy)}});
    }
    documents.push_back(
        json::object{{"role", machine.role}, {"directory", machine.directory.string()}, {"checks", std::move(checks)}});
    if (!options.json) print(machine);
  }
  if (options.json) {
    std::cout << json::serialize(
                     json::object{{"machines", std::move(documents)}, {"failed", failed}, {"warned", warned}})
              << "\n";
  } else {
    std::cout << (failed == 0 && warned == 0
                      ? "all is well"
                      : std::to_string(failed) + " failed, " + std::to_string(warned) + " warnings")
              << "\n";
  }
  if (failed > 0) exit.set(exit_failure);
}

}  // namespace

void add_doctor_command(CLI::App& app, Exit& exit) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "doctor",
      "Check a machine: configuration, disk, clock, certificates, ledger, data files, device, ports; changes nothing\n"
      "Exit code 1 if a check fails. Example: trib doctor --site /var/lib/tributary/site");
  command->add_option("--site", options->site, "A site's directory (default: ./tributary-site, if it is there)")
      ->type_name("DIR");
  command
      ->add_option("--server", options->server,
                   "An aggregator's directory (default: $TRIBUTARY_SERVER or ./federation, if it is there)")
      ->type_name("DIR");
  command->add_flag("--json", options->json, "One JSON object on standard output");
  command->callback([options, &exit] { run(*options, exit); });
}

}  // namespace trib::cli
