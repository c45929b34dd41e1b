// The statement that a site gives its data-protection officer: what was spent, signed with the site's key, as JSON that
// a program verifies and as a page that a person reads and prints.
#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <string>

#include "common/result.h"
#include "common/signature.h"
#include "privacy/figures.h"

namespace trib::privacy {

// The sealed JSON text (privacy/sealed.h) of what a ledger says. `made` is ISO 8601. Errc::permission_denied if the
// signer's key is not the one that signed the ledger last.
Result<std::string> make_statement(const LedgerFigures& figures, const std::string& made, const Signer& signer);

struct Statement {
  boost::json::object document;
  std::string site, key_sha256, hash, signature;
  std::int64_t head_count = 0;  // of the ledger that it was made from
};

// Checks the seal and the signature by the key that it names, and nothing of its figures: in well under a millisecond,
// for who stores what a site says of itself. Errors as verify_statement.
Result<Statement> read_statement(const std::string& text, const std::string& name);

// Checks the seal and the signature, and recomputes every epsilon from the mechanisms in the statement. Errc::corrupt
// names what is wrong; Errc::invalid_argument if it is no statement.
Result<Statement> verify_statement(const std::string& text, const std::string& name);

// A page of its own, without scripts or anything to fetch.
std::string statement_page(const Statement& statement);

}  // namespace trib::privacy
