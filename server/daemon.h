// The aggregator as a process: its listeners, its clockwork, its end.
//
// Everything but the tasks' own work runs on one thread: sockets, sessions, the coordinator, the store. Loading a task,
// aggregating, evaluating and exporting run on a few others and report back. HTTP has a thread of its own, so that who
// looks does not wait while a round's contributions are written down; what it asks for or changes is done on the first.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "common/result.h"
#include "server/config.h"
#include "server/coordinator.h"

namespace trib::server {

namespace http {
struct Sources;
}

class Daemon {
 public:
  // Takes the directory's lock, opens what is in it, listens, and takes up the jobs that were running. Errors say what
  // is missing or taken; Errc::unavailable if another trib-server runs with this directory. Tests may give the HTTP API
  // other sources (http/api.h).
  static Result<std::unique_ptr<Daemon>> start(const ServerDirectory& directory, const ServerConfig& config,
                                               CoordinatorOptions options = {},
                                               std::function<void(http::Sources&)> adjust_sources = {});
  ~Daemon();
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  std::uint16_t port() const;                      // the one listened on
  std::optional<std::uint16_t> http_port() const;  // of the HTTP API, if the configuration has one
  std::string http_url() const;                    // "https://127.0.0.1:7480", or nothing

  // Until stop() or a signal (SIGTERM, SIGINT), and then drains: no new session, no new round; uploads and aggregation
  // that are under way finish within sessions.drain_timeout; the sites are told. A second signal ends at once. What is
  // committed is on disk at any time: nothing is lost by not waiting.
  void run();
  // From any thread.
  void stop();

 private:
  struct Impl;
  explicit Daemon(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace trib::server
