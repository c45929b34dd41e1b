// What a ledger's entries add up to, and whether a further charge is covered: the one place with the rules of the cap.
// The ledger asks it before it charges; an audit replays a file through it and must come to the same decisions.
//
// The cap of a data set is an RDP privacy filter (Feldman and Zrnic 2021): spending is composed at one Rényi order and
// turned into epsilon at the cap's delta. The order is fixed by the first private charge, stated in the ledger with it,
// and never moves, so a server that chooses its rounds adaptively cannot pass the cap, nor can a restart or another
// configuration shift it. Epsilon and delta of the cap are the site owner's: a new value holds from the next charge on,
// over everything spent so far. Lowered below what is spent, it declines everything; raised, it is a new promise.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "privacy/accountant.h"
#include "privacy/ledger_entry.h"

namespace trib::privacy {

// One version of a data set, as its file was declared.
struct DataVersion {
  std::int64_t version = 0, entry = 0, declared_records = 0;
  std::string time;
  Sha256 digest{};
};

// What one job spent on one data set.
struct JobSpending {
  std::vector<Mechanism> mechanisms;  // equal ones merged into one with all steps, in the order of appearance
  std::int64_t rounds = 0, steps = 0;
  std::string first_time, last_time;
};

struct Account {
  RdpCurve spent;
  std::optional<StatedBudget> budget;             // as last stated
  std::int64_t charges = 0, steps = 0, lost = 0;  // lost: entries that stand for gaps and torn lines
  std::int64_t declared_records = 0;
  std::int64_t first_private_entry = 0, first_non_private_entry = 0;  // 0: none
  std::vector<DataVersion> versions;
  std::map<std::string, JobSpending> jobs;  // "" for gaps of unknown jobs

  // By the filter, at the stated order and delta. 0 before the first private charge, infinity after a non-private one.
  double filtered_epsilon() const;
  bool is_private() const { return first_non_private_entry == 0; }
  std::vector<Mechanism> mechanisms() const;  // of all jobs, merged
};

class Accounts {
 public:
  // Takes an entry into account, without asking whether it should be there.
  void apply(const LedgerEntry& entry);

  // Whether `charge` is covered by `budget`. Ok, or Errc::over_budget (the cap would be passed; the data set, or
  // another name of the same file, was read without privacy; the file has a budget under another name) or
  // Errc::invalid_argument (delta too large; an order that is not the one that was fixed). Non-private charges are
  // always ok here.
  Status check(const Charge& charge, const StatedBudget& budget) const;

  // The same entry in a file: its own stated budget must cover it. Gaps and torn lines were spent before they were
  // written, so they pass; data versions must count up.
  Status check(const LedgerEntry& entry) const;

  // The order of the data set's filter, or the one that `first` would fix under this cap.
  double order_for(std::string_view data_set, const Mechanism& first, double epsilon, double delta) const;

  const Account* find(std::string_view data_set) const;
  // Names whose file is, in some version, the same as one of this data set's.
  std::set<std::string> same_file(std::string_view data_set) const;
  std::set<std::string> with_digest(const Sha256& digest) const;
  const std::map<std::string, Account, std::less<>>& all() const { return accounts_; }

 private:
  std::map<std::string, Account, std::less<>> accounts_;
  std::map<Sha256, std::set<std::string>> names_of_file_;
};

// Adds `mechanism` to a list, to the steps of an equal one if there is one.
void merge(std::vector<Mechanism>& mechanisms, const Mechanism& mechanism);

// Replays verified entries. Errc::corrupt names the first that its own budget did not cover.
Result<Accounts> audit(const std::vector<LedgerEntry>& entries);

}  // namespace trib::privacy
