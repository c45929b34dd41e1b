// A federation of real processes on this machine: trib-server and trib-client daemons over loopback TLS, which a test
// starts, kills, stops and looks into.
#pragma once

#include <sys/types.h>

#include <boost/json.hpp>
#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "cli/process.h"
#include "client/site_config.h"
#include "privacy/ledger.h"
#include "tests/common/temporary_directory.h"

namespace trib::e2e {

namespace json = boost::json;

inline constexpr std::int64_t records = 240;  // of each site, declared as they are

struct Finished {
  int exit_code = 0;
  std::string output;  // standard output and error
};

struct JobShape {
  std::int64_t rounds = 2;
  std::int64_t local_steps = 2;
  std::int64_t minimum_clients = 2;
};

class Federation {
 public:
  // `settings` replace the defaults that server.toml shows as comments: {"heartbeat_interval", "1s"}. `http`: with the
  // dashboard, on a port of its own. Nothing runs yet.
  explicit Federation(const std::map<std::string, std::string>& settings = {}, bool http = false);
  ~Federation();

  // --- The aggregator ---
  void start_server(const std::string& failpoint = "");
  void kill_server();
  int stop_server();  // SIGTERM; the exit code
  // Waits until the failpoint has killed it.
  void await_death_of_server();

  // --- Sites, numbered from 1 ---
  static std::string name_of(int site) { return "site-" + std::to_string(site); }
  client::SiteDirectory directory_of(int site) const { return {directory_ / name_of(site)}; }
  std::string invite(int site);
  Finished join(int site, const std::string& token, const std::string& into = "", double epsilon_cap = 1000);
  void join(int site, double epsilon_cap = 1000);  // invite and join; fails the test where it fails
  void start_site(int site, const std::string& failpoint = "");
  void start_client(const std::string& process, const std::filesystem::path& directory,
                    const std::string& failpoint = "");
  void kill_site(int site);
  int stop_site(int site);  // SIGTERM; the exit code
  void signal_site(int site, int signal);
  std::optional<int> exit_of(const std::string& process);
  void await_death_of_site(int site);
  Finished run_client_to_its_end(const std::filesystem::path& directory);
  std::string log_of(const std::string& process) const;

  // --- The operator ---
  std::filesystem::path write_job(const JobShape& shape);
  std::string submit(const JobShape& shape);
  json::object job(const std::string& id);
  std::string state_of(const std::string& id);
  // Waits for the end of the job and expects that it finished.
  json::object await_end(const std::string& id);
  json::array sites();
  Finished trib(std::vector<std::string> arguments);  // with --server
  Finished trib_alone(std::vector<std::string> arguments);
  const std::string& http_url() const { return http_url_; }
  // Any program, killed when `seconds` are over (exit code -1).
  Finished run(std::vector<std::string> arguments, int seconds = 30);
  // The contributions of each committed round, from round 1.
  static std::vector<std::int64_t> contributions(const json::object& job);

  // --- What a site has on disk ---
  std::vector<privacy::LedgerEntry> ledger(int site) const;
  // Of one job: how often each round was charged.
  std::map<std::int64_t, int> charges(int site, const std::string& job) const;
  std::size_t outbox_size(int site) const;
  json::object status(int site) const;  // its status.json; empty if there is none

  // Polls until `done`; fails the test, with the ends of all logs, when `seconds` are over.
  bool wait_until(const std::string& what, const std::function<bool()>& done, int seconds = 60);
  std::string logs() const;
  const std::filesystem::path& root() const { return directory_.path(); }

 private:
  void start(const std::string& process, std::vector<std::string> arguments, const std::string& failpoint);
  std::optional<json::value> ask(const std::vector<std::string>& arguments);
  void await_death(const std::string& process);
  void write_data(int site) const;
  std::filesystem::path server_directory() const { return directory_ / "aggregator"; }

  test::TemporaryDirectory directory_;
  std::map<std::string, cli::ChildProcess> processes_;
  std::string http_url_;
  int jobs_ = 0;
  int runs_ = 0;
};

}  // namespace trib::e2e
