#include "privacy/ledger.h"

#include <fcntl.h>
#include <spdlog/fmt/fmt.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <limits>
#include <map>
#include <mutex>
#include <set>
#include <tuple>

#include "common/failpoint.h"
#include "common/files.h"
#include "common/random.h"
#include "privacy/accountant.h"
#include "privacy/ledger_file.h"

namespace trib::privacy {
namespace {

constexpr unsigned kFileMode = 0600;  // what a site spends is its own business

// What has been spent on one data set.
struct Account {
  RdpCurve spent;
  std::optional<Budget> budget;
  std::optional<double> order;               // of the filter, from the first private charge
  std::int64_t first_non_private_entry = 0;  // 0: none

  double filtered_epsilon(const RdpCurve& curve) const { return curve.epsilon_at_order(*order, budget->delta); }
};

std::filesystem::path lock_path(const std::filesystem::path& ledger) {
  return ledger.string() + ".lock";
}

Status check_budgets(const std::vector<Budget>& budgets) {
  std::set<std::string_view> names;
  for (const Budget& budget : budgets) {
    if (!(budget.epsilon > 0.0) || !(budget.delta > 0.0 && budget.delta < 1.0)) {
      return Error{
          Errc::invalid_argument,
          fmt::format("the budget of data set '{}' is epsilon {} at delta {}: epsilon must be above 0, and delta "
                      "above 0 and below one over the number of records",
                      budget.data_set, budget.epsilon, budget.delta)};
    }
    if (!names.insert(budget.data_set).second) {
      return Error{Errc::invalid_argument,
                   fmt::format("data set '{}' has two budgets: keep one of them", budget.data_set)};
    }
  }
  return {};
}

Error cannot_append(const std::filesystem::path& path, const Error& cause) {
  return cause.with_context(
      fmt::format("cannot append to the privacy ledger '{}', so nothing may be trained", path.string()));
}

}  // namespace

struct Ledger::Impl {
  Impl(std::vector<Budget> budgets, const Clock& given_clock) : clock(given_clock) {
    for (Budget& budget : budgets) accounts[budget.data_set].budget = std::move(budget);
  }

  // Takes an entry that is in the file into account.
  void remember(LedgerEntry entry) {
    const Mechanism& mechanism = entry.charge.mechanism;
    Account& account = accounts[entry.charge.data_set];
    account.spent.add(mechanism);
    if (mechanism.kind == MechanismKind::none) {
      if (account.first_non_private_entry == 0) account.first_non_private_entry = entry.number;
    } else if (!account.order && account.budget && mechanism.steps > 0) {
      account.order = filter_order(mechanism, account.budget->epsilon, account.budget->delta);
    }
    if (!entry.is_gap) charged.emplace(entry.charge.job, entry.charge.round, entry.charge.data_set);
    head = {entry.number, entry.hash};
    entries.push_back(std::move(entry));
  }

  // Numbers and chains the entries, makes them durable all together or not at all, and only then takes them into
  // account.
  Status append(std::vector<LedgerEntry> batch) {
    LedgerHead chain = head;
    std::string lines;
    for (LedgerEntry& entry : batch) {
      entry.number = chain.count + entry.missing + 1;
      entry.time = to_iso8601(clock.wall_now());
      entry.previous = chain.hash;
      const std::string line = render_ledger_entry(entry);
      // What counts is what a reader will find in the file; this also refuses names that are not UTF-8.
      auto as_read = parse_ledger_entry(line);
      if (!as_read) {
        return Error{Errc::invalid_argument,
                     fmt::format("job '{}' or data set '{}' cannot be recorded: {}", entry.charge.job,
                                 entry.charge.data_set, as_read.error().message)};
      }
      entry = *std::move(as_read);
      chain = {entry.number, entry.hash};
      lines += line + "\n";
    }
    if (file.valid()) {
      Status status = check_unchanged();
      if (status) status = batch.size() == 1 ? append_durably(lines) : rewrite_durably(lines);
      if (!status) return cannot_append(path, status.error());
    }
    for (LedgerEntry& entry : batch) remember(std::move(entry));
    return {};
  }

