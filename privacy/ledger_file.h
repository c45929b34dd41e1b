// The ledger's file format, version 2: reading, verifying and rendering lines. No I/O.
//
// Line 1 is the header: {"format":"tributary-privacy-ledger","version":2,"id":…,"site":…,"created":…,"key":…}. Every
// further line is one entry. Every line is sealed (sealed.h): it ends with its hash and the site's signature. An
// entry's "previous" is the hash of the line before it. The header's key signs the header and all entries up to the
// next entry of kind "key", which is signed by the key that it brings, and countersigned by the old one where that
// still exists.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "common/signature.h"
#include "privacy/ledger_entry.h"

namespace trib::privacy {

struct LedgerHeader {
  std::string id;  // makes the chain differ from every other ledger's
  std::string site;
  std::string created;  // ISO 8601
  std::string key;      // PublicKey::text()
};

struct LedgerFile {
  LedgerHeader header;
  std::vector<LedgerEntry> entries;
  LedgerHead head;
  std::string key;                 // that signed the last line
  std::size_t complete_bytes = 0;  // the length of all complete lines
  std::string torn;                // what follows them without a newline: left by a crash

  const std::string& last_time() const { return entries.empty() ? header.created : entries.back().time; }
};

// The header line of a new ledger, with its newline.
Result<std::string> render_ledger_header(const LedgerHeader& header, const Signer& signer);

// The line of an entry, without a newline. Everything but `hash` is read.
Result<std::string> render_ledger_entry(const LedgerEntry& entry, const Signer& signer);

// What the old key signs when another takes its place.
std::string key_change_message(std::string_view new_key, const Sha256& previous);

// One complete line; its signature is not checked. Errc::corrupt says what is wrong with it.
Result<LedgerEntry> parse_ledger_entry(std::string_view line);

// What can be read of a line that a crash cut short.
struct TornLine {
  std::optional<EntryKind> kind;       // absent if that is lost
  std::string data_set;                // "" if that is lost
  std::optional<Mechanism> mechanism;  // absent if any part that costs is lost
  std::optional<std::string> job;
  std::optional<std::int64_t> round;
  std::int64_t declared_records = 0;
  double target_delta = 0.0;
  std::optional<StatedBudget> budget;
};
TornLine parse_torn_line(std::string_view bytes);

// A whole file: verifies the header, the chain, the numbering, the order of times and every signature. Errc::corrupt
// names the first bad entry and its line; Errc::unsupported is another version of the format.
Result<LedgerFile> parse_ledger(std::string_view text, std::string_view name);

}  // namespace trib::privacy
