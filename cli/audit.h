// An audit of a job: it runs in a simulation with canaries among one site's records, and what the aggregator can tell
// about them afterwards bounds the epsilon of that site's contributions from below (privacy/audit.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/simulate.h"
#include "common/result.h"
#include "privacy/audit.h"

namespace trib::cli {

struct AuditOptions {
  SimulationOptions simulation;       // on_data and on_contribution are the audit's
  std::int64_t site = 1;              // the one that is attacked, from 1
  std::int64_t canaries = 200;        // each is among the site's records with probability 1/2
  std::vector<std::int64_t> guesses;  // numbers of guesses to try, fixed beforehand; none: half of the canaries
  double confidence = 0.95;           // of the best bound: several numbers of guesses share what is missing to 1
};

struct AuditResult {
  struct Attempt {
    privacy::AuditGuesses guesses;
    double epsilon = 0.0;     // lower bound
    double attainable = 0.0;  // what it would have been with every guess right
  };
  std::string job, site;
  std::int64_t declared_records = 0, included = 0, contributions = 0;
  bool is_private = false, is_seeded = false;
  double confidence = 0.0, delta = 0.0;
  std::vector<Attempt> attempts;
  double epsilon_lower_bound = 0.0;        // the largest of the attempts
  std::optional<double> epsilon_reported;  // by the site's ledger at `delta`; none: the job is not private
  // The most that this audit could have shown: below the reported epsilon it cannot refute anything.
  double epsilon_attainable = 0.0;
  bool is_refuted() const { return epsilon_reported && epsilon_lower_bound > *epsilon_reported; }
};

// Runs the job once. The site declares its records and half of the canaries, whatever the coins said. Errors:
// Errc::invalid_argument for a site or numbers that cannot be; Errc::unsupported if the job's task has no canaries;
// what run_simulation says; Errc::internal if the job failed or the site contributed nothing.
Result<AuditResult> run_audit(const AuditOptions& options);

}  // namespace trib::cli
