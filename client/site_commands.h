// What a site's owner says deliberately, while the client is stopped: that a changed file is the next version of its
// data set, and that another key signs the ledger from here on.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "client/site_config.h"
#include "common/clock.h"
#include "common/net/x509.h"
#include "common/result.h"
#include "privacy/ledger.h"

namespace trib::client {

// Opens the site's ledger with its own key. `change` as in privacy::Ledger::open.
Result<std::unique_ptr<privacy::Ledger>> open_site_ledger(const SiteDirectory& directory, const SiteConfig& config,
                                                          const net::PrivateKey& key, const Clock& clock,
                                                          const privacy::KeyChange* change = nullptr);

// `trib-client data update`: records the file that client.toml names as the data set's next version, and `records`, if
// given, in client.toml as its declared size. Returns what to tell the owner. Errc::unavailable while the client runs.
Result<std::string> update_data_set(const SiteDirectory& directory, const std::string& data_set,
                                    std::optional<std::int64_t> records, const Clock& clock);

// `trib-client ledger rekey`: the site's present key signs from here on. `old_key`: a PEM file to countersign with, or
// empty where it is lost.
Result<std::string> rekey_ledger(const SiteDirectory& directory, const std::string& reason,
                                 const std::filesystem::path& old_key, const Clock& clock);

// The text of a client.toml with another `records` in its section [dataset.NAME]; the rest stays byte for byte. Errc::
// not_found if there is no such line.
Result<std::string> with_declared_records(const std::string& text, const std::string& data_set, std::int64_t records);

}  // namespace trib::client
