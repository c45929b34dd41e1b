#include "privacy/audit.h"

#include <algorithm>
#include <boost/math/distributions/binomial.hpp>
#include <cmath>
#include <numeric>
#include <stdexcept>

namespace trib::privacy {

AuditGuesses guess_membership(std::span<const double> scores, const std::vector<bool>& included, std::int64_t guesses) {
  if (scores.size() != included.size()) throw std::invalid_argument("an audit has one score for every canary");
  if (guesses < 0 || guesses > static_cast<std::int64_t>(scores.size()))
    throw std::invalid_argument("an audit cannot guess more often than it has canaries");
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, std::greater<>(), [&](std::size_t i) { return scores[i]; });

  AuditGuesses result{.canaries = static_cast<std::int64_t>(scores.size()), .guesses = guesses};
  const std::int64_t highest = (guesses + 1) / 2;
  for (std::int64_t i = 0; i < highest; ++i) result.correct += included[order[static_cast<std::size_t>(i)]];
  for (std::int64_t i = 0; i < guesses - highest; ++i)
    result.correct += !included[order[order.size() - 1 - static_cast<std::size_t>(i)]];
  return result;
}

double audit_p_value(const AuditGuesses& guesses, double epsilon, double delta) {
  const auto [m, r, v] = guesses;
  if (v < 0 || v > r || r > m || !(epsilon >= 0.0) || !(delta >= 0.0 && delta <= 1.0))
    throw std::invalid_argument("an audit needs 0 <= correct <= guesses <= canaries, epsilon >= 0 and delta in [0, 1]");
  if (v == 0) return 1.0;
  using boost::math::complement;
  const boost::math::binomial_distribution<double> right(static_cast<double>(r), 1.0 / (1.0 + std::exp(-epsilon)));
  const double beta = cdf(complement(right, static_cast<double>(v - 1)));  // P[W ≥ v]
  double alpha = 0.0, below = 0.0;                                         // below: P[v − i ≤ W < v]
  for (std::int64_t i = 1; i <= v && delta > 0.0; ++i) {
    below += pdf(right, static_cast<double>(v - i));
    alpha = std::max(alpha, below / static_cast<double>(i));
    if (1.0 - beta <= alpha * static_cast<double>(i))
      break;  // no later quotient is larger: `below` is at most 1 − beta
  }
  return std::min(1.0, beta + 2.0 * static_cast<double>(m) * delta * alpha);
}

double audit_epsilon_lower_bound(const AuditGuesses& guesses, double delta, double confidence) {
  if (!(confidence > 0.0 && confidence < 1.0)) throw std::invalid_argument("confidence lies between 0 and 1");
  const auto is_refuted = [&](double epsilon) { return audit_p_value(guesses, epsilon, delta) < 1.0 - confidence; };
  // In small steps to the first epsilon that is believable, since the term with delta need not grow with epsilon.
  constexpr double step = 1.0 / 16.0;
  if (!is_refuted(0.0)) return 0.0;
  double refuted = 0.0;
  while (is_refuted(refuted + step)) refuted += step;
  double believable = refuted + step;
  for (int i = 0; i < 40; ++i) {
    const double middle = 0.5 * (refuted + believable);
    (is_refuted(middle) ? refuted : believable) = middle;
  }
  return refuted;
}

}  // namespace trib::privacy
