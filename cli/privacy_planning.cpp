// `trib privacy plan`: what a job would cost a site, from public values alone.
#include <boost/json.hpp>
#include <iostream>

#include "cli/commands.h"
#include "cli/terminal.h"
#include "privacy/plan.h"
#include "tasks/task.h"

namespace trib::cli {
namespace {

namespace json = boost::json;

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

}  // namespace

void add_privacy_planning_commands(CLI::App& privacy, Exit& exit) {
  auto plan = std::make_shared<PlanOptions>();
  CLI::App* plan_command =
      privacy.add_subcommand("plan",
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
}

}  // namespace trib::cli
