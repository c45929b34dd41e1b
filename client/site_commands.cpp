#include "client/site_commands.h"

#include <spdlog/fmt/fmt.h>

#include "client/data_versions.h"
#include "client/identity.h"
#include "common/files.h"

namespace trib::client {
namespace {

std::string_view trim(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r");
  return first == std::string_view::npos ? std::string_view()
                                         : text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

bool sets_records(std::string_view line) {
  if (!line.starts_with("records")) return false;
  return trim(line.substr(std::string_view("records").size())).starts_with("=");
}

}  // namespace

Result<std::unique_ptr<privacy::Ledger>> open_site_ledger(const SiteDirectory& directory, const SiteConfig& config,
                                                          const net::PrivateKey& key, const Clock& clock,
                                                          const privacy::KeyChange* change) {
  TRIB_ASSIGN(std::shared_ptr<const Signer> signer, signer_from_pem(key.to_pem()));
  auto ledger =
      privacy::Ledger::open(directory.ledger(), {config.site, std::move(signer)}, config.budgets(), clock, change);
  if (!ledger) return ledger.error().with_context("nothing is trained without a sound ledger");
  return ledger;
}

Result<std::string> with_declared_records(const std::string& text, const std::string& data_set, std::int64_t records) {
  const std::string header = fmt::format("[dataset.{}]", data_set);
  bool inside = false;
  for (std::size_t start = 0; start < text.size();) {
    const std::size_t end = std::min(text.find('\n', start), text.size());
    const std::string_view line = std::string_view(text).substr(start, end - start);
    const std::string_view content = trim(line);
    if (content.starts_with("[")) inside = trim(content.substr(0, content.find('#'))) == header;
    if (inside && sets_records(content)) {
      const std::size_t comment = line.find('#');
      std::string changed = fmt::format("records = {}", records);
      if (comment != std::string_view::npos) changed += "  " + std::string(line.substr(comment));
      return text.substr(0, start) + changed + text.substr(end);
    }
    start = end + 1;
  }
  return Error{Errc::not_found,
               fmt::format("there is no line `records = …` in a section {}: put `records = {}` there by "
                           "hand, and repeat the command without --records",
                           header, records)};
}

Result<std::string> update_data_set(const SiteDirectory& directory, const std::string& data_set,
                                    std::optional<std::int64_t> records, const Clock& clock) {
  TRIB_ASSIGN(const FileLock lock, FileLock::acquire(directory.lock()));
  TRIB_ASSIGN(const std::string text, read_file(directory.config()));
  TRIB_ASSIGN(SiteConfig config, read_site_config(directory.config()));
  const auto found = config.data_sets.find(data_set);
  if (found == config.data_sets.end()) {
    return Error{Errc::not_found,
                 fmt::format("there is no section [dataset.{}] in '{}'", data_set, directory.config().native())};
  }
  DataSetPolicy& policy = found->second;
  std::string changed = text;
  if (records) {
    TRIB_ASSIGN(changed, with_declared_records(text, data_set, *records));
    if (policy.budget && policy.budget->delta >= 1.0 / static_cast<double>(*records)) {
      return Error{Errc::invalid_argument,
                   fmt::format("--records {}: the delta of the data set's budget, {:g}, must stay below 1/records = "
                               "{:g}: lower dataset.{}.budget.delta first",
                               *records, policy.budget->delta, 1.0 / static_cast<double>(*records), data_set)};
    }
    policy.declared_records = *records;
  }
  TRIB_ASSIGN(const Identity identity, load_identity(directory));
  TRIB_ASSIGN(const auto ledger, open_site_ledger(directory, config, identity.key, clock));
  TRIB_ASSIGN(const auto versions, DataVersions::open(directory.data_secret()));
  TRIB_TRY(versions->update(*ledger, data_set, policy));
  if (changed != text) TRIB_TRY(write_file_durably(directory.config(), changed));
  const privacy::Accounts accounts = ledger->accounts();
  const privacy::Account& account = *accounts.find(data_set);
  std::string said = fmt::format("data set '{}': version {}, {} records declared\n", data_set,
                                 account.versions.back().version, policy.declared_records);
  if (account.first_private_entry != 0) {
    said +=
        fmt::format("  it goes on with what was spent under the name: epsilon {:.4g}\n", account.filtered_epsilon());
  }
  if (!records) {
    said += fmt::format("  if the number of records has changed, say so with --records: {} is declared\n",
                        policy.declared_records);
  }
  return said;
}

Result<std::string> rekey_ledger(const SiteDirectory& directory, const std::string& reason,
                                 const std::filesystem::path& old_key, const Clock& clock) {
  TRIB_ASSIGN(const FileLock lock, FileLock::acquire(directory.lock()));
  TRIB_ASSIGN(const SiteConfig config, read_site_config(directory.config()));
  TRIB_ASSIGN(const Identity identity, load_identity(directory));
  TRIB_ASSIGN(const privacy::LedgerFile before, privacy::read_ledger_file(directory.ledger()));
  TRIB_ASSIGN(const std::shared_ptr<const Signer> signer, signer_from_pem(identity.key.to_pem()));
  if (before.key == signer->public_key().text()) {
    return Error{Errc::already_exists, "the ledger is signed with the site's key already: there is nothing to change"};
  }
  privacy::KeyChange change{reason, nullptr};
  if (!old_key.empty()) {
    TRIB_ASSIGN(const std::string pem, read_file(old_key));
    TRIB_ASSIGN(change.old_key, signer_from_pem(pem));
    if (change.old_key->public_key().text() != before.key) {
      return Error{Errc::invalid_argument,
                   fmt::format("--old-key: '{}' is not the key that signed the ledger", old_key.native())};
    }
  }
  TRIB_ASSIGN(const auto ledger, open_site_ledger(directory, config, identity.key, clock, &change));
  return fmt::format(
      "entry {} of the ledger: from here on it is signed with the key of '{}'{}\n", ledger->head().count,
      directory.certificate().native(),
      change.old_key == nullptr ? "; the old key has not countersigned, which every report will say" : "");
}

}  // namespace trib::client