  Status check_unchanged() const {
    if (is_broken) {
      return Error{Errc::io_error, "an earlier failure could not be undone; restart to check the file again"};
    }
    struct stat ours {
    }, named{};
    if (::fstat(file.get(), &ours) != 0 || ::stat(path.c_str(), &named) != 0 || ours.st_ino != named.st_ino ||
        ours.st_dev != named.st_dev || ours.st_size != size) {
      return Error{Errc::corrupt, "the file was changed or replaced while it was open; restart to check it again"};
    }
    return {};
  }

  Status append_durably(const std::string& line) {
    TRIB_FAILPOINT("ledger.before_write");
    const std::string what = fmt::format("writing {} bytes", line.size());
    Status status = write_all(file.get(), std::as_bytes(std::span(line)), what);
    TRIB_FAILPOINT("ledger.after_write");
    if (status) status = fsync_file(file.get(), what);
    if (!status) {
      // Half an entry, or one that may not last: without it the file is what it was.
      is_broken = ::ftruncate(file.get(), size) != 0 || !fsync_file(file.get(), what);
      return status;
    }
    TRIB_FAILPOINT("ledger.after_fsync");
    size += static_cast<off_t>(line.size());
    return {};
  }

  // For several lines, of which a crash must leave all or none.
  Status rewrite_durably(const std::string& lines) {
    TRIB_ASSIGN(std::string text, read_file(path));
    text += lines;
    is_broken = true;  // until the new file is known to be whole and is the one that is open
    TRIB_TRY(write_file_durably(path, text, kFileMode));
    TRIB_TRY(open_for_append(text.size()));
    is_broken = false;
    return {};
  }

  Status open_for_append(std::size_t expected_size) {
    file = FileDescriptor(::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC));
    if (!file.valid()) {
      return error_from_errno(errno, fmt::format("cannot open the privacy ledger '{}'", path.string()));
    }
    size = static_cast<off_t>(expected_size);
    return {};
  }

  Status check_cap(const Charge& charge) {
    if (charge.mechanism.kind == MechanismKind::none) return {};
    const Account& account = accounts[charge.data_set];
    const auto decline = [&](std::string why) {
      return Error{Errc::over_budget,
                   fmt::format("round {} of job '{}' is declined: {}", charge.round, charge.job, why)};
    };
    if (!account.budget) {
      return decline(fmt::format("this site's configuration gives data set '{}' no budget; add one to take part",
                                 charge.data_set));
    }
    const Budget& budget = *account.budget;
    if (account.first_non_private_entry != 0) {
      return decline(
          fmt::format("data set '{}' was read without privacy (entry {} of the ledger), so no cap can hold for "
                      "it any more; use another data set",
                      charge.data_set, account.first_non_private_entry));
    }
    if (budget.delta >= 1.0 / static_cast<double>(charge.declared_records)) {
      return Error{
          Errc::invalid_argument,
          fmt::format("the budget of data set '{}' has delta {}, but must have less than one over its {} declared "
                      "records; lower it in the site's configuration",
                      charge.data_set, budget.delta, charge.declared_records)};
    }
    Account after = account;
    after.spent.add(charge.mechanism);
    if (!after.order) after.order = filter_order(charge.mechanism, budget.epsilon, budget.delta);
    if (const double epsilon = after.filtered_epsilon(after.spent); epsilon > budget.epsilon) {
      return decline(fmt::format(
          "it would raise the epsilon spent on data set '{}' from {:.4g} to {:.4g} (delta {}, Rényi order {}), over "
          "the "
          "site's cap of {:.4g}; the site's owner can raise the cap, or the job can ask for fewer or cheaper steps",
          charge.data_set, account.order ? account.filtered_epsilon(account.spent) : 0.0, epsilon, budget.delta,
          *after.order, budget.epsilon));
    }
    return {};
  }

