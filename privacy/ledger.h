// The site's privacy ledger: an append-only, hash-chained and signed file of charges, fsynced before a record is read.
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
#include "common/signature.h"
#include "privacy/accounts.h"
#include "privacy/ledger_entry.h"
#include "privacy/ledger_file.h"
#include "privacy/mechanism.h"

namespace trib::privacy {

// What a site's own configuration allows to be spent on one data set. No cap: every private charge is declined.
struct Budget {
  std::string data_set;
  // The cap, over all jobs together: an RDP privacy filter (accounts.h). May be changed between two starts: the new
  // value holds from the next charge on, over all that was spent before.
  double epsilon = 0.0;
  double delta = 1e-5;
};

// Whose ledger it is: the site's name, and its key, which signs every entry.
struct LedgerOwner {
  std::string site;
  std::shared_ptr<const Signer> signer;
};

// The owner's deliberate word that another key signs from here on.
struct KeyChange {
  std::string reason;
  std::shared_ptr<const Signer> old_key;  // countersigns; null where it is lost
};

// One process at a time (lock file). Thread-safe. The file is one JSON object a line, chained by hashes and signed
// (ledger_file.h): an officer can read it, and `trib privacy verify` recomputes it from scratch. Times never go back:
// an entry that is written while the clock stands before the last entry takes over that one's time, and its note says
// what the clock said.
class Ledger {
 public:
  // Opens or creates the file and verifies chain, signatures and every decision of the cap. Errc::corrupt names the
  // first bad entry and its line; Errc::unavailable if another process holds it; Errc::permission_denied if it is
  // another site's, or if its last entry is signed with another key than the owner's and `change` is null.
  //
  // A torn last line is what a crash during an append leaves. No record was read under it, since charge() had not
  // returned, unless the disk lies about fsync; so it is counted as spent. A line that lacks only its newline is
  // completed; one that still tells its mechanism becomes an entry of kind `torn`; of any other, the costliest charge
  // so far is counted once more for its data set, or for every data set if even that is lost. The entry's note says so.
  static Result<std::unique_ptr<Ledger>> open(const std::filesystem::path& path, const LedgerOwner& owner,
                                              std::vector<Budget> budgets, const Clock& clock,
                                              const KeyChange* change = nullptr);
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

  // Declares what a data set's file holds: its declared size, and a keyed digest of its bytes. The first declaration
  // is recorded as version 1; one that says the same as the newest version writes nothing. Errc::permission_denied,
  // with what the owner can do: the file has changed since, or it is the file of another data set whose budget it would
  // double.
  Status declare_data(std::string_view data_set, std::int64_t declared_records, const Sha256& digest);
  // The owner's word that a changed file is the next version of the same data set. It inherits everything that was
  // spent under the name. Errc::already_exists if nothing has changed.
  Status update_data(std::string_view data_set, std::int64_t declared_records, const Sha256& digest);

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

  // Epsilon of everything charged to `data_set` at `delta`, by RDP at the best order. Infinity if a non-private charge
  // is among it.
  double epsilon_spent(std::string_view data_set, double delta) const;
  // Epsilon if `next` were charged too.
  double epsilon_after(std::string_view data_set, double delta, const Charge& next) const;
  std::optional<Budget> budget(std::string_view data_set) const;

  LedgerHead head() const;
  std::vector<LedgerEntry> entries() const;
  Accounts accounts() const;
  // What the file holds, as verified at opening and written since, and what it adds up to, taken together: for a
  // statement of what is known now. A ledger without a file has an empty header.
  struct Snapshot {
    LedgerFile file;
    Accounts accounts;
  };
  Snapshot snapshot() const;

 private:
  struct Impl;
  explicit Ledger(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Reads and verifies chain and signatures of a ledger without opening it for writing (no lock): for reports, which also
// audit() it.
// Errc::unavailable if the last line is torn: a writer is busy, or a crash left it so and the next open() settles it.
Result<LedgerFile> read_ledger_file(const std::filesystem::path& path);
Result<std::vector<LedgerEntry>> read_ledger(const std::filesystem::path& path);

}  // namespace trib::privacy
