// What a ledger adds up to, in the figures that reports, statements and verification show: read, verified and audited
// from the file alone.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/result.h"
#include "privacy/ledger.h"

namespace trib::cli {

struct DataSetFigures {
  std::string name;
  privacy::Account account;
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
  privacy::LedgerFile file;
  std::string key_sha256;  // hexadecimal, of the key that signed the last line
  std::vector<privacy::LedgerEntry> key_changes;
  std::vector<DataSetFigures> data_sets;  // by name
};

// A ledger file, or a site's directory that holds one.
std::filesystem::path ledger_path(const std::filesystem::path& path);

// Reads, verifies and audits. Without `delta`, each data set's figures are at its budget's delta (1e-5 where it has
// none). Errc::corrupt names the first bad entry.
Result<LedgerFigures> read_figures(const std::filesystem::path& ledger, std::optional<double> delta = std::nullopt);

// Whether `key_sha256` (hexadecimal) is the key of the certificate in `file` and the certificate is `site`'s. The
// certificate's own issuer and dates are not looked at: a signature outlives them.
Status check_certificate(const std::filesystem::path& file, const std::string& key_sha256, const std::string& site);

// Finite numbers as they are; JSON has no infinity, so what is unbounded is null.
boost::json::value number_or_null(double value);

// The figures as one JSON object, for `--json`.
boost::json::object figures_json(const LedgerFigures& figures);
// What a reader of the figures must know besides, one line each: what is not private, lost, or signed with another key.
std::vector<std::string> notes_of(const LedgerFigures& figures);

std::string mechanism_name(const privacy::Mechanism& mechanism);

}  // namespace trib::cli
