#include "tasks/data/dirichlet_split.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

namespace trib::tasks::data {
namespace {

using Split = std::vector<std::vector<std::size_t>>;
using testing::HasSubstr;

// `count` records of `classes` labels, in turn.
std::vector<std::int32_t> balanced_labels(std::size_t count, std::int32_t classes) {
  std::vector<std::int32_t> labels(count);
  for (std::size_t i = 0; i < count; ++i) labels[i] = static_cast<std::int32_t>(i) % classes;
  return labels;
}

Split split(const std::vector<std::int32_t>& labels, std::size_t sites, double alpha, std::size_t minimum,
            std::uint64_t seed) {
  ChaCha20Random random(RandomKey::from_seed(seed));
  return dirichlet_split(labels, sites, alpha, minimum, random).value();
}

// The share of site `site`'s records that are of its commonest label.
double commonest_share(const std::vector<std::size_t>& site, const std::vector<std::int32_t>& labels) {
  std::map<std::int32_t, double> counts;
  for (const std::size_t record : site) ++counts[labels[record]];
  double largest = 0.0;
  for (const auto& [label, count] : counts) largest = std::max(largest, count);
  return largest / static_cast<double>(site.size());
}

TEST(DirichletSplit, GivesEveryRecordToExactlyOneSiteAndEverySiteItsMinimum) {
  for (const double alpha : {1e-6, 0.01, 0.1, 0.5, 1.0, 100.0, 1e9}) {
    for (const std::size_t sites : {1u, 2u, 7u, 50u}) {
      const auto labels = balanced_labels(1003, 10);
      const Split result = split(labels, sites, alpha, 20, sites);
      ASSERT_EQ(result.size(), sites);
      std::vector<int> owners(labels.size());
      for (const auto& site : result) {
        EXPECT_GE(site.size(), 20u) << "alpha " << alpha << ", " << sites << " sites";
        EXPECT_TRUE(std::ranges::is_sorted(site));
        for (const std::size_t record : site) ++owners.at(record);
      }
      EXPECT_THAT(owners, testing::Each(1)) << "alpha " << alpha << ", " << sites << " sites";
    }
  }
}

TEST(DirichletSplit, IsTheSameForTheSameSeedAndAnotherForAnother) {
  const auto labels = balanced_labels(500, 4);
  EXPECT_EQ(split(labels, 5, 0.5, 1, 1), split(labels, 5, 0.5, 1, 1));
  EXPECT_NE(split(labels, 5, 0.5, 1, 1), split(labels, 5, 0.5, 1, 2));
}

TEST(DirichletSplit, GivesSitesTheSameMixtureForLargeAlpha) {
  const auto labels = balanced_labels(6000, 3);
  for (const auto& site : split(labels, 6, 1e6, 0, 3)) {
    EXPECT_NEAR(static_cast<double>(site.size()), 1000.0, 20.0);
    EXPECT_NEAR(commonest_share(site, labels), 1.0 / 3.0, 0.02);
  }
}

TEST(DirichletSplit, GivesEachLabelToOneSiteForVanishingAlpha) {
  const auto labels = balanced_labels(1000, 10);
  std::map<std::int32_t, std::set<std::size_t>> sites_of_label;
  const Split result = split(labels, 4, 1e-6, 0, 5);
  for (std::size_t site = 0; site < result.size(); ++site) {
    for (const std::size_t record : result[site]) sites_of_label[labels[record]].insert(site);
  }
  for (const auto& [label, sites] : sites_of_label) EXPECT_EQ(sites.size(), 1u) << label;
}

// A share of a symmetric Dirichlet(alpha) over k has mean 1/k and variance (k-1)/(k²(k·alpha+1)).
TEST(DirichletSplit, HasTheMeanAndVarianceOfADirichlet) {
  constexpr std::size_t sites = 4, draws = 4000, records = 100;
  const std::vector<std::int32_t> labels(records, 0);
  for (const double alpha : {0.1, 0.5, 1.0, 3.0}) {
    ChaCha20Random random(RandomKey::from_seed(7));
    double sum = 0.0, sum_of_squares = 0.0;
    for (std::size_t draw = 0; draw < draws; ++draw) {
      const Split result = dirichlet_split(labels, sites, alpha, 0, random).value();
      const double share = static_cast<double>(result[1].size()) / records;
      sum += share;
      sum_of_squares += share * share;
    }
    const double mean = sum / draws, variance = sum_of_squares / draws - mean * mean;
    const double expected = (sites - 1.0) / (sites * sites * (sites * alpha + 1.0));
    EXPECT_NEAR(mean, 1.0 / sites, 5.0 * std::sqrt(expected / draws)) << "alpha " << alpha;
    EXPECT_NEAR(variance, expected, 0.1 * expected) << "alpha " << alpha;
  }
}

TEST(DirichletSplit, DealsRecordsOfALabelInRandomOrder) {
  const std::vector<std::int32_t> labels(1000, 0);
  const Split result = split(labels, 2, 1e6, 0, 11);
  std::size_t in_first_half = 0;
  for (const std::size_t record : result[0]) in_first_half += record < 500;
  EXPECT_NEAR(static_cast<double>(in_first_half), 250.0, 60.0);
}

TEST(DirichletSplit, RefusesWhatItCannotDo) {
  const auto labels = balanced_labels(100, 2);
  ChaCha20Random random(RandomKey::from_seed(1));
  EXPECT_THAT(dirichlet_split(labels, 0, 0.5, 1, random).error().message, HasSubstr("at least one site"));
  EXPECT_THAT(dirichlet_split(labels, 11, 0.5, 10, random).error().message,
              HasSubstr("100 records are too few for 11 sites of at least 10 each"));
  for (const double alpha : {0.0, -1.0, 1e-7, std::nan(""), std::numeric_limits<double>::infinity()}) {
    EXPECT_THAT(dirichlet_split(labels, 2, alpha, 1, random).error().message, HasSubstr("Dirichlet alpha"));
  }
}

}  // namespace
}  // namespace trib::tasks::data
