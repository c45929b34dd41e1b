#include "cli/commands.h"

namespace trib::cli {

void add_privacy_commands(CLI::App& app, Exit& exit) {
  CLI::App* group = app.add_subcommand("privacy", "What a job costs, and what a site has spent");
  group->require_subcommand(1);
  add_privacy_planning_commands(*group, exit);
  add_privacy_ledger_commands(*group, exit);
}

}  // namespace trib::cli
