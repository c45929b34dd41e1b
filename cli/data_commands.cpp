// `trib data split`: a job's training data dealt out to sites, as `trib demo` and `trib simulate` deal it, for
// federations of real daemons that somebody else starts (containers, virtual machines).
#include <spdlog/fmt/fmt.h>

#include <boost/json.hpp>
#include <filesystem>
#include <iostream>

#include "cli/commands.h"
#include "cli/terminal.h"
#include "common/files.h"
#include "common/random.h"
#include "tasks/task.h"

namespace trib::cli {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

struct SplitOptions {
  std::string job, directory;
  std::vector<std::string> overrides;
  std::int64_t sites = 0;  // 0: as the job says
  bool json = false;
};

Status run_split(const SplitOptions& options) {
  TRIB_ASSIGN(const tasks::JobSpec spec, tasks::read_job_file(options.job, options.overrides));
  TRIB_ASSIGN(const tasks::TaskDefinition* task, tasks::find_task(spec.task));
  const fs::path directory = options.directory;
  std::error_code error;
  if (fs::exists(directory, error) && !fs::is_empty(directory, error)) {
    return Error{Errc::already_exists,
                 fmt::format("'{}' is not empty: shares of an earlier split would lie beside these; name another "
                             "directory with --out",
                             directory.string())};
  }
  TRIB_TRY(make_directories(directory));
  ChaCha20Random random(RandomKey::from_seed(spec.seed));
  TRIB_ASSIGN(const auto shares,
              task->split_data(spec, fs::absolute(fs::path(options.job)).parent_path(),
                               options.sites > 0 ? options.sites : spec.simulated_sites, random, directory));
  if (options.json) {
    json::array list;
    for (const auto& share : shares) list.push_back({{"file", share.file.string()}, {"records", share.records}});
    std::cout << json::serialize(json::object{{"data_set", spec.data_set}, {"shares", std::move(list)}}) << "\n";
    return {};
  }
  Table table({{"file"}, {"records", Align::right}});
  for (const auto& share : shares) table.add_row({share.file.string(), std::to_string(share.records)});
  std::cout << table.to_string();
  return {};
}

}  // namespace

void add_data_commands(CLI::App& app, Exit& exit) {
  CLI::App* group = app.add_subcommand("data", "Data files for trying things out");
  group->require_subcommand(1);
  auto split = std::make_shared<SplitOptions>();
  CLI::App* command = group->add_subcommand(
      "split",
      "Deal a job's simulate.train out to sites with different mixtures of labels, one file each\n"
      "Example: trib data split experiments/demo/clinc.toml --sites 8 --out shares");
  command->add_option("job", split->job, "Job file with a [simulate] section")->required()->type_name("FILE");
  command->add_option("--sites", split->sites, "Number of shares [simulate.sites of the job]")
      ->check(CLI::Range(1, 100'000));
  command->add_option("--out", split->directory, "New directory for the files")->required()->type_name("DIR");
  command->add_option("--set", split->overrides, "Override a key of the job file")->type_name("SECTION.KEY=VALUE");
  command->add_flag("--json", split->json, "One JSON object on standard output");
  command->callback([split, &exit] { exit.report(run_split(*split)); });
}

}  // namespace trib::cli
