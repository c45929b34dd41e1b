// What an attack on one training run says about epsilon: an empirical lower bound, to hold against the accountant's
// upper bound. Steinke, Nasr and Jagielski, "Privacy auditing with one (1) training run", NeurIPS 2023,
// arXiv:2305.08846.
//
// m canaries are added to the data, each with probability 1/2 and independently of everything else; the training runs
// once; the auditor guesses of r of them whether they were in, and abstains on the rest. If the training is
// (epsilon, delta)-DP for adding or removing one record, many right guesses are improbable, and the bound is the
// epsilon below which what was seen is too improbable to believe. It holds at the confidence asked whatever the
// canaries and the scores are: bad ones only make it small. A small bound is therefore no proof of privacy.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace trib::privacy {

struct AuditGuesses {
  std::int64_t canaries = 0;  // m
  std::int64_t guesses = 0;   // r ≤ m
  std::int64_t correct = 0;   // v ≤ r
};

// Guesses "in" for the ceil(guesses/2) highest scores and "out" for the floor(guesses/2) lowest; ties by position.
// `guesses` must have been fixed before anybody looked at `included`. Scores are finite, one a canary. Throws
// std::invalid_argument where the sizes do not fit.
AuditGuesses guess_membership(std::span<const double> scores, const std::vector<bool>& included, std::int64_t guesses);

// The largest probability with which an (epsilon, delta)-DP training lets anybody have at least as many right guesses:
// with W ~ Binomial(r, e^epsilon/(e^epsilon + 1)),
//   P[W ≥ v] + 2·m·delta·max over i = 1 … v of P[v − i ≤ W < v]/i          (Theorem 5.2 and Corollary 5.4),
// at most 1. Throws std::invalid_argument unless 0 ≤ v ≤ r ≤ m, epsilon ≥ 0 and 0 ≤ delta ≤ 1.
double audit_p_value(const AuditGuesses& guesses, double epsilon, double delta);

// The epsilon below which every one is refuted at `confidence` in (0, 1): audit_p_value < 1 − confidence. 0 if none is.
// At most `1 − confidence` of all audits of an (epsilon, delta)-DP training give a bound above its epsilon. To take the
// best of n numbers of guesses, divide 1 − confidence by n (Bonferroni).
double audit_epsilon_lower_bound(const AuditGuesses& guesses, double delta, double confidence);

}  // namespace trib::privacy
