#include "privacy/figures.h"

#include <spdlog/fmt/fmt.h>

#include "privacy/accountant.h"
#include "privacy/ledger.h"
#include "privacy/privacy_loss.h"

namespace trib::privacy {

Result<LedgerFigures> read_figures(const std::filesystem::path& ledger, std::optional<double> delta) {
  TRIB_ASSIGN(LedgerFile file, read_ledger_file(ledger));
  auto accounts = audit(file.entries);
  if (!accounts) return accounts.error().with_context(fmt::format("privacy ledger '{}'", ledger.string()));
  return figures_of(std::move(file), *accounts, ledger, delta);
}

Result<LedgerFigures> figures_of(LedgerFile file, const Accounts& accounts, const std::filesystem::path& path,
                                 std::optional<double> delta) {
  LedgerFigures figures;
  figures.path = path;
  figures.file = std::move(file);
  TRIB_ASSIGN(const PublicKey key, PublicKey::from_text(figures.file.key));
  figures.key_sha256 = to_hex(key.sha256());
  for (const LedgerEntry& entry : figures.file.entries) {
    if (entry.kind == EntryKind::key) figures.key_changes.push_back(entry);
  }
  for (const auto& [name, account] : accounts.all()) {
    if (name.empty()) continue;  // a torn line before anything was charged
    DataSetFigures set;
    set.name = name;
    set.account = account;
    set.delta = delta.value_or(account.budget ? account.budget->delta : 1e-5);
    set.epsilon_filter = account.filtered_epsilon();
    set.epsilon_rdp = account.spent.epsilon(set.delta);
    set.epsilon_tight = tight_epsilon(account.mechanisms(), set.delta).epsilon;
    set.same_file = accounts.same_file(name);
    for (const std::string& other : set.same_file) {
      if (!accounts.find(other)->is_private()) set.read_openly_as = other;
    }
    figures.data_sets.push_back(std::move(set));
  }
  return figures;
}

std::string mechanism_name(const Mechanism& mechanism) {
  return mechanism.kind == MechanismKind::none ? "none" : "poisson_subsampled_gaussian";
}

}  // namespace trib::privacy
