// `trib status`: the federation, its sites, budgets and running jobs on one screen.
#include <boost/json.hpp>
#include <iostream>
#include <memory>

#include "cli/admin_client.h"
#include "cli/commands.h"
#include "cli/job_view.h"
#include "cli/status_view.h"
#include "cli/terminal.h"

namespace trib::cli {
namespace {

namespace json = boost::json;
using tributary::proto::AdminRequest;

struct StatusOptions {
  ServerOptions server;
  bool json = false;
};

Result<json::object> read_status(AdminClient& client) {
  const auto ask = [&](auto prepare) {
    AdminRequest request;
    prepare(request);
    return client.request(request);
  };
  json::object document;
  TRIB_ASSIGN(document["federation"], ask([](AdminRequest& request) { request.mutable_server_status(); }));
  TRIB_ASSIGN(document["sites"], ask([](AdminRequest& request) { request.mutable_list_sites(); }));
  TRIB_ASSIGN(document["privacy"], ask([](AdminRequest& request) { request.mutable_privacy_report(); }));
  TRIB_ASSIGN(const json::value jobs, ask([](AdminRequest& request) { request.mutable_list_jobs(); }));
  json::array running;
  for (const json::value& job : jobs.at("jobs").as_array()) {
    if (job.at("ended").is_string()) continue;
    const std::string id(job.at("id").as_string());
    TRIB_ASSIGN(json::value report, ask([&](AdminRequest& request) { request.mutable_show_job()->set_job_id(id); }));
    running.push_back(std::move(report));
  }
  document["jobs"] = std::move(running);
  return document;
}

Status run_status(const StatusOptions& options) {
  TRIB_ASSIGN(AdminClient client, AdminClient::connect(options.server));
  TRIB_ASSIGN(const json::object document, read_status(client));
  if (options.json) {
    std::cout << json::serialize(document) << "\n";
  } else {
    std::cout << render_status(document, terminal_width(stdout));
  }
  return {};
}

}  // namespace

void add_status_command(CLI::App& app, Exit& exit) {
  auto options = std::make_shared<StatusOptions>();
  CLI::App* command = app.add_subcommand(
      "status", "The federation on one screen: sites, who is waited for, privacy budgets, running jobs");
  add_server_options(*command, options->server);
  command->add_flag("--json", options->json, "One JSON object on standard output");
  command->callback([options, &exit] { exit.report(run_status(*options)); });
}

}  // namespace trib::cli
