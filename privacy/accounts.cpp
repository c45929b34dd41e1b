#include "privacy/accounts.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <limits>

namespace trib::privacy {
namespace {

// Two programs may round the sum of many divergences differently.
constexpr double kRounding = 1e-9;

Error over_budget(std::string why) {
  return {Errc::over_budget, std::move(why)};
}

}  // namespace

void merge(std::vector<Mechanism>& mechanisms, const Mechanism& mechanism) {
  for (Mechanism& known : mechanisms) {
    Mechanism same = mechanism;
    same.steps = known.steps;
    if (known == same) {
      known.steps += mechanism.steps;
      return;
    }
  }
  mechanisms.push_back(mechanism);
}

double Account::filtered_epsilon() const {
  if (!is_private()) return std::numeric_limits<double>::infinity();
  return budget ? spent.epsilon_at_order(budget->order, budget->delta) : 0.0;
}

std::vector<Mechanism> Account::mechanisms() const {
  std::vector<Mechanism> all;
  for (const auto& [job, spending] : jobs) {
    for (const Mechanism& mechanism : spending.mechanisms) merge(all, mechanism);
  }
  return all;
}

const Account* Accounts::find(std::string_view data_set) const {
  const auto found = accounts_.find(data_set);
  return found == accounts_.end() ? nullptr : &found->second;
}

std::set<std::string> Accounts::with_digest(const Sha256& digest) const {
  const auto found = names_of_file_.find(digest);
  return found == names_of_file_.end() ? std::set<std::string>() : found->second;
}

std::set<std::string> Accounts::same_file(std::string_view data_set) const {
  std::set<std::string> names;
  const Account* account = find(data_set);
  if (account == nullptr) return names;
  for (const DataVersion& version : account->versions) names.merge(with_digest(version.digest));
  names.erase(std::string(data_set));
  return names;
}

void Accounts::apply(const LedgerEntry& entry) {
  if (entry.kind == EntryKind::key) return;
  const Charge& charge = entry.charge;
  Account& account = accounts_[charge.data_set];
  if (charge.declared_records > 0) account.declared_records = charge.declared_records;
  if (entry.kind == EntryKind::data) {
    account.versions.push_back(
        {entry.data_version, entry.number, charge.declared_records, entry.time, entry.data_digest});
    names_of_file_[entry.data_digest].insert(charge.data_set);
    return;
  }
  account.spent.add(charge.mechanism);
  account.steps += charge.mechanism.steps;
  (entry.kind == EntryKind::charge ? account.charges : account.lost) += 1;
  if (charge.mechanism.kind == MechanismKind::none) {
    if (account.first_non_private_entry == 0) account.first_non_private_entry = entry.number;
  } else if (charge.mechanism.steps > 0) {
    if (account.first_private_entry == 0) account.first_private_entry = entry.number;
    if (entry.budget) {
      const double order = account.budget ? account.budget->order : entry.budget->order;
      account.budget = *entry.budget;
      account.budget->order = order;
    }
  }
  JobSpending& job = account.jobs[charge.job];
  if (charge.mechanism.steps > 0) merge(job.mechanisms, charge.mechanism);
  job.rounds += 1;
  job.steps += charge.mechanism.steps;
  if (job.first_time.empty()) job.first_time = entry.time;
  job.last_time = entry.time;
}

double Accounts::order_for(std::string_view data_set, const Mechanism& first, double epsilon, double delta) const {
  const Account* account = find(data_set);
  return account != nullptr && account->budget ? account->budget->order : filter_order(first, epsilon, delta);
}

Status Accounts::check(const Charge& charge, const StatedBudget& budget) const {
  if (charge.mechanism.kind == MechanismKind::none) return {};
  static const Account nothing;
  const Account* found = find(charge.data_set);
  const Account& account = found == nullptr ? nothing : *found;
  if (!account.is_private()) {
    return over_budget(
        fmt::format("data set '{}' was read without privacy (entry {} of the ledger), so no cap can hold for it any "
                    "more; use another data set",
                    charge.data_set, account.first_non_private_entry));
  }
  for (const std::string& name : same_file(charge.data_set)) {
    const Account& other = *find(name);
    if (!other.is_private()) {
      return over_budget(
          fmt::format("data set '{}' is the same file as '{}', which was read without privacy (entry {} of the "
                      "ledger), so no cap can hold for its records any more; use another data set",
                      charge.data_set, name, other.first_non_private_entry));
    }
    if (other.first_private_entry != 0 && account.first_private_entry == 0) {
      return over_budget(
          fmt::format("data set '{}' is the same file as '{}', which has spent from its budget (entry {} of the "
                      "ledger): under a second name its records would get a second budget; let the job name '{}'",
                      charge.data_set, name, other.first_private_entry, name));
    }
  }
  if (budget.delta >= 1.0 / static_cast<double>(charge.declared_records)) {
    return Error{
        Errc::invalid_argument,
        fmt::format("the budget of data set '{}' has delta {}, but must have less than one over its {} declared "
                    "records; lower it in the site's configuration",
                    charge.data_set, budget.delta, charge.declared_records)};
  }
  if (account.budget && account.budget->order != budget.order) {
    return Error{Errc::invalid_argument,
                 fmt::format("the budget of data set '{}' was opened at Rényi order {}, and an order never moves: {} "
                             "is another",
                             charge.data_set, account.budget->order, budget.order)};
  }
  RdpCurve after = account.spent;
  after.add(charge.mechanism);
  if (const double epsilon = after.epsilon_at_order(budget.order, budget.delta); !(epsilon <= budget.epsilon)) {
    return over_budget(fmt::format(
        "it would raise the epsilon spent on data set '{}' from {:.4g} to {:.4g} (delta {}, Rényi order {}), over the "
        "site's cap of {:.4g}; the site's owner can raise the cap, or the job can ask for fewer or cheaper steps",
        charge.data_set, account.spent.epsilon_at_order(budget.order, budget.delta), epsilon, budget.delta,
        budget.order, budget.epsilon));
  }
  return {};
}

Status Accounts::check(const LedgerEntry& entry) const {
  if (entry.kind == EntryKind::data) {
    const Account* account = find(entry.charge.data_set);
    const std::int64_t expected = account == nullptr ? 1 : std::ssize(account->versions) + 1;
    if (entry.data_version == expected) return {};
    return Error{Errc::corrupt, fmt::format("it declares version {} of data set '{}', whose next version is {}",
                                            entry.data_version, entry.charge.data_set, expected)};
  }
  if (!entry.spends() || entry.charge.mechanism.kind == MechanismKind::none) return {};
  const Account* account = find(entry.charge.data_set);
  if (account != nullptr && account->budget && entry.budget && entry.budget->order != account->budget->order) {
    return Error{Errc::corrupt, fmt::format("it moves the Rényi order of data set '{}' from {} to {}",
                                            entry.charge.data_set, account->budget->order, entry.budget->order)};
  }
  if (entry.kind != EntryKind::charge) return {};
  if (!entry.budget) return Error{Errc::corrupt, "it states no budget that would cover it"};
  StatedBudget allowed = *entry.budget;
  allowed.epsilon *= 1.0 + kRounding;
  return check(entry.charge, allowed);
}

Result<Accounts> audit(const std::vector<LedgerEntry>& entries) {
  Accounts accounts;
  for (const LedgerEntry& entry : entries) {
    if (const Status sound = accounts.check(entry); !sound) {
      return Error{Errc::corrupt, fmt::format("entry {} should not be there: {}", entry.number, sound.error().message)};
    }
    accounts.apply(entry);
  }
  return accounts;
}

}  // namespace trib::privacy
