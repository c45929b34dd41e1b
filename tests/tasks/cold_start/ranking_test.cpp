// Rankings worked out by hand.
#include "tasks/cold_start/ranking.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace trib::tasks::cold_start {
namespace {

constexpr float masked = -std::numeric_limits<float>::infinity();
using Ranks = std::vector<std::int64_t>;

Ranks ranks(std::vector<float> scores, std::vector<std::int32_t> relevant, std::int64_t cut = 20) {
  return top_ranks(scores, relevant, cut);
}

TEST(TopRanks, AreThePlacesOfTheRelevantItemsInDescendingScores) {
  // In order: item 2 (9), item 0 (5), item 3 (4), item 1 (−1), item 4 (−7).
  EXPECT_EQ(ranks({5, -1, 9, 4, -7}, {0, 1}), (Ranks{2, 4}));
  EXPECT_EQ(ranks({5, -1, 9, 4, -7}, {2}), (Ranks{1}));
  EXPECT_EQ(ranks({5, -1, 9, 4, -7}, {4}), (Ranks{5}));
}

TEST(TopRanks, LeaveOutWhatIsBeyondTheCut) {
  EXPECT_EQ(ranks({5, -1, 9, 4, -7}, {0, 1}, 3), (Ranks{2}));
  EXPECT_EQ(ranks({5, -1, 9, 4, -7}, {4}, 4), (Ranks{}));
}

TEST(TopRanks, PutRelevantItemsLastAmongEqualScores) {
  // 3 is first; 1, 1, 1 are places 2 to 4: two of them relevant, so places 3 and 4.
  EXPECT_EQ(ranks({1, 3, 1, 1, 0}, {0, 2}), (Ranks{3, 4}));
  // All the same: one relevant item of four is the last.
  EXPECT_EQ(ranks({2, 2, 2, 2}, {1}), (Ranks{4}));
}

TEST(TopRanks, CountTiesBeyondTheCutBeforeTheyGiveARelevantItemAPlace) {
  // Five equal scores and a cut of 3: the relevant item is fifth, so it is out; with a cut of 5 it is in.
  EXPECT_EQ(ranks({1, 1, 1, 1, 1}, {2}, 3), (Ranks{}));
  EXPECT_EQ(ranks({1, 1, 1, 1, 1}, {2}, 5), (Ranks{5}));
  // 7 is first; of three 4s two are relevant: places 3 and 4, of which a cut of 3 has one.
  EXPECT_EQ(ranks({4, 7, 4, 4}, {0, 3}, 3), (Ranks{3}));
}

TEST(TopRanks, NeverPlaceWhatScoresMinusInfinity) {
  EXPECT_EQ(ranks({masked, 1, masked, -5}, {0, 3}), (Ranks{2}));
  EXPECT_EQ(ranks({masked, masked}, {0}), (Ranks{}));
  // A negative score is above the mask, as zero would not be.
  EXPECT_EQ(ranks({masked, -1000, masked}, {1}), (Ranks{1}));
}

TEST(TopRanks, AgreeWithAWholeSortOnRandomScoresWithTies) {
  std::mt19937 random(5);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<float> scores(1 + random() % 300);
    for (float& score : scores) score = random() % 7 == 0 ? masked : static_cast<float>(random() % 60) - 30.0f;
    std::vector<std::int32_t> relevant;
    std::vector<bool> is_relevant(scores.size());
    for (std::size_t i = 0; i < scores.size(); ++i) {
      if (random() % 9 != 0) continue;
      relevant.push_back(static_cast<std::int32_t>(i));
      is_relevant[i] = true;
    }
    std::vector<std::size_t> order;
    for (std::size_t i = 0; i < scores.size(); ++i)
      if (scores[i] > masked) order.push_back(i);
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return scores[a] != scores[b] ? scores[a] > scores[b] : is_relevant[a] < is_relevant[b];
    });
    Ranks expected;
    for (std::size_t place = 0; place < std::min<std::size_t>(20, order.size()); ++place)
      if (is_relevant[order[place]]) expected.push_back(static_cast<std::int64_t>(place) + 1);
    EXPECT_EQ(top_ranks(scores, relevant, 20), expected) << "trial " << trial;
  }
}

