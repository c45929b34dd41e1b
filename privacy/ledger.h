// The site's privacy ledger: an append-only, hash-chained file of charges, fsynced before a record is read.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/hash.h"
#include "common/result.h"
#include "privacy/mechanism.h"

namespace trib::privacy {

// What a site's own configuration allows to be spent on one data set. No cap: everything is declined.
struct Budget {
  std::string data_set;
  double epsilon = 0.0;  // the cap; checked with the RDP accountant over all jobs together
  double delta = 1e-5;
};

struct LedgerEntry {
  std::int64_t number = 0;  // 1, 2, …
  std::string time;         // ISO 8601, for the reader
  Charge charge;
  bool is_gap = false;      // stands for charges that a restored backup had lost (see charge_gap)
  std::string note;
  Sha256 previous{}, hash{};
};

struct LedgerHead {
  std::int64_t count = 0;
  Sha256 hash{};
};

// One process at a time (lock file). Thread-safe. The file is one JSON object a line: an officer can read it, and
// `trib privacy verify` recomputes it from scratch.
class Ledger {
 public:
  // Opens or creates the file and verifies the whole chain. Errc::corrupt names the first bad entry and its line; a torn
  // last line (a crash during append) is completed as a spent entry where it can be read and reported where it can't.
  // Errc::unavailable if another process holds it.
  static Result<std::unique_ptr<Ledger>> open(const std::filesystem::path& path, std::vector<Budget> budgets,
                                              const Clock& clock);
  ~Ledger();
  Ledger(const Ledger&) = delete;
  Ledger& operator=(const Ledger&) = delete;

  // Appends and fsyncs one charge (file, and directory at creation). Errc::over_budget, with spent, asked and cap, if
  // the data set's epsilon would pass its cap: then nothing is written. Errc::already_exists if (job, round, data set) was
  // charged before. Errc::no_space or io_error: the caller must not train.
  Status charge(const Charge& charge);

  // Whether (job, round, data_set) has been charged.
  bool charged(std::string_view job, std::int64_t round, std::string_view data_set) const;

  // After a restore from a backup: the server knows a later head than this file has. Charges `missing` times the largest
  // charge this data set could have made, so that spending is never under-reported.
  Status charge_gap(std::int64_t missing_entries, const Charge& worst_case);

  // Epsilon of everything charged to `data_set` at `delta`, by RDP. Infinity if a non-private charge is among it.
  double epsilon_spent(std::string_view data_set, double delta) const;
  // Epsilon if `next` were charged too.
  double epsilon_after(std::string_view data_set, double delta, const Charge& next) const;
  std::optional<Budget> budget(std::string_view data_set) const;

  LedgerHead head() const;
  std::vector<LedgerEntry> entries() const;

 private:
  struct Impl;
  explicit Ledger(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Reads and verifies a ledger without opening it for writing (no lock): for reports and `trib privacy verify`.
Result<std::vector<LedgerEntry>> read_ledger(const std::filesystem::path& path);

}  // namespace trib::privacy
