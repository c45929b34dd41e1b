// What a ledger adds up to, in the figures that reports, statements and verification show: read, verified and audited
// from the file alone, or from the ledger that is open.
#pragma once

#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/result.h"
#include "privacy/accounts.h"
#include "privacy/ledger_file.h"

namespace trib::privacy {

struct DataSetFigures {
  std::string name;
  Account account;
  double delta = 1e-5;          // at which the epsilons are stated: the budget's, or the one that was asked for
  double epsilon_filter = 0.0;  // what the cap is compared with; infinity if not private
  double epsilon_rdp = 0.0;     // at the best order: what the site's daemon shows and reports, at most the filter's
  double epsilon_tight = 0.0;   // of the same mechanisms, as a schedule fixed in advance; infinity if not private
  std::set<std::string> same_file;
  std::string read_openly_as;  // another name of the same file that was read without privacy; mostly empty

  bool is_private() const { return account.is_private(); }
};

struct LedgerFigures {
  std::filesystem::path path;
  LedgerFile file;
  std::string key_sha256;  // hexadecimal, of the key that signed the last line
  std::vector<LedgerEntry> key_changes;
  std::vector<DataSetFigures> data_sets;  // by name
};

// Reads, verifies and audits. Without `delta`, each data set's figures are at its budget's delta (1e-5 where it has
// none). Errc::corrupt names the first bad entry.
Result<LedgerFigures> read_figures(const std::filesystem::path& ledger, std::optional<double> delta = std::nullopt);

// Of what was verified and audited before. `path` is for messages. Tight epsilons take up to a second.
Result<LedgerFigures> figures_of(LedgerFile file, const Accounts& accounts, const std::filesystem::path& path,
                                 std::optional<double> delta = std::nullopt);

std::string mechanism_name(const Mechanism& mechanism);

}  // namespace trib::privacy