  // Entries that stand for a line which a crash cut short; see Ledger::open.
  std::vector<LedgerEntry> count_torn_line(const std::string& bytes) const {
    const TornCharge torn = parse_torn_line(bytes);
    LedgerEntry entry;
    entry.charge.data_set = torn.data_set;
    entry.charge.job = torn.job.value_or("");
    entry.charge.round = torn.round.value_or(0);
    entry.charge.declared_records = torn.declared_records;
    entry.charge.target_delta = torn.target_delta;
    if (torn.mechanism) {
      entry.charge.mechanism = *torn.mechanism;
      entry.is_gap = !torn.job || !torn.round;
      entry.note = "counted as spent: a crash cut this line short, and its mechanism could still be read";
      return {entry};
    }
    std::map<std::string, const LedgerEntry*> costliest;
    for (const LedgerEntry& earlier : entries) {
      const LedgerEntry*& most = costliest[earlier.charge.data_set];
      const auto cost = [](const LedgerEntry& e) { return RdpCurve().add(e.charge.mechanism).epsilon(1e-5); };
      if (most == nullptr || cost(earlier) > cost(*most)) most = &earlier;
    }
    entry.is_gap = true;
    std::vector<LedgerEntry> result;
    for (const auto& [data_set, most] : costliest) {
      if (!torn.data_set.empty() && data_set != torn.data_set) continue;
      entry.charge = most->charge;
      entry.note = fmt::format(
          "counted as spent: a crash cut a line short; this is the costliest charge so far, entry {}", most->number);
      result.push_back(entry);
    }
    if (result.empty()) {
      entry.note = "a crash cut a line short before anything was charged; no record had been read";
      result.push_back(entry);
    }
    return result;
  }

  const Clock& clock;
  mutable std::mutex mutex;
  std::map<std::string, Account, std::less<>> accounts;
  std::set<std::tuple<std::string, std::int64_t, std::string>> charged;
  std::vector<LedgerEntry> entries;
  LedgerHead head;

  // Absent in a ledger without a file.
  std::filesystem::path path;
  std::optional<FileLock> lock;
  FileDescriptor file;
  off_t size = 0;
  bool is_broken = false;
};

