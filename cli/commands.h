// The commands of `trib`, one function a group. Each adds its subcommands to the parser; what they do runs from the
// parser's callbacks and leaves the process's exit code in `Exit`.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "common/result.h"

namespace trib::cli {

// Exit codes, as `trib --help` lists them.
enum ExitCode : int {
  exit_ok = 0,
  exit_failure = 1,      // it was tried and failed
  exit_usage = 2,        // bad arguments, a bad job file or configuration: nothing was started
  exit_unavailable = 3,  // the aggregator cannot be reached
  exit_refused = 4,      // a budget, a policy or a missing right refused it
  exit_interrupted = 130,
};

ExitCode exit_code_for(Errc code);

class Exit {
 public:
  int code() const { return code_; }
  void set(int code) { code_ = code; }
  // Prints the error to stderr and sets the code; does nothing on success.
  void report(const Status& status);

 private:
  int code_ = exit_ok;
};

// What a command that talks to the aggregator is told: `--server` and `--credentials`.
struct ServerOptions {
  std::string server;       // the aggregator's directory, its socket, or host:port
  std::string credentials;  // directory with an operator's certificate, for host:port
};
void add_server_options(CLI::App& command, ServerOptions& options);

void add_demo_command(CLI::App& app, Exit& exit);
void add_federation_commands(CLI::App& app, Exit& exit);  // init, invite, revoke, sites, operator
void add_token_commands(CLI::App& app, Exit& exit);       // token {create, list, revoke}
void add_job_commands(CLI::App& app, Exit& exit);         // job {submit, list, show, watch, cancel}
void add_simulate_command(CLI::App& app, Exit& exit);
void add_bench_commands(CLI::App& app, Exit& exit);                 // bench {…}: what tasks measure
void add_privacy_commands(CLI::App& app, Exit& exit);               // privacy {…}, whose parts are, with its parser:
void add_privacy_planning_commands(CLI::App& privacy, Exit& exit);  // privacy {plan, epsilon, sigma}
void add_privacy_ledger_commands(CLI::App& privacy, Exit& exit);    // privacy {report, statement, verify, export}
void add_privacy_audit_command(CLI::App& privacy, Exit& exit);      // privacy {audit}
void add_model_commands(CLI::App& app, Exit& exit);                 // model {export, evaluate, predict}
void add_status_command(CLI::App& app, Exit& exit);
void add_doctor_command(CLI::App& app, Exit& exit);
void add_data_commands(CLI::App& app, Exit& exit);  // data {split}
void add_completion_command(CLI::App& app);

}  // namespace trib::cli
