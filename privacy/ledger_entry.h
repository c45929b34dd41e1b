// What stands in a privacy ledger, line by line.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "common/hash.h"
#include "privacy/mechanism.h"

namespace trib::privacy {

enum class EntryKind {
  charge,  // one round of one job, before its first record was read
  gap,     // stands for charges that are lost: to a restored backup (Ledger::charge_gap) or a torn line
  torn,    // a charge whose line a crash cut short, with what could be read of it
  data,    // a version of a data set: its declared size and a keyed digest of its file
  key,     // from here on the site signs with this key
};

// The cap that a charge was checked against. `order` is fixed by the first private charge to a data set.
struct StatedBudget {
  double epsilon = 0.0;
  double delta = 0.0;
  double order = 0.0;  // Rényi order of the filter, one of rdp_orders()
  bool operator==(const StatedBudget&) const = default;
};

struct LedgerEntry {
  std::int64_t number = 0;  // 1, 2, …
  EntryKind kind = EntryKind::charge;
  std::string time;  // ISO 8601, never before the entry before it: where the clock jumped back, the note says so
  // Of charge, gap and torn. Of `data`, only data_set and declared_records.
  Charge charge;
  std::optional<StatedBudget> budget;  // of every private charge; of gaps and torn lines as far as it is known
  std::int64_t missing = 0;            // for a gap: how many entries before it are lost; its number counts them
  std::int64_t data_version = 0;       // of `data`: 1, 2, …
  Sha256 data_digest{};                // of `data`: HMAC-SHA-256 of the file under a secret that stays at the site
  std::string key;                     // of `key`: the new public key
  std::string countersignature;        // of `key`: the old key's, where it was still there
  std::string note;
  Sha256 previous{}, hash{};

  bool spends() const { return kind == EntryKind::charge || kind == EntryKind::gap || kind == EntryKind::torn; }
};

// Where a ledger stands. A server that keeps each site's latest head notices a ledger that was cut or replaced.
struct LedgerHead {
  std::int64_t count = 0;  // the number of the last entry, which counts the entries that gaps stand for
  Sha256 hash{};           // of the last entry; of the header in an empty ledger
  bool operator==(const LedgerHead&) const = default;
};

}  // namespace trib::privacy