TEST(Figures, OfARankingWorkedOutByHand) {
  // Four relevant items; of the first five places, 1, 3 and 4 are relevant.
  const Ranks places = {1, 3, 4, 12};
  const UserFigures at_5 = figures_at(places, 4, 5);
  EXPECT_DOUBLE_EQ(at_5.hr, 1.0);
  EXPECT_DOUBLE_EQ(at_5.recall, 0.75);
  EXPECT_DOUBLE_EQ(at_5.mrr, 1.0);
  // DCG = 1/log2 2 + 1/log2 4 + 1/log2 5 = 1 + 0.5 + 0.4306765581 = 1.9306765581
  // ideal = 1 + 1/log2 3 + 1/log2 4 + 1/log2 5 = 1 + 0.6309297536 + 0.5 + 0.4306765581 = 2.5616063117
  EXPECT_NEAR(at_5.ndcg, 0.7536976, 1e-7);
  const UserFigures at_20 = figures_at(places, 4, 20);
  EXPECT_DOUBLE_EQ(at_20.recall, 1.0);
  // + 1/log2 13 = 0.2702381544: 2.2009147125/2.5616063117
  EXPECT_NEAR(at_20.ndcg, 0.8591932, 1e-7);
}

TEST(Figures, OfMoreRelevantItemsThanPlaces) {
  // Ten relevant, five places, two of them hit: 2 and 5.
  const UserFigures figures = figures_at(Ranks{2, 5}, 10, 5);
  EXPECT_DOUBLE_EQ(figures.recall, 0.2);
  EXPECT_DOUBLE_EQ(figures.mrr, 0.5);
  // (1/log2 3 + 1/log2 6)/(1 + 1/log2 3 + 1/2 + 1/log2 5 + 1/log2 6) = (0.6309297536 + 0.3868528072)/2.9484591188
  EXPECT_NEAR(figures.ndcg, 0.3451914, 1e-7);
}

TEST(Figures, AreNothingWhereNothingIsHit) {
  const UserFigures figures = figures_at(Ranks{6}, 2, 5);
  EXPECT_EQ(figures.hr + figures.recall + figures.ndcg + figures.mrr, 0.0);
}

TEST(RankingMetrics, AreMeansOverUsersWithTheirStandardErrors) {
  RankingQueries queries;
  queries.users = {0, 1, 2};
  queries.relevant = {{0}, {1}, {0, 1}};
  queries.excluded = {{}, {}, {}};
  // Recall at 5: 1, 0, 1/2. Mean 1/2; variance 1/4; 1.96·sqrt(1/12) = 0.5657993...
  const auto metrics = ranking_metrics({{2}, {}, {5, 9}}, queries);
  EXPECT_DOUBLE_EQ(metrics.at("users"), 3.0);
  EXPECT_DOUBLE_EQ(metrics.at("recall@5"), 0.5);
  EXPECT_NEAR(metrics.at("recall@5_ci"), 0.5658032, 1e-6);
  EXPECT_DOUBLE_EQ(metrics.at("hr@5"), 2.0 / 3.0);
  EXPECT_NEAR(metrics.at("mrr@5"), (0.5 + 0.0 + 0.2) / 3.0, 1e-12);
  EXPECT_DOUBLE_EQ(metrics.at("recall@10"), 2.0 / 3.0);
}

TEST(RankAll, ScoresEveryCandidateAndNoOther) {
  // Two users, four items, d = 2. Scores: user 0: 1, 0, 3, 2; user 1: 0, 2, −1, 1.
  const std::vector<float> users = {1, 0, 0, 1}, items = {1, 0, 0, 2, 3, -1, 2, 1};
  RankingQueries queries;
  queries.users = {7, 9};
  queries.relevant = {{0, 3}, {0, 2}};
  queries.excluded = {{2}, {}};
  queries.candidate = {1, 1, 1, 1};
  EXPECT_EQ(rank_all({users, 2, 2}, {items, 4, 2}, queries), (std::vector<Ranks>{{1, 2}, {3, 4}}));
  queries.candidate = {1, 0, 1, 1};  // item 1 is none: user 1's second and third
  EXPECT_EQ(rank_all({users, 2, 2}, {items, 4, 2}, queries), (std::vector<Ranks>{{1, 2}, {2, 3}}));
}

}  // namespace
}  // namespace trib::tasks::cold_start
