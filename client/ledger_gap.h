// A ledger restored from an old backup has forgotten charges. The aggregator remembers how far it had come.
#pragma once

#include "client/job_runner.h"
#include "common/result.h"
#include "privacy/ledger.h"

namespace trib::client {

// Compares the site's ledger with the newest head that the aggregator has seen of it. If entries are missing, each of
// them is charged to every data set that has a budget, as the costliest charge that data set has ever made; a data set
// of which nothing is left to judge by is charged past its cap, so that nothing more is spent on it until its owner has
// restored a newer ledger. Returns how many entries were missing.
//
// If none is missing, the entry that the aggregator has seen must be there with the same hash, or be one that an
// earlier gap stands for. A history that was rewritten, whatever its length, is Errc::corrupt, with what to do. After
// any error nothing may be trained.
Result<std::int64_t> charge_ledger_gap(const Site& site, const privacy::LedgerHead& known);

}  // namespace trib::client
