// trib-server: the aggregator daemon.
#include <CLI/CLI.hpp>
#include <iostream>

#include "common/files.h"
#include "common/log.h"
#include "server/daemon.h"

namespace {

using namespace trib;

constexpr const char* description =
    R"(The aggregator of a federation: admits sites, runs jobs, keeps their state.

First make a federation, then start its aggregator, then invite the sites:
  trib init federation --name hospitals --host fl.example.org
  trib-server --config federation/server.toml
  trib invite clinic-7 --server federation

The dashboard and the HTTP API are at http.listen of server.toml. Who may use them has a token:
  trib token create officer --role viewer --server federation

Stopping: SIGTERM (or Ctrl-C) drains: no new rounds, uploads that are under way finish, the sites are told. Killing it
at any moment loses no committed round: started again, it goes on by itself.
)";

constexpr const char* footer =
    R"(
Exit codes:
  0  stopped by a signal
  1  it could not go on
  2  bad arguments or configuration: nothing was started
  3  the directory or the port is taken by another process
)";

struct Options {
  std::string config = "federation/server.toml";
  std::string port_file, http_port_file, log_level, log_format;
};

int exit_code_for(Errc code) {
  switch (code) {
    case Errc::invalid_argument:
    case Errc::not_found:
    case Errc::unsupported:
      return 2;
    case Errc::unavailable:
      return 3;
    default:
      return 1;
  }
}

Status run(const Options& options) {
  TRIB_ASSIGN(server::ServerConfig config, server::read_server_config(options.config));
  if (!options.log_level.empty()) config.log_level = options.log_level;
  if (!options.log_format.empty()) config.log_format = options.log_format == "json" ? LogFormat::json : LogFormat::text;
  TRIB_TRY(configure_logging("trib-server", config.log_level, config.log_format));
  const server::ServerDirectory directory{std::filesystem::absolute(options.config).parent_path()};
  TRIB_ASSIGN(const auto daemon, server::Daemon::start(directory, config));
  if (!options.port_file.empty())
    TRIB_TRY(write_file_durably(options.port_file, std::to_string(daemon->port()) + "\n"));
  if (!options.http_port_file.empty()) {
    if (!daemon->http_port())
      return Error{Errc::invalid_argument, "--http-port-file: " + options.config + " has no http.listen"};
    TRIB_TRY(write_file_durably(options.http_port_file, std::to_string(*daemon->http_port()) + "\n"));
  }
  if (daemon->http_port())
    spdlog::info("the dashboard and the HTTP API are at {}; `trib token create NAME` lets somebody in",
                 daemon->http_url());
  spdlog::info("ready: federation '{}', port {}, operators at {}", config.federation, daemon->port(),
               directory.admin_socket().string());
  daemon->run();
  spdlog::info("stopped");
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app(description, "trib-server");
  app.footer(footer);
  app.set_version_flag("--version", TRIBUTARY_VERSION);
  app.add_option("--config", options.config, "The aggregator's server.toml; everything else is beside it")
      ->capture_default_str()
      ->type_name("FILE");
  app.add_option("--port-file", options.port_file, "Write the port listened on to this file, once ready")
      ->type_name("FILE");
  app.add_option("--http-port-file", options.http_port_file, "The same for the port of the HTTP API")
      ->type_name("FILE");
  app.add_option("--log-level", options.log_level, "Overrides log.level")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error"}));
  app.add_option("--log-format", options.log_format, "Overrides log.format")->check(CLI::IsMember({"text", "json"}));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const Status status = run(options);
  if (status) return 0;
  std::cerr << "trib-server: " << status.error().message << "\n";
  return exit_code_for(status.error().code);
}
