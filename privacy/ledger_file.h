// The ledger's file format: reading, verifying and rendering lines. No I/O.
//
// Line 1 is the header: {"format":"tributary-privacy-ledger","version":1,"id":…,"created":…}. Every further line is one
// entry. An entry's "previous" is the hash of the line before it (for the first: SHA-256 of the header line), and its
// "hash", the last field, is the SHA-256 of all bytes of the line that stand before `,"hash":`. So the chain can be
// checked with sha256sum and a text editor.
//
// A private mechanism's "noise" and "clipping" say which it was; a line without them is from before the discrete
// Gaussian and means "float_gaussian" and "flat".
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "privacy/ledger.h"

namespace trib::privacy {

struct LedgerFile {
  std::vector<LedgerEntry> entries;
  LedgerHead head;
  std::size_t complete_bytes = 0;  // the length of all complete lines
  std::string torn;                // what follows them without a newline: left by a crash
};

// The header line of a new ledger, with its newline. `id` makes the chain differ from every other ledger's.
std::string render_ledger_header(std::string_view id, std::string_view time);

// The line of an entry, without a newline; number, time, charge, is_gap, missing, note and previous are read, hash is
// ignored and computed.
std::string render_ledger_entry(const LedgerEntry& entry);

// One complete line. Errc::corrupt says what is wrong with it.
Result<LedgerEntry> parse_ledger_entry(std::string_view line);

// What can be read of a line that a crash cut short; nothing but data_set, mechanism, job and round is filled in.
struct TornCharge {
  std::string data_set;                // "" if that is lost
  std::optional<Mechanism> mechanism;  // absent if any part that costs is lost
  std::optional<std::string> job;
  std::optional<std::int64_t> round;
  std::int64_t declared_records = 0;
  double target_delta = 0.0;
};
TornCharge parse_torn_line(std::string_view bytes);

// A whole file: verifies the header and the chain. Errc::corrupt names the first bad entry and its line.
Result<LedgerFile> parse_ledger(std::string_view text, std::string_view name);

}  // namespace trib::privacy
