#include "client/ledger_gap.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <vector>

#include "common/hash.h"
#include "privacy/accountant.h"

namespace trib::client {
namespace {

// More than any cap: one step on every record with noise far below the clip norm.
privacy::Mechanism unbounded_cost() {
  return {.sample_rate = 1.0,
          .noise_multiplier = 1e-3,  // less than the discrete Gaussian takes
          .clip_norm = 1.0,
          .steps = 1,
          .noise = privacy::NoiseKind::float_gaussian};
}

privacy::Charge costliest_charge(const Site& site, const std::string& data_set, const DataSetPolicy& policy) {
  privacy::Charge worst;
  worst.job = "restored-ledger";
  worst.data_set = data_set;
  worst.declared_records = policy.declared_records;
  worst.target_delta = policy.budget->delta;
  worst.mechanism = unbounded_cost();
  double highest = -1.0;
  for (const privacy::LedgerEntry& entry : site.ledger->entries()) {
    if (entry.charge.data_set != data_set || entry.kind != privacy::EntryKind::charge) continue;
    if (entry.charge.mechanism.kind == privacy::MechanismKind::none) continue;
    const double epsilon = privacy::RdpCurve().add(entry.charge.mechanism).epsilon(policy.budget->delta);
    if (epsilon <= highest) continue;
    highest = epsilon;
    worst.mechanism = entry.charge.mechanism;
  }
  return worst;
}

// The entry that the aggregator knows must still be there, or be among those that a gap stands for.
Status check_history(const std::vector<privacy::LedgerEntry>& entries, const privacy::LedgerHead& known) {
  const auto found = std::find_if(entries.begin(), entries.end(),
                                  [&](const privacy::LedgerEntry& entry) { return entry.number >= known.count; });
  if (known.count <= 0 || found == entries.end()) return {};
  if (found->number == known.count && found->hash == known.hash) return {};
  if (found->number > known.count && found->number - found->missing <= known.count) return {};
  return Error{
      Errc::corrupt,
      fmt::format(
          "entry {} of the privacy ledger is not the one that the aggregator has seen ({}… instead of {}…): the "
          "ledger was edited or replaced, or went on from a backup before the aggregator was asked. Nothing is "
          "trained on it. Restore the newest copy of ledger.jsonl; if there is none, keep this file for the "
          "record, take it out of the directory, and start again: what the aggregator has seen is then charged "
          "at its worst",
          known.count, to_hex(found->hash).substr(0, 12), to_hex(known.hash).substr(0, 12))};
}

}  // namespace

Result<std::int64_t> charge_ledger_gap(const Site& site, const privacy::LedgerHead& known) {
  const std::int64_t missing = known.count - site.ledger->head().count;
  if (missing <= 0) {
    TRIB_TRY(check_history(site.ledger->entries(), known));
    return 0;
  }
  spdlog::warn(
      "the privacy ledger has {} entries and the aggregator has seen {}: it was restored from an old backup, and the "
      "missing charges are made up for at their worst",
      site.ledger->head().count, known.count);
  std::vector<privacy::Charge> worst_cases;
  for (const auto& [name, policy] : site.data_sets) {
    if (policy.budget) worst_cases.push_back(costliest_charge(site, name, policy));
  }
  if (worst_cases.empty()) return missing;  // nothing private is ever trained here
  if (const Status charged = site.ledger->charge_gap(missing, worst_cases); !charged) {
    return charged.error().with_context(
        "the privacy ledger is behind what the aggregator has seen, and cannot be mended");
  }
  for (const privacy::Charge& charge : worst_cases) {
    const privacy::Budget& budget = *site.data_sets.find(charge.data_set)->second.budget;
    spdlog::warn("data set '{}': epsilon {:.4g} of {:.4g} is spent now", charge.data_set,
                 site.ledger->epsilon_spent(charge.data_set, budget.delta), budget.epsilon);
  }
  return missing;
}

}  // namespace trib::client
