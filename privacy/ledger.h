// The site's privacy ledger: an append-only, hash-chained file of charges, fsynced before a record is read.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/hash.h"
#include "common/result.h"
#include "privacy/mechanism.h"

namespace trib::privacy {

// What a site's own configuration allows to be spent on one data set. No cap: every private charge is declined.
struct Budget {
  std::string data_set;
  // The cap, over all jobs together: an RDP privacy filter whose order is fixed by the first charge (filter_order), so
  // that a server that chooses its rounds adaptively cannot pass it either.
  double epsilon = 0.0;
  double delta = 1e-5;
};

struct LedgerEntry {
  std::int64_t number = 0;  // 1, 2, …
  std::string time;         // ISO 8601, for the reader
  Charge charge;
  bool is_gap = false;       // stands for charges that are lost: to a restored backup (charge_gap) or a torn line
  std::int64_t missing = 0;  // for a gap: how many entries before it are lost; its number counts them
  std::string note;
  Sha256 previous{}, hash{};
};

// Where a ledger stands. A server that keeps each site's latest head notices a ledger that was cut or replaced.
struct LedgerHead {
  std::int64_t count = 0;  // the number of the last entry, which counts the entries that gaps stand for
  Sha256 hash{};           // of the last entry; of the header in an empty ledger
  bool operator==(const LedgerHead&) const = default;
};

// One process at a time (lock file). Thread-safe. The file is one JSON object a line: an officer can read it, and
// `trib privacy verify` recomputes it from scratch.
class Ledger {
 public:
  // Opens or creates the file and verifies the whole chain. Errc::corrupt names the first bad entry and its line.
  // Errc::unavailable if another process holds it.
  //
  // A torn last line is what a crash during an append leaves. No record was read under it, since charge() had not
  // returned, unless the disk lies about fsync; so it is counted as spent. A line that lacks only its newline is
  // completed; one that still tells its mechanism becomes that charge; of any other, the costliest charge so far is
  // counted once more for its data set, or for every data set if even that is lost. The entry's note says so.
  static Result<std::unique_ptr<Ledger>> open(const std::filesystem::path& path, std::vector<Budget> budgets,
                                              const Clock& clock);
  // A ledger without a file, for simulations: the same rules, forgotten with the process.
  static Result<std::unique_ptr<Ledger>> in_memory(std::vector<Budget> budgets, const Clock& clock);
  ~Ledger();
  Ledger(const Ledger&) = delete;
  Ledger& operator=(const Ledger&) = delete;

  // Appends and fsyncs one charge (file, and directory at creation). Errc::over_budget, with spent, asked and cap, if
  // the data set's epsilon would pass its cap: then nothing is written. Errc::already_exists if (job, round, data set)
  // was charged before. Errc::no_space or io_error: the append was undone, and the caller must not train. A charge that
  // is not private is recorded without a cap (who may make one is PrivacySession's question); from then on the data
  // set's epsilon is infinite, and private charges are declined.
  Status charge(const Charge& charge);

  // Whether (job, round, data_set) has been charged.
  bool charged(std::string_view job, std::int64_t round, std::string_view data_set) const;

  // After a restore from a backup: the server knows a later head than this file has. Charges `missing_entries` times
  // each of `worst_cases`, the largest charge its data set could have made, so that spending is never under-reported;
  // over the cap too, for that is spent already. Which data sets the lost entries were for is lost as well, so give a
  // worst case for each of the site's: they are charged all together or not at all.
  Status charge_gap(std::int64_t missing_entries, std::span<const Charge> worst_cases);
  Status charge_gap(std::int64_t missing_entries, const Charge& worst_case) {
    return charge_gap(missing_entries, std::span(&worst_case, 1));
  }

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
// Errc::unavailable if the last line is torn: a writer is busy, or a crash left it so and the next open() settles it.
Result<std::vector<LedgerEntry>> read_ledger(const std::filesystem::path& path);

}  // namespace trib::privacy
