// The federation's view of privacy: what each site last said that it has spent. The truth is in the sites' ledgers,
// which never leave them; here is what the aggregator keeps of them, and the head that lets it notice a ledger that was
// cut or rewritten.
#pragma once

#include <string>

#include "common/result.h"
#include "server/store.h"

namespace trib::server {

// One JSON document: {"federation", "sites": [{"site", "revoked", "key_sha256", "ledger_head": null | {"count", "hash",
// "time"}, "data_sets": [{"data_set", "private", "epsilon_spent", "epsilon_budget", "declared_records", "jobs",
// "rounds", "declined": [{"job", "round", "reason"}]}]}]}. Epsilons are those of the last report, over all jobs on the
// data set under the site's own cap; null where it is not private. Round 0 of `declined` is a job that the site refused
// as a whole or was dropped from.
Result<std::string> privacy_report_json(Store& store, const std::string& federation);

}  // namespace trib::server
