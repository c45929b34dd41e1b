// The site's half: sums over the records that have arrived.
#pragma once

#include <memory>

#include "common/result.h"
#include "tasks/task.h"

namespace trib::tasks::analytic_cil {

// Reads the site's file and makes its features. In round k the site sends the statistics of its records of the rounds
// after the last one that counted it (RoundPlan::last_counted) up to k: a round that a site missed, or that was lost
// after its charge, comes with the next one it takes part in; nothing is counted twice, and nothing is lost until the
// job's last round. A site without such records sends zeros, with the noise of every other where the job is private.
// Errors: what is wrong with the file, the backbone or the declared size; Errc::unsupported if the site's features are
// not the aggregator's.
Result<std::unique_ptr<ClientTask>> make_client(const JobSpec& job, const SiteContext& site);

}  // namespace trib::tasks::analytic_cil
