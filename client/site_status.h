// What a client shows of itself, on its own screen and in its own directory. The training loss is computed from
// records: it is here, and never on the wire.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "client/site_config.h"
#include "common/clock.h"
#include "common/result.h"

namespace trib::client {

// "connecting", "connected", "waiting" (until retry_at), "draining", "stopped".
struct ConnectionStatus {
  std::string state = "connecting";
  std::string server;
  std::string federation;
  std::string problem;  // why the last connection ended; empty while all is well
  std::optional<WallTime> retry_at;
  std::uint64_t bytes_sent = 0, bytes_received = 0;  // TLS and framing included, over all connections of this process
};

struct JobStatus {
  std::string name, data_set;
  std::string state;  // "preparing", "waiting", "training", "sending", "declined", "refused"
  std::string reason;
  std::int64_t round = 0, rounds = 0;  // the round that state is about
  std::int64_t step = 0, steps = 0;
  std::optional<double> loss;  // of the last step
  std::int64_t rounds_done = 0;
  double epsilon_spent = 0.0, epsilon_budget = 0.0;
};

struct SiteStatus {
  std::string site;
  std::string device;  // that it computes on, as kernels::describe() says it
  std::int64_t process = 0;
  WallTime time{};
  std::optional<WallTime> certificate_expires;
  ConnectionStatus connection;
  std::map<std::string, JobStatus> jobs;  // by id
  std::int64_t outbox_entries = 0;
  std::uint64_t outbox_bytes = 0;

  std::string to_json() const;  // one object; infinite figures are null
};

// Replaces the file at once, so that a reader sees a whole document. Not fsynced: it says how things are now.
Status write_status(const std::filesystem::path& path, const SiteStatus& status);

// Prints what changed, for the person at the site: one line rewritten in place on a terminal, otherwise plain lines at
// the start and end of a round and every few seconds between.
class ConsoleDisplay {
 public:
  ConsoleDisplay(int descriptor, const Clock& clock);
  void show(const SiteStatus& status);
  // Ends the line that is being rewritten.
  void finish();

 private:
  void line(const std::string& text, bool transient);

  int descriptor_;
  bool is_terminal_;
  const Clock& clock_;
  std::string connection_;
  std::map<std::string, std::pair<std::string, MonotonicTime>> jobs_;  // what was last said, and when
  bool line_open_ = false;
};

// What `trib-client status` prints: the ledger as it stands on disk, the outbox, and the daemon's last status.json.
// Needs no lock: a daemon may run. Errc::corrupt names the bad entry of the ledger.
Result<std::string> describe_site(const SiteDirectory& directory, bool json);

}  // namespace trib::client
