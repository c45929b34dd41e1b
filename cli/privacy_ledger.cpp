// `trib privacy {report, verify}`: what a ledger says has been spent, from its file alone.
#include <boost/json.hpp>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <map>

#include "cli/commands.h"
#include "cli/terminal.h"
#include "privacy/accountant.h"
#include "privacy/ledger.h"

namespace trib::cli {
namespace {

namespace json = boost::json;

// JSON has no infinity: an unbounded epsilon is null.
json::value number_or_null(double value) {
  return std::isfinite(value) ? json::value(value) : json::value(nullptr);
}

struct ReportOptions {
  std::string path;
  double delta = 1e-5;
  bool json = false;
};

// The ledger file itself, or that of a site's directory.
std::filesystem::path ledger_path(const std::string& path) {
  if (std::filesystem::is_directory(path)) return std::filesystem::path(path) / "ledger.jsonl";
  return path;
}

struct DataSetTotal {
  privacy::RdpCurve curve;
  std::int64_t charges = 0, steps = 0, declared_records = 0;
  bool non_private = false;
  std::map<std::string, std::int64_t> rounds_of_job;
};

Status run_report(const ReportOptions& options) {
  const auto path = ledger_path(options.path);
  TRIB_ASSIGN(const auto entries, privacy::read_ledger(path));
  std::map<std::string, DataSetTotal> totals;
  for (const auto& entry : entries) {
    auto& total = totals[entry.charge.data_set];
    total.curve.add(entry.charge.mechanism);
    total.non_private |= entry.charge.mechanism.kind == privacy::MechanismKind::none;
    total.charges += 1;
    total.steps += entry.charge.mechanism.steps;
    total.declared_records = entry.charge.declared_records;
    total.rounds_of_job[entry.charge.job] += 1;
  }
  if (options.json) {
    json::array sets;
    for (const auto& [name, total] : totals) {
      json::object jobs;
      for (const auto& [job, rounds] : total.rounds_of_job) jobs[job] = rounds;
      sets.push_back(json::object{{"data_set", name},
                                  {"private", !total.non_private},
                                  {"epsilon", number_or_null(total.curve.epsilon(options.delta))},
                                  {"delta", options.delta},
                                  {"charges", total.charges},
                                  {"steps", total.steps},
                                  {"declared_records", total.declared_records},
                                  {"rounds_of_job", std::move(jobs)}});
    }
    json::object out{
        {"ledger", path.string()}, {"entries", entries.size()}, {"verified", true}, {"data_sets", std::move(sets)}};
    if (!entries.empty()) out["head"] = to_hex(entries.back().hash);
    std::cout << json::serialize(out) << "\n";
    return {};
  }
  std::cout << bold("Privacy ledger") << " " << path.string() << ": " << entries.size()
            << " charges, every hash verified\n\n";
  Table table({{"data set"},
               {"job"},
               {"rounds", Align::right},
               {"steps", Align::right},
               {"epsilon", Align::right},
               {"at delta"}});
  char delta[32];
  std::snprintf(delta, sizeof delta, "%g", options.delta);
  for (const auto& [name, total] : totals) {
    for (const auto& [job, rounds] : total.rounds_of_job)
      table.add_row({name, job, std::to_string(rounds), "", "", ""});
    table.add_row({name, "all", std::to_string(total.charges), std::to_string(total.steps),
                   total.non_private ? "not private" : format_fixed(total.curve.epsilon(options.delta), 3), delta});
  }
  std::cout << table.to_string("  ");
  if (table.empty()) std::cout << "  nothing has been spent\n";
  return {};
}

Status run_verify(const ReportOptions& options) {
  const auto path = ledger_path(options.path);
  TRIB_ASSIGN(const auto entries, privacy::read_ledger(path));
  const std::string head = entries.empty() ? "" : to_hex(entries.back().hash);
  if (options.json) {
    json::object out{{"ledger", path.string()}, {"entries", entries.size()}, {"verified", true}};
    if (!entries.empty()) out["head"] = head;
    std::cout << json::serialize(out) << "\n";
  } else {
    std::cout << path.string() << ": " << entries.size() << " entries, every hash verified"
              << (entries.empty() ? "" : ", head " + head) << "\n";
  }
  return {};
}

}  // namespace

void add_privacy_ledger_commands(CLI::App& privacy, Exit& exit) {
  auto report = std::make_shared<ReportOptions>();
  CLI::App* report_command =
      privacy.add_subcommand("report",
                             "What a site's ledger says has been spent; verifies every entry first\n"
                             "Example: trib privacy report /var/lib/tributary/site");
  report_command->add_option("ledger", report->path, "A site's directory, or its ledger file")
      ->required()
      ->type_name("PATH");
  report_command->add_option("--delta", report->delta, "Delta at which epsilon is stated")
      ->check(CLI::Range(1e-15, 0.5))
      ->capture_default_str();
  report_command->add_flag("--json", report->json, "One JSON object on standard output");
  report_command->callback([report, &exit] { exit.report(run_report(*report)); });

  auto verify = std::make_shared<ReportOptions>();
  CLI::App* verify_command =
      privacy.add_subcommand("verify", "Recompute every hash of a ledger; exit code 1 names the first bad entry");
  verify_command->add_option("ledger", verify->path, "A site's directory, or its ledger file")
      ->required()
      ->type_name("PATH");
  verify_command->add_flag("--json", verify->json, "One JSON object on standard output");
  verify_command->callback([verify, &exit] { exit.report(run_verify(*verify)); });
}

}  // namespace trib::cli
