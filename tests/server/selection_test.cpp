#include "server/rounds/selection.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

namespace trib::server {
namespace {

std::vector<Candidate> candidates(std::map<std::string, std::int64_t>& turns) {
  std::vector<Candidate> list;
  for (const auto& [site, count] : turns) list.push_back({site, count});
  return list;
}

std::map<std::string, std::int64_t> sites(int count) {
  std::map<std::string, std::int64_t> turns;
  for (int i = 0; i < count; ++i) turns["site-" + std::to_string(i)] = 0;
  return turns;
}

TEST(Selection, BalancedGivesEverySiteATurnBeforeAnyHasItsNext) {
  ChaCha20Random random(RandomKey::from_seed(1));
  auto turns = sites(7);
  for (int round = 0; round < 70; ++round) {
    for (const std::string& site : choose_sites(candidates(turns), 3, tasks::SelectionOrder::balanced, random))
      ++turns[site];
    const auto [least, most] = std::minmax_element(turns.begin(), turns.end(),
                                                   [](const auto& a, const auto& b) { return a.second < b.second; });
    EXPECT_LE(most->second - least->second, 1) << "after round " << round;
  }
}

TEST(Selection, BalancedDealsADifferentOrderEachTime) {
  ChaCha20Random random(RandomKey::from_seed(2));
  std::set<std::vector<std::string>> first_rounds;
  for (int trial = 0; trial < 50; ++trial) {
    auto turns = sites(6);
    first_rounds.insert(choose_sites(candidates(turns), 3, tasks::SelectionOrder::balanced, random));
  }
  EXPECT_GT(first_rounds.size(), 10u);  // of 20 subsets
}

// Each of 10 sites is in a round of 3 with probability 0.3: over 10,000 rounds 3,000 times, standard deviation 45.8.
TEST(Selection, UniformChoosesEverySiteEquallyOften) {
  ChaCha20Random random(RandomKey::from_seed(3));
  auto turns = sites(10);
  auto chosen = sites(10);
  for (int round = 0; round < 10'000; ++round)
    for (const std::string& site : choose_sites(candidates(turns), 3, tasks::SelectionOrder::uniform, random))
      ++chosen[site];
  for (const auto& [site, count] : chosen) EXPECT_NEAR(static_cast<double>(count), 3000.0, 5 * 45.8) << site;
}

TEST(Selection, UniformIgnoresWhoHadMoreTurns) {
  ChaCha20Random random(RandomKey::from_seed(4));
  std::map<std::string, std::int64_t> turns{{"a", 0}, {"b", 1000}};
  int b = 0;
  for (int round = 0; round < 1000; ++round)
    if (choose_sites(candidates(turns), 1, tasks::SelectionOrder::uniform, random).front() == "b") ++b;
  EXPECT_NEAR(b, 500, 5 * 15.8);
}

TEST(Selection, AskedForMoreThanThereAreItTakesAllInTheOrderOfTheirNames) {
  ChaCha20Random random(RandomKey::from_seed(5));
  auto turns = sites(3);
  EXPECT_EQ(choose_sites(candidates(turns), 9, tasks::SelectionOrder::balanced, random),
            (std::vector<std::string>{"site-0", "site-1", "site-2"}));
}

}  // namespace
}  // namespace trib::server
