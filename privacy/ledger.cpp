#include "privacy/ledger.h"

#include <fcntl.h>
#include <spdlog/fmt/fmt.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
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

// The ledger must be this site's, and go on under the key that signed it last.
Status check_owner(const LedgerFile& content, const LedgerOwner& owner, const std::filesystem::path& path,
                   bool may_change_key) {
  if (content.header.site != owner.site) {
    return Error{Errc::permission_denied,
                 fmt::format("the privacy ledger '{}' belongs to site '{}', not to '{}': each site keeps its own",
                             path.string(), content.header.site, owner.site)};
  }
  if (content.key == owner.signer->public_key().text() || may_change_key) return {};
  return Error{
      Errc::permission_denied,
      fmt::format(
          "the privacy ledger '{}' is signed with another key than this site's. If the site was given a new key "
          "since (it enrolled anew after key.pem was lost), say so with `trib-client ledger rekey`; otherwise "
          "the ledger was replaced: restore the site's own",
          path.string())};
}

}  // namespace

struct Ledger::Impl {
  Impl(std::vector<Budget> given_budgets, LedgerOwner given_owner, const Clock& given_clock)
      : clock(given_clock), owner(std::move(given_owner)) {
    for (Budget& budget : given_budgets) budgets.emplace(budget.data_set, budget);
  }

  // Takes an entry that is in the file into account.
  void remember(LedgerEntry entry) {
    accounts.apply(entry);
    const bool names_round = entry.kind == EntryKind::charge || entry.kind == EntryKind::torn;
    if (names_round) charged.emplace(entry.charge.job, entry.charge.round, entry.charge.data_set);
    head = {entry.number, entry.hash};
    last_time = entry.time;
    entries.push_back(std::move(entry));
  }

  // The cap that a private charge of this mechanism is checked against: the site's, at the order that was fixed when
  // the budget was opened. None without a configured budget.
  std::optional<StatedBudget> stated_budget(std::string_view data_set, const Mechanism& mechanism) const {
    const auto budget = budgets.find(data_set);
    if (budget == budgets.end() || mechanism.kind == MechanismKind::none || mechanism.steps == 0) return std::nullopt;
    const auto& [name, cap] = *budget;
    return StatedBudget{cap.epsilon, cap.delta, accounts.order_for(data_set, mechanism, cap.epsilon, cap.delta)};
  }

  // A clock that has jumped back does not reorder what happened.
  void set_time(LedgerEntry& entry) const {
    entry.time = to_iso8601(clock.wall_now());
    if (entry.time >= last_time) return;
    spdlog::warn("the clock says {}, but the privacy ledger's last entry is of {}: was the clock set back?", entry.time,
                 last_time);
    entry.note += fmt::format("{}the clock said {}, before the entry before this one", entry.note.empty() ? "" : "; ",
                              entry.time);
    entry.time = last_time;
  }

