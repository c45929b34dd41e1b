// Who takes part in a round.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/random.h"
#include "tasks/job.h"

namespace trib::server {

struct Candidate {
  std::string site;
  std::int64_t turns = 0;  // how often it has been chosen
};

// `count` of the candidates (all, if there are fewer), ordered by name. Balanced: those with the fewest turns first,
// ties by lot, which deals out a fresh random permutation of the sites again and again. Uniform: any of them alike.
std::vector<std::string> choose_sites(std::vector<Candidate> candidates, std::size_t count, tasks::SelectionOrder order,
                                      RandomSource& random);

}  // namespace trib::server
