#include <boost/json.hpp>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <map>

#include "cli/commands.h"
#include "cli/terminal.h"
#include "privacy/accountant.h"
#include "privacy/ledger.h"
#include "privacy/plan.h"
#include "tasks/task.h"

namespace trib::cli {
namespace {

namespace json = boost::json;

// JSON has no infinity: an unbounded epsilon is null.
json::value number_or_null(double value) {
  return std::isfinite(value) ? json::value(value) : json::value(nullptr);
}

struct PlanOptions {
  std::string job;
  std::vector<std::string> overrides;
  std::int64_t records = 0;
  bool json = false;
};

Status run_plan(const PlanOptions& options) {
  TRIB_ASSIGN(const tasks::JobSpec spec, tasks::read_job_file(options.job, options.overrides));
  TRIB_ASSIGN(const tasks::TaskDefinition* task, tasks::find_task(spec.task));
  if (!spec.privacy.enabled) {
    return Error{Errc::invalid_argument,
                 options.job + " is not private (privacy.enabled = false): there is nothing to plan"};
  }
  TRIB_ASSIGN(const privacy::Mechanism round, task->round_mechanism(spec, options.records));
  const std::int64_t rounds = spec.max_participations();
  const auto epsilon_after = [&](std::int64_t count) {
    return privacy::epsilon_after_rounds(round, count, spec.privacy.delta);
  };

  if (options.json) {
    json::array after;
    for (std::int64_t r = 1; r <= rounds; ++r) after.push_back(epsilon_after(r));
    json::object out{{"job", spec.name},
                     {"records", options.records},
                     {"unit", "one record, add or remove"},
                     {"accountant", "rdp"},
                     {"target_epsilon", spec.privacy.epsilon},
                     {"delta", spec.privacy.delta},
                     {"sample_rate", round.sample_rate},
                     {"noise_multiplier", round.noise_multiplier},
                     {"clip_norm", round.clip_norm},
                     {"steps_per_round", round.steps},
                     {"rounds", rounds},
                     {"epsilon_after_round", std::move(after)}};
    std::cout << json::serialize(out) << "\n";
    return {};
  }

  std::cout << bold(spec.name) << " at a site that declares " << options.records << " records\n\n"
            << "  unit              one record, added or removed (RDP accountant)\n"
            << "  target            epsilon " << format_fixed(spec.privacy.epsilon, 2) << " at delta "
            << spec.privacy.delta << " over " << rounds << " rounds of " << round.steps << " steps\n"
            << "  sample rate       " << round.sample_rate << "\n"
            << "  noise multiplier  " << format_fixed(round.noise_multiplier, 4) << " (clip norm " << round.clip_norm
            << ")\n\n";
  Table table({{"rounds", Align::right}, {"epsilon", Align::right}, {"of target", Align::left}});
  for (int tenth = 1; tenth <= 10; ++tenth) {
    const std::int64_t count = std::max<std::int64_t>(1, rounds * tenth / 10);
    if (tenth > 1 && count == std::max<std::int64_t>(1, rounds * (tenth - 1) / 10)) continue;
    const double epsilon = epsilon_after(count);
    table.add_row({std::to_string(count), format_fixed(epsilon, 3), bar(epsilon / spec.privacy.epsilon, 40)});
  }
  std::cout << table.to_string("  ");
  return {};
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

void add_privacy_commands(CLI::App& app, Exit& exit) {
  CLI::App* group = app.add_subcommand("privacy", "What a job costs, and what a site has spent");
  group->require_subcommand(1);

  auto plan = std::make_shared<PlanOptions>();
  CLI::App* plan_command =
      group->add_subcommand("plan",
                            "What a job would cost a site: noise, and epsilon after each round\n"
                            "Example: trib privacy plan experiments/fedsvd/quick.toml --records 5000");
  plan_command->add_option("job", plan->job, "Job file")->required()->type_name("FILE");
  plan_command->add_option("--records", plan->records, "The site's declared number of records")
      ->required()
      ->check(CLI::Validator(
          [](const std::string& text) {
            std::int64_t records = 0;
            return CLI::detail::lexical_cast(text, records) && records >= 1
                       ? std::string()
                       : "must be a whole number, at least 1, and not " + text;
          },
          ""));
  plan_command->add_option("--set", plan->overrides, "Override a key of the job file")->type_name("SECTION.KEY=VALUE");
  plan_command->add_flag("--json", plan->json, "One JSON object on standard output");
  plan_command->callback([plan, &exit] { exit.report(run_plan(*plan)); });

  auto report = std::make_shared<ReportOptions>();
  CLI::App* report_command =
      group->add_subcommand("report",
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
      group->add_subcommand("verify", "Recompute every hash of a ledger; exit code 1 names the first bad entry");
  verify_command->add_option("ledger", verify->path, "A site's directory, or its ledger file")
      ->required()
      ->type_name("PATH");
  verify_command->add_flag("--json", verify->json, "One JSON object on standard output");
  verify_command->callback([verify, &exit] { exit.report(run_verify(*verify)); });
}

}  // namespace trib::cli
