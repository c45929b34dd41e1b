// What there is to say about a job, as one JSON document: `trib job show --json`, `trib job watch`, `trib simulate
// --json` and the operator's table are all made of it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "common/result.h"
#include "server/store.h"
#include "tasks/job.h"

namespace trib::server {

// What a job is waiting for. Every wait has a reason; `until` is missing only where the job file says "for ever".
struct WaitReport {
  std::string reason;
  std::vector<std::string> sites;  // who is waited for, if it is known
  WallTime since{};
  std::optional<WallTime> until;
};

// One site in a report. Never its loss, nor anything else that is computed from records.
struct ClientReport {
  std::string name;
  bool connected = false;
  // "offered", "refused" or "dropped"; of the open round "chosen", "accepted", "declined" or "contributed"; "waiting"
  // for a round; empty once the job has ended.
  std::string status;
  std::string reason;  // why it refused or was dropped, or declined this round
  std::int64_t declared_records = 0;
  std::int64_t participations = 0;
  double epsilon_spent = 0.0, epsilon_budget = 0.0;
  std::uint64_t bytes_down = 0, bytes_up = 0;
  std::int64_t round = 0, step = 0, steps = 0;  // last progress
  std::optional<WallTime> last_progress;
  std::optional<WallTime> waiting_since;  // it is waited for since then
  std::optional<WallTime> last_seen;      // now, if it is connected; none: not since the aggregator's start
  std::string software_version;           // while it is connected
};

struct RoundReport {
  RoundRecord record;
  std::uint64_t bytes_down = 0, bytes_up = 0;
};

struct JobReport {
  JobRecord job;
  tasks::JobSpec spec;
  std::string state;  // of the engine: "collecting", …, or how the job ended
  std::string reason;
  std::optional<WaitReport> waiting;
  std::int64_t rounds_done = 0;
  std::int64_t open_round = 0, attempt = 0;  // 0: none is open
  bool noise_seeded = false;
  // Where the noise is the aggregator's: what its ledger has for the data set, at the job's delta.
  double aggregator_epsilon_spent = 0.0;
  WallTime now{};
  std::vector<RoundReport> rounds;  // from round 1
  std::vector<EvaluationRecord> evaluations;
  std::vector<ClientReport> clients;
};

// Mean and sample standard deviation (n − 1; 0 for one value) of the last `count` values; nothing of nothing.
struct Spread {
  double mean = 0.0, standard_deviation = 0.0;
};
std::optional<Spread> spread_of_last(const std::vector<double>& values, std::size_t count);

// The document. Keys: id, name, task, state, reason, waiting {reason, sites, since, until}, round, attempt,
// rounds_done, rounds_total, evaluations [{round, metrics {…}}], result {the last metrics, accuracy_mean_last_10,
// accuracy_std_last_10, evaluated}, clients […], rounds [{round, committed, attempt, contributions, weight, seconds,
// bytes_down, bytes_up}], bytes_down, bytes_up, seconds, private, noise_seeded, privacy ("private", "trusts the
// aggregator", or why not), trusts_aggregator, aggregator_epsilon_spent (where it is), epsilon, delta, submitted,
// ended. Numbers that are not finite are null.
std::string to_json(const JobReport& report);
// The short form, an element of `trib job list`.
std::string to_summary_json(const JobReport& report);

// The document as a table for a terminal. Errc::invalid_argument if it is not one.
Result<std::string> render_job_report(std::string_view json);

}  // namespace trib::server
