#include "cli/commands.h"

namespace trib::cli {

void add_privacy_commands(CLI::App& app, Exit& exit) {
  CLI::App* group = app.add_subcommand("privacy", "What a job costs, what a site has spent, and what an attack finds");
  group->require_subcommand(1);
  add_privacy_planning_commands(*group, exit);
  add_privacy_ledger_commands(*group, exit);
  add_privacy_audit_command(*group, exit);
}

}  // namespace trib::cli