Ledger::Ledger(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Ledger::~Ledger() = default;

Result<std::unique_ptr<Ledger>> Ledger::in_memory(std::vector<Budget> budgets, const Clock& clock) {
  TRIB_TRY(check_budgets(budgets));
  return std::unique_ptr<Ledger>(new Ledger(std::make_unique<Impl>(std::move(budgets), clock)));
}

Result<std::unique_ptr<Ledger>> Ledger::open(const std::filesystem::path& path, std::vector<Budget> budgets,
                                             const Clock& clock) {
  TRIB_TRY(check_budgets(budgets));
  const std::string what = fmt::format("cannot open the privacy ledger '{}'", path.string());
  auto lock = FileLock::acquire(lock_path(path));
  if (!lock) return lock.error().with_context(what);

  if (std::error_code error; !std::filesystem::exists(path, error)) {
    if (error) return Error{Errc::io_error, what + ": " + error.message()};
    const std::string id = to_hex(std::span(RandomKey::from_system().bytes()).first<16>());
    TRIB_TRY(write_file_durably(path, render_ledger_header(id, to_iso8601(clock.wall_now())), kFileMode));
  }
  TRIB_ASSIGN(std::string text, read_file(path));
  if (!text.empty() && text.back() != '\n') {
    // A line that lacks only its newline is an entry: complete it, and it will be verified like every other.
    const std::string_view last = std::string_view(text).substr(text.rfind('\n') + 1);
    if (parse_ledger_entry(last)) {
      text += '\n';
      TRIB_TRY(write_file_durably(path, text, kFileMode));
    }
  }
  TRIB_ASSIGN(LedgerFile content, parse_ledger(text, path.string()));

  auto impl = std::make_unique<Impl>(std::move(budgets), clock);
  impl->path = path;
  impl->lock = *std::move(lock);
  impl->head = content.head;
  for (LedgerEntry& entry : content.entries) impl->remember(std::move(entry));
  if (!content.torn.empty()) {
    // The torn bytes and what is counted for them change places at once: no crash can lose both.
    text.resize(content.complete_bytes);
    TRIB_TRY(impl->append(impl->count_torn_line(content.torn)));  // in memory only: the file is not open yet
    for (std::size_t i = content.entries.size(); i < impl->entries.size(); ++i) {
      spdlog::warn("privacy ledger '{}': line {} was torn: {}", path.string(), i + 2, impl->entries[i].note);
      text += render_ledger_entry(impl->entries[i]) + "\n";
    }
    TRIB_TRY(write_file_durably(path, text, kFileMode));
  }
  TRIB_TRY(impl->open_for_append(text.size()));
  return std::unique_ptr<Ledger>(new Ledger(std::move(impl)));
}

Status Ledger::charge(const Charge& charge) {
  TRIB_TRY(check_charge(charge));
  const std::lock_guard guard(impl_->mutex);
  if (impl_->charged.contains({charge.job, charge.round, charge.data_set})) {
    return Error{
        Errc::already_exists,
        fmt::format("round {} of job '{}' was charged to data set '{}' before: a charge is trained on once, and "
                    "never again after a crash",
                    charge.round, charge.job, charge.data_set)};
  }
  TRIB_TRY(impl_->check_cap(charge));
  LedgerEntry entry;
  entry.charge = charge;
  return impl_->append({std::move(entry)});
}

bool Ledger::charged(std::string_view job, std::int64_t round, std::string_view data_set) const {
  const std::lock_guard guard(impl_->mutex);
  return impl_->charged.contains({std::string(job), round, std::string(data_set)});
}

Status Ledger::charge_gap(std::int64_t missing_entries, std::span<const Charge> worst_cases) {
  constexpr std::int64_t kMost = std::int64_t{1} << 52;
  if (worst_cases.empty())
    return Error{Errc::invalid_argument, "a gap in the ledger needs a data set to be charged to"};
  for (const Charge& worst_case : worst_cases) {
    TRIB_TRY(check_charge(worst_case));
    if (missing_entries < 1 || missing_entries > kMost / worst_case.mechanism.steps) {
      return Error{
          Errc::invalid_argument,
          fmt::format("{} missing entries of {} steps cannot be charged: the count must be at least 1, and all "
                      "steps together at most 2^52",
                      missing_entries, worst_case.mechanism.steps)};
    }
  }
  std::vector<LedgerEntry> gap;
  for (const Charge& worst_case : worst_cases) {
    LedgerEntry entry;
    entry.charge = worst_case;
    entry.charge.mechanism.steps *= missing_entries;
    entry.is_gap = true;
    entry.missing = gap.empty() ? missing_entries : 0;
    entry.note = fmt::format("stands for {} entries that this ledger lost: each is counted as {} steps",
                             missing_entries, worst_case.mechanism.steps);
    gap.push_back(std::move(entry));
  }
  const std::lock_guard guard(impl_->mutex);
  return impl_->append(std::move(gap));
}

double Ledger::epsilon_spent(std::string_view data_set, double delta) const {
  const std::lock_guard guard(impl_->mutex);
  const auto account = impl_->accounts.find(data_set);
  return account == impl_->accounts.end() ? 0.0 : account->second.spent.epsilon(delta);
}

double Ledger::epsilon_after(std::string_view data_set, double delta, const Charge& next) const {
  const std::lock_guard guard(impl_->mutex);
  const auto account = impl_->accounts.find(data_set);
  RdpCurve curve = account == impl_->accounts.end() ? RdpCurve() : account->second.spent;
  return curve.add(next.mechanism).epsilon(delta);
}

std::optional<Budget> Ledger::budget(std::string_view data_set) const {
  const std::lock_guard guard(impl_->mutex);
  const auto account = impl_->accounts.find(data_set);
  return account == impl_->accounts.end() ? std::nullopt : account->second.budget;
}

LedgerHead Ledger::head() const {
  const std::lock_guard guard(impl_->mutex);
  return impl_->head;
}

std::vector<LedgerEntry> Ledger::entries() const {
  const std::lock_guard guard(impl_->mutex);
  return impl_->entries;
}

Result<std::vector<LedgerEntry>> read_ledger(const std::filesystem::path& path) {
  TRIB_ASSIGN(const std::string text, read_file(path));
  TRIB_ASSIGN(LedgerFile content, parse_ledger(text, path.string()));
  if (!content.torn.empty()) {
    return Error{
        Errc::unavailable,
        fmt::format("the last line of the privacy ledger '{}' is incomplete: either a client is writing it, then "
                    "try again, or a crash cut it short, then start the client once and it will be settled",
                    path.string())};
  }
  return std::move(content.entries);
}

}  // namespace trib::privacy
