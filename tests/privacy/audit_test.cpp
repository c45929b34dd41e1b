// The audit's arithmetic, against figures printed in its paper, 40-digit sums, and a mechanism whose epsilon is known.
#include "privacy/audit.h"

#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

#include "common/random.h"

namespace trib::privacy {
namespace {

TEST(AuditPValue, AgreesWithSumsInFortyDigits) {
  const struct {
    AuditGuesses guesses;
    double epsilon, delta, p_value;
  } cases[] = {
      {{1000, 100, 75}, 1.0, 0.0, 0.38272186725513},     {{1000, 100, 75}, 1.0, 1e-4, 0.400554514453604},
      {{100, 100, 90}, 1.0, 1e-5, 0.000108751171350748}, {{200, 100, 98}, 3.0, 1e-3, 0.211020798413024},
      {{20, 10, 10}, 1.0, 1e-2, 0.135132206679464},      {{500, 250, 200}, 0.7, 1e-5, 0.000216927046040193},
  };
  for (const auto& expected : cases)
    EXPECT_NEAR(audit_p_value(expected.guesses, expected.epsilon, expected.delta) / expected.p_value, 1.0, 1e-11)
        << expected.guesses.correct << " of " << expected.guesses.guesses;
}

TEST(AuditLowerBound, IsWhatThePaperPrints) {
  // Appendix D (rounded) and section 7, figure 11 (cut off), of arXiv:2305.08846v1.
  EXPECT_NEAR(audit_epsilon_lower_bound({1000, 100, 75}, 1e-4, 0.95), 0.673, 5e-4);
  EXPECT_NEAR(audit_epsilon_lower_bound({100'000, 1510, 1439}, 1e-5, 0.95), 2.6755, 5e-4);
}

TEST(AuditLowerBound, AgreesWithBisectionInFortyDigits) {
  EXPECT_NEAR(audit_epsilon_lower_bound({100, 50, 50}, 1e-5, 0.95), 2.78188934334, 1e-9);
  EXPECT_NEAR(audit_epsilon_lower_bound({200, 100, 90}, 1e-5, 0.95), 1.62989219231, 1e-9);
  EXPECT_NEAR(audit_epsilon_lower_bound({200, 100, 60}, 1e-5, 0.95), 0.0514441188225, 1e-9);
  EXPECT_NEAR(audit_epsilon_lower_bound({200, 100, 90}, 1e-3, 0.99), 0.388473522425, 1e-9);
  EXPECT_EQ(audit_epsilon_lower_bound({200, 100, 55}, 1e-5, 0.95), 0.0) << "55 of 100 are no evidence of anything";
}

// Without delta, all r right has probability (e^ε/(e^ε + 1))^r, which is 1 − confidence at the bound.
TEST(AuditLowerBound, IsClosedFormWhereEveryGuessIsRight) {
  for (const std::int64_t r : {1, 5, 10, 100, 10'000}) {
    for (const double confidence : {0.9, 0.95, 0.999}) {
      const double right = std::pow(1.0 - confidence, 1.0 / static_cast<double>(r));
      const double expected = std::max(0.0, std::log(right / (1.0 - right)));
      EXPECT_NEAR(audit_epsilon_lower_bound({2 * r, r, r}, 0.0, confidence), expected, 1e-8) << r << " " << confidence;
    }
  }
}

TEST(AuditLowerBound, GrowsWithRightGuessesAndShrinksWithDeltaConfidenceAndAbstentions) {
  double last = 0.0;
  for (std::int64_t correct = 0; correct <= 100; ++correct) {
    const double bound = audit_epsilon_lower_bound({200, 100, correct}, 1e-5, 0.95);
    EXPECT_GE(bound, last) << correct;
    last = bound;
    EXPECT_LE(audit_epsilon_lower_bound({200, 100, correct}, 1e-3, 0.95), bound) << correct;
    EXPECT_LE(audit_epsilon_lower_bound({200, 100, correct}, 1e-5, 0.99), bound) << correct;
    EXPECT_LE(audit_epsilon_lower_bound({2000, 100, correct}, 1e-5, 0.95), bound) << correct;
  }
  EXPECT_GT(last, 3.0);
}

// Randomized response is epsilon-DP and the guess "what it said" is optimal, so the bound must stay below epsilon in
// all but a share of 1 − confidence of the audits, and come close to it with many canaries.
TEST(AuditLowerBound, HoldsOfRandomizedResponseAsOftenAsItPromises) {
  constexpr std::int64_t canaries = 400;
  constexpr int trials = 2000;
  constexpr double confidence = 0.9;
  ChaCha20Random random(RandomKey::from_seed(71));
  for (const double epsilon : {0.5, 2.0}) {
    std::vector<double> bound(canaries + 1);  // by right guesses
    for (std::int64_t correct = 0; correct <= canaries; ++correct)
      bound[static_cast<std::size_t>(correct)] =
          audit_epsilon_lower_bound({canaries, canaries, correct}, 0.0, confidence);
    int violations = 0;
    for (int trial = 0; trial < trials; ++trial) {
      std::size_t correct = 0;
      for (std::int64_t i = 0; i < canaries; ++i) correct += random.bernoulli(1.0 / (1.0 + std::exp(-epsilon)));
      violations += bound[correct] > epsilon;
    }
    // Binomial(trials, at most 0.1): four standard deviations above its mean. It is not empty either: the bound is
    // tight.
    EXPECT_LT(violations, trials * (1.0 - confidence) + 4.0 * std::sqrt(trials * confidence * (1.0 - confidence)));
    EXPECT_GT(violations, trials * (1.0 - confidence) / 2.0) << "a bound that never errs says too little";
  }
}

TEST(AuditLowerBound, ComesCloseToTheEpsilonOfRandomizedResponseWithManyCanaries) {
  constexpr std::int64_t canaries = 100'000;
  const double epsilon = 1.5;
  ChaCha20Random random(RandomKey::from_seed(72));
  std::vector<bool> included;
  std::vector<double> scores;
  for (std::int64_t i = 0; i < canaries; ++i) {
    included.push_back(random.bernoulli(0.5));
    const bool truthful = random.bernoulli(1.0 / (1.0 + std::exp(-epsilon)));
    scores.push_back(included.back() == truthful ? 1.0 : 0.0);
  }
  const AuditGuesses guesses = guess_membership(scores, included, canaries / 2);
  const double bound = audit_epsilon_lower_bound(guesses, 0.0, 0.95);
  EXPECT_LT(bound, epsilon);
  EXPECT_GT(bound, epsilon - 0.06);
}

TEST(GuessMembership, TakesTheExtremesAndAbstainsBetween) {
  const std::vector<double> scores{0.5, 9.0, -3.0, 0.1, 7.0, -8.0};
  const std::vector<bool> included{true, true, false, true, false, true};
  const AuditGuesses guesses = guess_membership(scores, included, 4);  // in: 9 and 7; out: -8 and -3
  EXPECT_EQ(guesses.canaries, 6);
  EXPECT_EQ(guesses.guesses, 4);
  EXPECT_EQ(guesses.correct, 2);
  EXPECT_EQ(guess_membership(scores, included, 1).correct, 1) << "an odd one more is for \"in\"";
  EXPECT_EQ(guess_membership(scores, included, 0).correct, 0);
  EXPECT_EQ(guess_membership(scores, included, 6).guesses, 6);
}

TEST(GuessMembership, AlwaysIsHalfRightWithoutASignal) {
  ChaCha20Random random(RandomKey::from_seed(73));
  std::vector<bool> included;
  for (int i = 0; i < 10'000; ++i) included.push_back(random.bernoulli(0.5));
  const AuditGuesses guesses = guess_membership(std::vector<double>(10'000, 1.0), included, 5000);
  EXPECT_NEAR(static_cast<double>(guesses.correct), 2500.0, 4.0 * std::sqrt(5000.0) / 2.0);
}

TEST(Audit, RefusesFiguresThatCannotBe) {
  EXPECT_THROW(audit_p_value({10, 20, 5}, 1.0, 0.0), std::invalid_argument);
  EXPECT_THROW(audit_p_value({10, 5, 6}, 1.0, 0.0), std::invalid_argument);
  EXPECT_THROW(audit_p_value({10, 5, 5}, -1.0, 0.0), std::invalid_argument);
  EXPECT_THROW(audit_p_value({10, 5, 5}, 1.0, 1.5), std::invalid_argument);
  EXPECT_THROW(audit_epsilon_lower_bound({10, 5, 5}, 0.0, 1.0), std::invalid_argument);
  EXPECT_THROW(guess_membership(std::vector<double>(3), std::vector<bool>(4), 2), std::invalid_argument);
  EXPECT_THROW(guess_membership(std::vector<double>(3), std::vector<bool>(3), 4), std::invalid_argument);
}

}  // namespace
}  // namespace trib::privacy
