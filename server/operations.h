// What operators may do and see, whichever way they come: the command's channel (admin.h) and the HTTP API
// (http/api.h). Every rule is here once; the two only carry requests in and documents out.
//
// Not thread-safe: everything runs on the daemon's executor. What reads much of the store, or a base model, is done by
// the background queue meanwhile.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/net/address.h"
#include "server/access_tokens.h"
#include "server/session.h"

namespace trib::server {

class Operations {
 public:
  // `addresses` go into invites. The references outlive it.
  Operations(const SessionServices& services, Sessions& sessions, AccessTokens& tokens, WorkQueue& background,
             boost::asio::any_io_executor executor, std::vector<net::HostPort> addresses);

  // --- Views, one JSON document each ---
  // {"federation", "time", "software_version", "addresses", "uptime_seconds", "draining", "sessions", "uploads",
  // "staging_memory_bytes", "staging_disk_bytes", "ca_sha256", "ca_until"}
  std::string status() const;
  std::string sites() const { return services_.coordinator->sites_json(); }
  std::string jobs() const { return services_.coordinator->jobs_json(); }
  Result<std::string> job(std::string_view id) const { return services_.coordinator->job_json(id); }
  // {"tokens": [{"name", "role", "created", "last_used", "revoked"}]}, oldest first
  std::string tokens() const;
  // {"site", "received", "head_count", "fresh_one_requested", "statement"}: the newest statement that the site has sent,
  // which is asked for a fresh one if it is connected. Errc::not_found says whether to try again.
  Result<std::string> site_statement(const std::string& site);
  // Asks a connected site for a fresh statement; false if it is not connected.
  bool request_statement(const std::string& site) { return sessions_.request_statement(site); }
  bool is_draining() const { return sessions_.is_draining(); }

  // --- Changes. `by` says in the log who made them: "operator 'alice'" ---
  // {"site", "role", "token", "expires", "command"}: the command with which the token is redeemed. `valid_minutes` from
  // 1 to 30 days; 0 is the configuration's lifetime.
  Result<std::string> invite(const std::string& name, bool is_operator, std::uint64_t valid_minutes,
                             const std::string& by);
  // {"site", "revoked", "session_ended"}
  Result<std::string> revoke(const std::string& name, const std::string& reason, const std::string& by);
  // {"id"}. The base model that the job names may be read for the first time: that happens in the background.
  boost::asio::awaitable<Result<std::string>> submit(std::string job_file, std::string file_name, std::string by);
  // {"id", "state"}
  Result<std::string> cancel(const std::string& job, const std::string& reason, const std::string& by);
  // {"name", "role", "token"}: the only time that the token is shown. `role` is "viewer" or "operator".
  Result<std::string> create_token(const std::string& name, const std::string& role, const std::string& by);
  // {"name", "revoked"}
  Result<std::string> revoke_token(const std::string& name, const std::string& by);

  // Checks a job file as Coordinator::submit_job() will, on another thread: so that what it reads is remembered when
  // the executor asks. May be empty.
  void set_job_check(std::function<void(const std::string& job_file, const std::string& file_name)> check) {
    check_job_ = std::move(check);
  }

 private:
  SessionServices services_;
  Sessions& sessions_;
  AccessTokens& tokens_;
  WorkQueue& background_;
  boost::asio::any_io_executor executor_;
  std::vector<net::HostPort> addresses_;
  std::function<void(const std::string&, const std::string&)> check_job_;
  MonotonicTime started_;
};

}  // namespace trib::server
