// The federation's view of privacy: what each site last said that it has spent. The truth is in the sites' ledgers,
// which never leave them; here is what the aggregator keeps of them, and the head that lets it notice a ledger that was
// cut or rewritten.
#pragma once

#include <string>
#include <string_view>

#include "common/result.h"
#include "server/privacy_plans.h"
#include "server/store.h"

namespace trib::server {

// One JSON document: {"federation", "time", "sites": [{"site", "revoked", "key_sha256", "ledger_head": null | {"count",
// "hash", "time"}, "data_sets": [{"data_set", "private", "epsilon_spent", "epsilon_budget", "epsilon_reserved",
// "delta", "declared_records", "jobs", "rounds", "declined": [{"job", "round", "reason", "time"}], "declined_total",
// "reported"}]}]}. Epsilons are those of the last report, over all jobs on the data set under the site's own cap, at
// `delta`; null where it is not private. `epsilon_reserved` is what the running jobs would still add by their end
// (privacy_figures.h); null where unknown, which a job's noise is for a moment after its first site has joined. Round 0
// of `declined` is a job that the site refused as a whole or was dropped from; the newest 100 are listed.
Result<std::string> privacy_report_json(Store& store, const std::string& federation, WallTime now, PrivacyPlans& plans);

// One data set at one site, round by round: {"site", "data_set", "delta", "epsilon_budget", "epsilon_spent", "points":
// [{"job", "round", "time", "epsilon", "cost", "mechanism": {"sample_rate", "noise_multiplier", "steps", "clip_norm",
// "noise"} | null, "declined", "reason"}], "projection": [{"job", "round", "epsilon"}], "ends"}. Points are in order of
// time; `epsilon` is what the site reported in that round, over all its jobs, and where it reported nothing what the
// mechanisms that are known add up to; `cost` is what the point added to the one before. The projection goes on to the
// end of the running jobs, as if the site were chosen in every round that it may take part in, up to the round that it
// would decline, at 400 rounds at most; `ends` says how it ends, in a sentence. Noised evaluations at the site, where
// it shares them, come on top of a projection.
// Errc::not_found if no job has named the data set at this site.
Result<std::string> privacy_history_json(Store& store, std::string_view site, std::string_view data_set, WallTime now,
                                         PrivacyPlans& plans);

}  // namespace trib::server