  // Numbers, chains and signs the entries, makes them durable all together or not at all, and only then takes them into
  // account.
  Status append(std::vector<LedgerEntry> batch) {
    LedgerHead chain = head;
    std::string lines;
    for (LedgerEntry& entry : batch) {
      entry.number = chain.count + entry.missing + 1;
      set_time(entry);
      entry.previous = chain.hash;
      TRIB_ASSIGN(const std::string line, render_ledger_entry(entry, *owner.signer));
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
    } else {
      settled_lines = std::move(lines);
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

  Status check_cap(const Charge& charge, const std::optional<StatedBudget>& budget) const {
    if (charge.mechanism.kind == MechanismKind::none) return {};
    Status covered =
        budget ? accounts.check(charge, *budget)
               : Error{Errc::over_budget, fmt::format("this site's configuration gives data set '{}' no budget; add "
                                                      "one to take part",
                                                      charge.data_set)};
    if (covered || covered.error().code != Errc::over_budget) return covered;
    return covered.error().with_context(fmt::format("round {} of job '{}' is declined", charge.round, charge.job));
  }

  // The newest version of a data set's file; null if none is declared.
  const DataVersion* newest_version(std::string_view data_set) const {
    const Account* account = accounts.find(data_set);
    return account == nullptr || account->versions.empty() ? nullptr : &account->versions.back();
  }

  // Whether a file may be (a version of) this data set: not if that would give records a second budget.
  Status check_same_file(std::string_view data_set, const Sha256& digest) const {
    if (!budgets.contains(data_set)) return {};
    for (const std::string& name : accounts.with_digest(digest)) {
      if (name == data_set) continue;
      const Account& other = *accounts.find(name);
      if (other.first_private_entry == 0 && !budgets.contains(name)) continue;
      return Error{
          Errc::permission_denied,
          fmt::format("data set '{}' has the same file as data set '{}' (entry {} of the ledger): under a second name "
                      "its records would get a second budget; let the jobs name '{}', or give '{}' a file of its own",
                      data_set, name, other.versions.back().entry, name, data_set)};
    }
    return {};
  }

  Status append_data(std::string_view data_set, std::int64_t declared_records, const Sha256& digest) {
    TRIB_TRY(check_same_file(data_set, digest));
    const DataVersion* newest = newest_version(data_set);
    LedgerEntry entry;
    entry.kind = EntryKind::data;
    entry.charge.data_set = std::string(data_set);
    entry.charge.declared_records = declared_records;
    entry.data_version = newest == nullptr ? 1 : newest->version + 1;
    entry.data_digest = digest;
    return append({std::move(entry)});
  }

  // Entries that stand for a line which a crash cut short; see Ledger::open.
  std::vector<LedgerEntry> count_torn_line(const std::string& bytes) const {
    const TornLine torn = parse_torn_line(bytes);
    LedgerEntry entry;
    entry.charge.data_set = torn.data_set;
    entry.charge.job = torn.job.value_or("");
    entry.charge.round = torn.round.value_or(0);
    entry.charge.declared_records = torn.declared_records;
    entry.charge.target_delta = torn.target_delta;
    entry.kind = EntryKind::gap;
    if (torn.kind == EntryKind::data || torn.kind == EntryKind::key) {
      entry.charge = {};
      entry.note = "a crash cut this line short; it was to declare a data set or a key, and spent nothing";
      return {entry};
    }
    if (torn.mechanism) {
      entry.charge.mechanism = *torn.mechanism;
      entry.budget = torn.budget ? torn.budget : stated_budget(torn.data_set, *torn.mechanism);
      if (torn.job && torn.round) entry.kind = EntryKind::torn;
      entry.note = "counted as spent: a crash cut this line short, and its mechanism could still be read";
      return {entry};
    }
    std::map<std::string, const LedgerEntry*> costliest;
    for (const LedgerEntry& earlier : entries) {
      if (!earlier.spends()) continue;
      const LedgerEntry*& most = costliest[earlier.charge.data_set];
      const auto cost = [](const LedgerEntry& e) { return RdpCurve().add(e.charge.mechanism).epsilon(1e-5); };
      if (most == nullptr || cost(earlier) > cost(*most)) most = &earlier;
    }
    std::vector<LedgerEntry> result;
    for (const auto& [data_set, most] : costliest) {
      if (!torn.data_set.empty() && data_set != torn.data_set) continue;
      entry.charge = most->charge;
      entry.budget = stated_budget(data_set, most->charge.mechanism);
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
  LedgerOwner owner;
  std::map<std::string, Budget, std::less<>> budgets;  // as configured
  Accounts accounts;
  std::set<std::tuple<std::string, std::int64_t, std::string>> charged;
  std::vector<LedgerEntry> entries;
  LedgerHead head;
  std::string last_time;

  // Absent in a ledger without a file.
  LedgerHeader header;
  std::filesystem::path path;
  std::optional<FileLock> lock;
  FileDescriptor file;
  off_t size = 0;
  bool is_broken = false;
  std::string settled_lines;  // of the last append() while the file was not open: a signature is made once
};

Ledger::Ledger(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Ledger::~Ledger() = default;

Result<std::unique_ptr<Ledger>> Ledger::in_memory(std::vector<Budget> budgets, const Clock& clock) {
  TRIB_TRY(check_budgets(budgets));
  return std::unique_ptr<Ledger>(
      new Ledger(std::make_unique<Impl>(std::move(budgets), LedgerOwner{"", throwaway_signer()}, clock)));
}

Result<std::unique_ptr<Ledger>> Ledger::open(const std::filesystem::path& path, const LedgerOwner& owner,
                                             std::vector<Budget> budgets, const Clock& clock, const KeyChange* change) {
  TRIB_TRY(check_budgets(budgets));
  const std::string what = fmt::format("cannot open the privacy ledger '{}'", path.string());
  auto lock = FileLock::acquire(lock_path(path));
  if (!lock) return lock.error().with_context(what);

  if (std::error_code error; !std::filesystem::exists(path, error)) {
    if (error) return Error{Errc::io_error, what + ": " + error.message()};
    const std::string id = to_hex(std::span(RandomKey::from_system().bytes()).first<16>());
    TRIB_ASSIGN(const std::string header,
                render_ledger_header({id, owner.site, to_iso8601(clock.wall_now()), owner.signer->public_key().text()},
                                     *owner.signer));
    if (const Status made = write_file_durably(path, header, kFileMode); !made) {
      return made.error().with_context(what);
    }
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
  TRIB_TRY(check_owner(content, owner, path, change != nullptr));
  if (auto sound = audit(content.entries); !sound) {
    return sound.error().with_context(fmt::format("privacy ledger '{}'", path.string()));
  }

  auto impl = std::make_unique<Impl>(std::move(budgets), owner, clock);
  impl->path = path;
  impl->lock = *std::move(lock);
  impl->head = content.head;
  impl->header = content.header;
  impl->last_time = content.header.created;
  for (LedgerEntry& entry : content.entries) impl->remember(std::move(entry));
  // What is settled here goes into the file in one piece: no crash can lose half of it.
  std::vector<LedgerEntry> settled;
  const std::string new_key = owner.signer->public_key().text();
  if (content.key != new_key) {
    LedgerEntry entry;
    entry.kind = EntryKind::key;
    entry.key = new_key;
    entry.note = change->reason;
    if (change->old_key != nullptr) {
      TRIB_ASSIGN(entry.countersignature, change->old_key->sign(key_change_message(new_key, content.head.hash)));
    }
    settled.push_back(std::move(entry));
  }
  if (!content.torn.empty()) {
    for (LedgerEntry& entry : impl->count_torn_line(content.torn)) settled.push_back(std::move(entry));
  }
  if (!settled.empty()) {
    text.resize(content.complete_bytes);
    const std::size_t before = impl->entries.size();
    TRIB_TRY(impl->append(std::move(settled)));  // in memory only: the file is not open yet
    for (std::size_t i = before; i < impl->entries.size(); ++i) {
      spdlog::warn("privacy ledger '{}', entry {}: {}", path.string(), impl->entries[i].number, impl->entries[i].note);
    }
    text += impl->settled_lines;
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
  LedgerEntry entry;
  entry.charge = charge;
  entry.budget = impl_->stated_budget(charge.data_set, charge.mechanism);
  TRIB_TRY(impl_->check_cap(charge, entry.budget));
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
    entry.kind = EntryKind::gap;
    entry.missing = gap.empty() ? missing_entries : 0;
    entry.note = fmt::format("stands for {} entries that this ledger lost: each is counted as {} steps",
                             missing_entries, worst_case.mechanism.steps);
    gap.push_back(std::move(entry));
  }
  const std::lock_guard guard(impl_->mutex);
  for (LedgerEntry& entry : gap) entry.budget = impl_->stated_budget(entry.charge.data_set, entry.charge.mechanism);
  return impl_->append(std::move(gap));
}

Status Ledger::declare_data(std::string_view data_set, std::int64_t declared_records, const Sha256& digest) {
  const std::lock_guard guard(impl_->mutex);
  const DataVersion* newest = impl_->newest_version(data_set);
  if (newest == nullptr) return impl_->append_data(data_set, declared_records, digest);
  if (newest->digest == digest) return impl_->check_same_file(data_set, digest);
  return Error{
      Errc::permission_denied,
      fmt::format("the file of data set '{}' is not the one that it was: it has changed since entry {} of the ledger "
                  "(version {}, {}). If it is the same data set, grown or corrected, stop the client and declare it: "
                  "`trib-client data update {} --records N`; what was spent stays spent. If it holds other records, "
                  "give it a name of its own in client.toml. Otherwise put the old file back",
                  data_set, newest->entry, newest->version, newest->time, data_set)};
}

Status Ledger::update_data(std::string_view data_set, std::int64_t declared_records, const Sha256& digest) {
  const std::lock_guard guard(impl_->mutex);
  const DataVersion* newest = impl_->newest_version(data_set);
  if (newest != nullptr && newest->digest == digest && newest->declared_records == declared_records) {
    return Error{
        Errc::already_exists,
        fmt::format("version {} of data set '{}' is this very file, with {} records declared: there is nothing "
                    "to update",
                    newest->version, data_set, declared_records)};
  }
  return impl_->append_data(data_set, declared_records, digest);
}

double Ledger::epsilon_spent(std::string_view data_set, double delta) const {
  const std::lock_guard guard(impl_->mutex);
  const Account* account = impl_->accounts.find(data_set);
  return account == nullptr ? 0.0 : account->spent.epsilon(delta);
}

double Ledger::epsilon_after(std::string_view data_set, double delta, const Charge& next) const {
  const std::lock_guard guard(impl_->mutex);
  const Account* account = impl_->accounts.find(data_set);
  RdpCurve curve = account == nullptr ? RdpCurve() : account->spent;
  return curve.add(next.mechanism).epsilon(delta);
}

std::optional<Budget> Ledger::budget(std::string_view data_set) const {
  const std::lock_guard guard(impl_->mutex);
  const auto budget = impl_->budgets.find(data_set);
  return budget == impl_->budgets.end() ? std::nullopt : std::optional(budget->second);
}

LedgerHead Ledger::head() const {
  const std::lock_guard guard(impl_->mutex);
  return impl_->head;
}

std::vector<LedgerEntry> Ledger::entries() const {
  const std::lock_guard guard(impl_->mutex);
  return impl_->entries;
}

Accounts Ledger::accounts() const {
  const std::lock_guard guard(impl_->mutex);
  return impl_->accounts;
}

Ledger::Snapshot Ledger::snapshot() const {
  const std::lock_guard guard(impl_->mutex);
  Snapshot snapshot;
  snapshot.file.header = impl_->header;
  snapshot.file.entries = impl_->entries;
  snapshot.file.head = impl_->head;
  snapshot.file.key = impl_->owner.signer->public_key().text();
  snapshot.accounts = impl_->accounts;
  return snapshot;
}

Result<LedgerFile> read_ledger_file(const std::filesystem::path& path) {
  TRIB_ASSIGN(const std::string text, read_file(path));
  TRIB_ASSIGN(LedgerFile content, parse_ledger(text, path.string()));
  if (!content.torn.empty()) {
    return Error{
        Errc::unavailable,
        fmt::format("the last line of the privacy ledger '{}' is incomplete: either a client is writing it, then "
                    "try again, or a crash cut it short, then start the client once and it will be settled",
                    path.string())};
  }
  return content;
}

Result<std::vector<LedgerEntry>> read_ledger(const std::filesystem::path& path) {
  TRIB_ASSIGN(LedgerFile content, read_ledger_file(path));
  return std::move(content.entries);
}

}  // namespace trib::privacy
