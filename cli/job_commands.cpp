#include <boost/json.hpp>
#include <fstream>
#include <iostream>

#include "cli/admin_client.h"
#include "cli/commands.h"
#include "cli/job_view.h"
#include "cli/terminal.h"
#include "server/job_report.h"
#include "tasks/job.h"

namespace trib::cli {
namespace {

namespace json = boost::json;
using tributary::proto::AdminRequest;

struct JobOptions {
  ServerOptions server;
  std::string job;
  std::vector<std::string> overrides;
  std::string reason;
  bool json = false;
  bool watch = false;
};

Result<json::array> list_jobs(AdminClient& client) {
  AdminRequest request;
  request.mutable_list_jobs();
  TRIB_ASSIGN(const json::value answer, client.request(request));
  return answer.at("jobs").as_array();
}

// The job that was named, or the newest.
Result<std::string> resolve_job(AdminClient& client, const std::string& name) {
  if (!name.empty()) return name;
  TRIB_ASSIGN(const json::array jobs, list_jobs(client));
  if (jobs.empty()) return Error{Errc::not_found, "there is no job yet: submit one with `trib job submit JOB`"};
  return std::string(jobs.back().at("id").as_string());
}

Status watch_job(AdminClient& client, const std::string& job, bool as_json) {
  AdminRequest request;
  request.mutable_watch_job()->set_job_id(job);
  LiveBlock block(stderr);
  json::value last;
  JobProgressLog log;
  TRIB_TRY(client.watch(request, [&](const json::value& document) {
    last = document;
    if (as_json) {
      std::cout << json::serialize(document) << std::endl;
    } else {
      for (const auto& line : log.new_lines(document)) block.log(line);
      block.update(job_lines(document));
    }
    return true;
  }));
  block.finish();
  if (!as_json && last.is_object()) {
    TRIB_ASSIGN(const std::string text, server::render_job_report(json::serialize(last)));
    std::cout << "\n" << text;
  }
  return {};
}

Status run_submit(const JobOptions& options) {
  TRIB_ASSIGN(const tasks::JobSpec spec, tasks::read_job_file(options.job, options.overrides));
  TRIB_ASSIGN(AdminClient client, AdminClient::connect(options.server));
  AdminRequest request;
  request.mutable_submit_job()->set_job_file(spec.file_text);
  request.mutable_submit_job()->set_job_file_name(options.job);
  TRIB_ASSIGN(const json::value answer, client.request(request));
  const std::string id(answer.at("id").as_string());
  if (options.watch) return watch_job(client, id, options.json);
  std::cout << (options.json ? json::serialize(answer) : id) << "\n";
  return {};
}

Status run_list(const JobOptions& options) {
  TRIB_ASSIGN(AdminClient client, AdminClient::connect(options.server));
  TRIB_ASSIGN(const json::array jobs, list_jobs(client));
  if (options.json) {
    std::cout << json::serialize(json::object{{"jobs", jobs}}) << "\n";
    return {};
  }
  Table table({{"job"}, {"state"}, {"rounds", Align::right}, {"accuracy", Align::right}, {"privacy"}, {"submitted"}});
  for (const auto& job : jobs) {
    const json::object& object = job.as_object();
    table.add_row(
        {text_of(object, "id"), text_of(object, "state"),
         std::to_string(integer_of(object, "rounds_done")) + "/" + std::to_string(integer_of(object, "rounds_total")),
         accuracy_text(object), text_of(object, "privacy"), text_of(object, "submitted")});
  }
  std::cout << (table.empty() ? "no jobs yet: `trib job submit JOB`\n" : table.to_string());
  return {};
}

Status run_show(const JobOptions& options) {
  TRIB_ASSIGN(AdminClient client, AdminClient::connect(options.server));
  TRIB_ASSIGN(const std::string job, resolve_job(client, options.job));
  AdminRequest request;
  request.mutable_show_job()->set_job_id(job);
  TRIB_ASSIGN(const json::value document, client.request(request));
  if (options.json) {
    std::cout << json::serialize(document) << "\n";
    return {};
  }
  TRIB_ASSIGN(const std::string text, server::render_job_report(json::serialize(document)));
  std::cout << text;
  return {};
}

Status run_watch(const JobOptions& options) {
  TRIB_ASSIGN(AdminClient client, AdminClient::connect(options.server));
  TRIB_ASSIGN(const std::string job, resolve_job(client, options.job));
  return watch_job(client, job, options.json);
}

Status run_cancel(const JobOptions& options) {
  TRIB_ASSIGN(AdminClient client, AdminClient::connect(options.server));
  AdminRequest request;
  request.mutable_cancel_job()->set_job_id(options.job);
  request.mutable_cancel_job()->set_reason(options.reason);
  TRIB_ASSIGN(const json::value answer, client.request(request));
  if (options.json) std::cout << json::serialize(answer) << "\n";
  return {};
}

}  // namespace

void add_server_options(CLI::App& command, ServerOptions& options) {
  command
      .add_option("--server", options.server,
                  "The aggregator: its directory or socket, or HOST:PORT [$TRIBUTARY_SERVER, ./federation]")
      ->type_name("WHERE");
  command.add_option("--credentials", options.credentials, "Directory with an operator's certificate, for HOST:PORT")
      ->type_name("DIR");
}

void add_job_commands(CLI::App& app, Exit& exit) {
  CLI::App* group = app.add_subcommand("job", "Submit jobs and follow them");
  group->require_subcommand(1);
  const auto add = [&](const char* name, const char* help, Status (*run)(const JobOptions&)) {
    auto options = std::make_shared<JobOptions>();
    CLI::App* command = group->add_subcommand(name, help);
    add_server_options(*command, options->server);
    command->add_flag("--json", options->json, "JSON on standard output");
    command->callback([options, run, &exit] { exit.report(run(*options)); });
    return std::pair(command, options);
  };

  auto [submit, submit_options] = add("submit",
                                      "Check a job file and start the job; prints its id\n"
                                      "Example: trib job submit job.toml --set privacy.epsilon=4 --watch",
                                      &run_submit);
  submit->add_option("job", submit_options->job, "Job file (docs/job-file.md)")->required()->type_name("FILE");
  submit->add_option("--set", submit_options->overrides, "Override a key of the job file")
      ->type_name("SECTION.KEY=VALUE");
  submit->add_flag("--watch", submit_options->watch, "Follow the job until it ends");

  add("list", "All jobs, oldest first", &run_list);

  auto [show, show_options] =
      add("show", "Everything there is to say about a job: rounds, sites, who is waited for", &run_show);
  show->add_option("job", show_options->job, "Job id (default: the newest)")->type_name("ID");

  auto [watch, watch_options] = add("watch", "Follow a job until it ends", &run_watch);
  watch->add_option("job", watch_options->job, "Job id (default: the newest)")->type_name("ID");

  auto [cancel, cancel_options] = add("cancel", "Stop a job; its last committed model stays", &run_cancel);
  cancel->add_option("job", cancel_options->job, "Job id")->required()->type_name("ID");
  cancel->add_option("--reason", cancel_options->reason, "For the sites and the record");
}

}  // namespace trib::cli
