#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/json.hpp>
#include <filesystem>
#include <iostream>

#include "cli/admin_client.h"
#include "cli/commands.h"
#include "cli/terminal.h"
#include "common/files.h"
#include "common/net/address.h"
#include "common/net/enrolment.h"
#include "server/config.h"
#include "server/init.h"

namespace trib::cli {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using tributary::proto::AdminRequest;

std::string dashboard_lines(const server::InitOptions& options) {
  const auto address = net::parse_host_port(options.http);
  if (!address) return "";
  const char* scheme = server::is_loopback(*address) ? "http://" : "https://";
  return "  the dashboard          " + (scheme + options.http) + "; sign in with `trib token create NAME --server " +
         options.directory.string() + "`\n";
}

Status run_init(server::InitOptions options) {
  if (options.http == "none") options.http.clear();
  TRIB_TRY(server::init_federation(options));
  const std::string directory = options.directory.string();
  std::cout << "made the federation \"" << options.federation << "\" in " << directory << "\n"
            << "  start the aggregator   trib-server --config " << directory << "/server.toml\n"
            << "  invite a site          trib invite SITE --server " << directory << "\n"
            << (options.http.empty() ? "" : dashboard_lines(options)) << "  base models go into    "
            << (options.model_directories.empty() ? directory + "/models" : options.model_directories.front().string())
            << "\n  keep a copy of         " << directory
            << "/ca (docs/deployment.md: whoever has the key can admit anyone)\n";
  return {};
}

struct InviteOptions {
  ServerOptions server;
  std::string site;
  std::uint32_t valid_minutes = 24 * 60;
  bool is_operator = false, json = false;
};

Status run_invite(const InviteOptions& options) {
  TRIB_ASSIGN(AdminClient client, AdminClient::connect(options.server));
  AdminRequest request;
  request.mutable_create_invite()->set_site(options.site);
  request.mutable_create_invite()->set_valid_minutes(options.valid_minutes);
  request.mutable_create_invite()->set_is_operator(options.is_operator);
  TRIB_ASSIGN(const json::value answer, client.request(request));
  if (options.json) {
    std::cout << json::serialize(answer) << "\n";
    return {};
  }
  const std::string token(answer.at("token").as_string());
  std::cout << token << "\n";
  if (options.is_operator) {
    std::cerr << "one use, until it expires; the operator runs: trib operator join TOKEN --dir DIR\n";
  } else {
    std::cerr << "one use, until it expires; the site runs: trib-client join TOKEN --data FILE --records N\n";
  }
  return {};
}

struct RevokeOptions {
  ServerOptions server;
  std::string site, reason;
  bool json = false;
};

Status run_revoke(const RevokeOptions& options) {
  TRIB_ASSIGN(AdminClient client, AdminClient::connect(options.server));
  AdminRequest request;
  request.mutable_revoke_site()->set_site(options.site);
  request.mutable_revoke_site()->set_reason(options.reason);
  TRIB_ASSIGN(const json::value answer, client.request(request));
  if (options.json) {
    std::cout << json::serialize(answer) << "\n";
  } else {
    std::cout << options.site << " is revoked: its session has ended and its certificate admits nobody any more\n";
  }
  return {};
}

struct SitesOptions {
  ServerOptions server;
  bool json = false;
};

Status run_sites(const SitesOptions& options) {
  TRIB_ASSIGN(AdminClient client, AdminClient::connect(options.server));
  AdminRequest request;
  request.mutable_list_sites();
  TRIB_ASSIGN(const json::value answer, client.request(request));
  if (options.json) {
    std::cout << json::serialize(answer) << "\n";
    return {};
  }
  Table table({{"site"}, {"role"}, {"state"}, {"certificate until"}, {"software"}, {"address"}});
  for (const auto& entry : answer.at("sites").as_array()) {
    const json::object& site = entry.as_object();
    const bool connected =
        site.contains("connected") && site.at("connected").is_bool() && site.at("connected").as_bool();
    const auto text = [&](const char* key) {
      const json::value* value = site.if_contains(key);
      return value && value->is_string() ? std::string(value->as_string()) : std::string();
    };
    const bool is_operator =
        site.contains("is_operator") && site.at("is_operator").is_bool() && site.at("is_operator").as_bool();
    std::string state = connected ? "connected" : "not connected";
    if (!text("revoked").empty()) state = "revoked";
    table.add_row({text("name"), is_operator ? "operator" : "site", state, text("certificate_until"),
                   text("software_version"), text("address")});
  }
  std::cout << (table.empty() ? "no sites yet: `trib invite SITE`\n" : table.to_string());
  return {};
}

struct OperatorJoinOptions {
  std::string token, directory;
};

// An operator's key and certificate, for `--server HOST:PORT --credentials DIR`.
Status run_operator_join(const OperatorJoinOptions& options) {
  TRIB_ASSIGN(const tributary::proto::Invite invite, net::parse_token(options.token));
  const fs::path directory = options.directory;
  TRIB_TRY(make_directories(directory, 0700));
  // The key is on disk before the request, so that a repeated try is the same operator.
  net::PrivateKey key = net::PrivateKey::generate();
  if (fs::exists(directory / "key.pem")) {
    TRIB_ASSIGN(const std::string pem, read_file(directory / "key.pem"));
    TRIB_ASSIGN(key, net::PrivateKey::from_pem(pem));
  } else {
    TRIB_TRY(write_file_durably(directory / "key.pem", key.to_pem(), 0600));
  }
  boost::asio::io_context context;
  std::optional<Result<net::Enrolment>> enrolment;
  boost::asio::co_spawn(
      context,
      [&]() -> boost::asio::awaitable<void> {
        enrolment.emplace(co_await net::enrol(context.get_executor(), invite, key, Milliseconds(15'000)));
      },
      [](std::exception_ptr error) {
        if (error) std::rethrow_exception(error);
      });
  context.run();
  TRIB_ASSIGN(const net::Enrolment joined, std::move(enrolment).value());
  TRIB_TRY(write_file_durably(directory / "ca.pem", joined.ca.to_pem()));
  TRIB_TRY(write_file_durably(directory / "certificate.pem", joined.certificate.to_pem()));
  std::cout << joined.site << " is an operator of " << joined.federation << ": trib job list --server "
            << (invite.addresses().empty() ? std::string("HOST:PORT") : invite.addresses(0)) << " --credentials "
            << directory.string() << "\n";
  return {};
}

}  // namespace

void add_federation_commands(CLI::App& app, Exit& exit) {
  auto init = std::make_shared<server::InitOptions>();
  CLI::App* init_command =
      app.add_subcommand("init",
                         "Make a federation: its CA, the aggregator's certificate and configuration\n"
                         "Example: trib init federation --name hospitals --host fl.example.org");
  init_command->add_option("directory", init->directory, "The aggregator's directory")
      ->default_val("federation")
      ->capture_default_str();
  init_command->add_option("--name", init->federation, "The federation's name")
      ->default_val("tributary")
      ->capture_default_str();
  init_command->add_option("--listen", init->listen, "Address and port that sites dial")->capture_default_str();
  init_command
      ->add_option("--host", init->host_names,
                   "Host name or IP address of the aggregator, as sites dial it; repeatable")
      ->required()
      ->type_name("NAME");
  init_command->add_option("--advertise", init->advertise, "HOST:PORT for tokens, where a port is forwarded")
      ->type_name("HOST:PORT");
  init->http = "127.0.0.1:7480";
  init_command
      ->add_option("--http", init->http,
                   "Address and port of the dashboard and the HTTP API, or none; with TLS unless it is a loopback one")
      ->capture_default_str();
  init_command->add_option("--models", init->model_directories, "Directory with base models; repeatable")
      ->type_name("DIR");
  init_command->add_option("--data", init->data_directory, "Directory with public test sets")->type_name("DIR");
  init_command->add_option("--device", init->device, "auto, cpu, cuda, cuda:N")->capture_default_str();
  init_command->callback([init, &exit] { exit.report(run_init(*init)); });

  auto invite = std::make_shared<InviteOptions>();
  CLI::App* invite_command = app.add_subcommand("invite", "Print a one-time token with which a site joins");
  invite_command->add_option("site", invite->site, "The site's name, as its certificate will say")->required();
  invite_command->add_option("--valid-minutes", invite->valid_minutes, "How long the token may be used")
      ->check(CLI::Range(1, 60 * 24 * 30))
      ->capture_default_str();
  invite_command->add_flag("--operator", invite->is_operator,
                           "Invite an operator instead: `trib` from another machine");
  invite_command->add_flag("--json", invite->json, "One JSON object on standard output");
  add_server_options(*invite_command, invite->server);
  invite_command->callback([invite, &exit] { exit.report(run_invite(*invite)); });

  auto revoke = std::make_shared<RevokeOptions>();
  CLI::App* revoke_command = app.add_subcommand("revoke", "Shut a site out, live sessions included");
  revoke_command->add_option("site", revoke->site, "The site's name")->required();
  revoke_command->add_option("--reason", revoke->reason, "For the record, and for the site");
  revoke_command->add_flag("--json", revoke->json, "One JSON object on standard output");
  add_server_options(*revoke_command, revoke->server);
  revoke_command->callback([revoke, &exit] { exit.report(run_revoke(*revoke)); });

  auto sites = std::make_shared<SitesOptions>();
  CLI::App* sites_command = app.add_subcommand("sites", "Who belongs to the federation, and who is connected");
  sites_command->add_flag("--json", sites->json, "One JSON object on standard output");
  add_server_options(*sites_command, sites->server);
  sites_command->callback([sites, &exit] { exit.report(run_sites(*sites)); });

  CLI::App* operator_group = app.add_subcommand("operator", "Operate an aggregator from another machine");
  operator_group->require_subcommand(1);
  auto join = std::make_shared<OperatorJoinOptions>();
  CLI::App* join_command = operator_group->add_subcommand("join", "Redeem a token of `trib invite NAME --operator`");
  join_command->add_option("token", join->token, "The token")->required();
  join_command->add_option("--dir", join->directory, "Where the key and the certificate go")
      ->required()
      ->type_name("DIR");
  join_command->callback([join, &exit] { exit.report(run_operator_join(*join)); });
}

}  // namespace trib::cli
