// A new federation: its CA, the aggregator's certificate and configuration. What `trib init` does.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/result.h"

namespace trib::server {

struct InitOptions {
  std::filesystem::path directory;
  std::string federation;  // 1 to 64 bytes
  std::string listen = "0.0.0.0:7443";
  // What sites dial: in the aggregator's certificate and, with the port of `listen`, in every token. At least one.
  std::vector<std::string> host_names;
  // "host:port" for tokens where that is not what sites dial (a port that is forwarded, say).
  std::vector<std::string> advertise;
  // "host:port" of the dashboard and the HTTP API; empty: none. With TLS where it is not a loopback address.
  std::string http;
  std::vector<std::filesystem::path> model_directories;  // default: models/ in the directory
  std::filesystem::path data_directory;                  // default: data/ in the directory
  std::string device = "auto";
};

// Creates the directory with the layout of ServerDirectory. The CA is made once and for all: after an interruption
// `init_federation` goes on with the one that is there, and a directory that has a server.toml is left as it is
// (Errc::already_exists). Sites are added by invites, never by making it again.
Status init_federation(const InitOptions& options, const Clock& clock = system_clock());

}  // namespace trib::server
