// What the commands show of a ledger's figures (privacy/figures.h).
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "common/result.h"
#include "privacy/figures.h"

namespace trib::cli {

// A ledger file, or a site's directory that holds one.
std::filesystem::path ledger_path(const std::filesystem::path& path);

// Whether `key_sha256` (hexadecimal) is the key of the certificate in `file` and the certificate is `site`'s. The
// certificate's own issuer and dates are not looked at: a signature outlives them.
Status check_certificate(const std::filesystem::path& file, const std::string& key_sha256, const std::string& site);

// Finite numbers as they are; JSON has no infinity, so what is unbounded is null.
boost::json::value number_or_null(double value);

// The figures as one JSON object, for `--json`.
boost::json::object figures_json(const privacy::LedgerFigures& figures);
// What a reader of the figures must know besides, one line each: what is not private, lost, or signed with another key.
std::vector<std::string> notes_of(const privacy::LedgerFigures& figures);

}  // namespace trib::cli
