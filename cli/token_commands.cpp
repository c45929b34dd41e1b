// `trib token`: who may use the dashboard and the HTTP API.
#include <boost/json.hpp>
#include <iostream>

#include "cli/admin_client.h"
#include "cli/commands.h"
#include "cli/job_view.h"
#include "cli/terminal.h"

namespace trib::cli {
namespace {

namespace json = boost::json;
using tributary::proto::AdminRequest;

struct TokenOptions {
  ServerOptions server;
  std::string name, role = "viewer";
  bool json = false;
};

Status run_create(const TokenOptions& options) {
  TRIB_ASSIGN(AdminClient client, AdminClient::connect(options.server));
  AdminRequest request;
  request.mutable_create_token()->set_name(options.name);
  request.mutable_create_token()->set_role(options.role);
  TRIB_ASSIGN(const json::value answer, client.request(request));
  if (options.json) {
    std::cout << json::serialize(answer) << "\n";
    return {};
  }
  std::cout << std::string(answer.at("token").as_string()) << "\n";
  std::cerr << "shown this once, and kept nowhere: whoever has it is "
            << (options.role == "operator" ? "an operator" : "a viewer")
            << ". Sign in to the dashboard with it, or send it as `Authorization: Bearer TOKEN`; `trib token revoke "
            << options.name << "` ends it\n";
  return {};
}

Status run_list(const TokenOptions& options) {
  TRIB_ASSIGN(AdminClient client, AdminClient::connect(options.server));
  AdminRequest request;
  request.mutable_list_tokens();
  TRIB_ASSIGN(const json::value answer, client.request(request));
  if (options.json) {
    std::cout << json::serialize(answer) << "\n";
    return {};
  }
  Table table({{"token"}, {"role"}, {"made"}, {"last used"}, {"revoked"}});
  for (const auto& entry : answer.at("tokens").as_array()) {
    const json::object& token = entry.as_object();
    const std::string last_used = text_of(token, "last_used"), revoked = text_of(token, "revoked");
    table.add_row({text_of(token, "name"), text_of(token, "role"), text_of(token, "created"),
                   last_used.empty() ? "never" : last_used, revoked});
  }
  std::cout << (table.empty() ? "no tokens yet: `trib token create NAME`\n" : table.to_string());
  return {};
}

Status run_revoke(const TokenOptions& options) {
  TRIB_ASSIGN(AdminClient client, AdminClient::connect(options.server));
  AdminRequest request;
  request.mutable_revoke_token()->set_name(options.name);
  TRIB_ASSIGN(const json::value answer, client.request(request));
  if (options.json) {
    std::cout << json::serialize(answer) << "\n";
  } else {
    std::cout << options.name << " is revoked: it opens nothing any more, and browsers signed in with it are out\n";
  }
  return {};
}

}  // namespace

void add_token_commands(CLI::App& app, Exit& exit) {
  CLI::App* group = app.add_subcommand("token", "Who may use the dashboard and the HTTP API");
  group->require_subcommand(1);
  const auto add = [&](const char* name, const char* description, Status (*run)(const TokenOptions&), bool is_named) {
    auto options = std::make_shared<TokenOptions>();
    CLI::App* command = group->add_subcommand(name, description);
    if (is_named) command->add_option("name", options->name, "Whose it is, or what for")->required();
    if (run == run_create)
      command->add_option("--role", options->role, "viewer reads; operator submits, cancels, invites and revokes too")
          ->check(CLI::IsMember({"viewer", "operator"}))
          ->capture_default_str();
    command->add_flag("--json", options->json, "One JSON object on standard output");
    add_server_options(*command, options->server);
    command->callback([options, run, &exit] { exit.report(run(*options)); });
  };
  add("create", "Make a token, and print it: it is shown this once\nExample: trib token create officer", run_create,
      true);
  add("list", "All tokens, with when each was last used", run_list, false);
  add("revoke", "End a token, and every browser session opened with it", run_revoke, true);
}

}  // namespace trib::cli
