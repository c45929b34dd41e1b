// What the aggregator knows of each site's spending, as figures: what reports, histories and metrics are made of.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/result.h"
#include "privacy/mechanism.h"
#include "server/privacy_plans.h"
#include "server/store.h"

namespace trib::server {

struct DeclinedRound {
  std::string job;
  std::int64_t round = 0;  // 0: the job as a whole
  std::string reason;
  std::optional<WallTime> time;
};

// A running job at one site, from what it has spent there to its end.
struct RunningPart {
  std::string job;
  std::optional<privacy::Mechanism> round;  // what a round costs; none: not known (yet)
  // The rounds that the site may still be charged for, those included that it takes part in and has not reported yet:
  // if it is chosen in every one of them that it may take part in.
  std::int64_t rounds_left = 0;
  std::int64_t next_round = 1;  // the first of them
};

struct DataSetPrivacy {
  bool is_private = true;
  double spent = 0.0, budget = 0.0;  // as last reported, over all jobs; budget 0: none is known
  double delta = 0.0;                // at which; the newest job's where the site has not said; 0: not known
  std::int64_t declared_records = 0, rounds = 0;
  std::vector<std::string> jobs;        // oldest first
  std::vector<DeclinedRound> declined;  // the newest most_declined_listed, oldest first
  std::int64_t declined_total = 0;
  std::optional<WallTime> reported;
  std::vector<privacy::Mechanism> charged;  // what is known of it: by job, with the steps of all its rounds
  std::vector<RunningPart> running;

  // What the running jobs would still add to `spent` by their end, composed with what was charged before, and at most
  // what is left of the budget: a round over it is declined. None where it is not known, or where nothing is private.
  std::optional<double> reserved() const;
};
inline constexpr std::size_t most_declined_listed = 100;

using SitePrivacy = std::map<std::string, DataSetPrivacy>;  // by data set
using PrivacyFigures = std::map<std::string, SitePrivacy>;  // by site; of sites that jobs knew

// With `only_site`, of that one alone.
Result<PrivacyFigures> privacy_figures(Store& store, PrivacyPlans& plans, std::string_view only_site = {});

}  // namespace trib::server
