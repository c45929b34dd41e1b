// Non-IID splits of one labelled data set across sites, for simulations and demonstrations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/random.h"
#include "common/result.h"

namespace trib::tasks::data {

// Deals records out to `sites` sites: each label's records, in random order, are cut in proportions drawn from a
// symmetric Dirichlet(alpha), drawn anew for each label (Yurochkin et al. 2019, arXiv 1905.12022, section 4). Small
// alpha gives each site few labels; large alpha gives all sites the same mixture. A site below `minimum_per_site` then
// takes random records from the largest.
//
// labels[i] is record i's label, any number. Returns the records of each site, ascending: every record is in exactly
// one. The same source gives the same split. Errc::invalid_argument if there are no sites, if alpha is not a positive
// number, or if there are fewer than sites·minimum_per_site records.
Result<std::vector<std::vector<std::size_t>>> dirichlet_split(std::span<const std::int32_t> labels, std::size_t sites,
                                                              double alpha, std::size_t minimum_per_site,
                                                              RandomSource& random);

}  // namespace trib::tasks::data
