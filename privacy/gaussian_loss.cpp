#include "privacy/gaussian_loss.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

namespace trib::privacy {
namespace {

double normal_tail(double z) {
  return 0.5 * std::erfc(z / std::numbers::sqrt2);
}

double normal_density(double z) {
  return std::exp(-0.5 * z * z) / std::sqrt(2.0 * std::numbers::pi);
}

// (1 − Φ(z))/φ(z), Mills's ratio.
double mills(double z) {
  return std::sqrt(std::numbers::pi / 2.0) * scaled_erfc(z / std::numbers::sqrt2);
}

}  // namespace

double scaled_erfc(double x) {
  if (x < 4.0) return std::exp(x * x) * std::erfc(x);
  // erfc's continued fraction, from the inside out; from x = 4 on, forty terms are exact to rounding.
  double fraction = x;
  for (int k = 40; k >= 1; --k) fraction = x + 0.5 * k / fraction;
  return 1.0 / (fraction * std::sqrt(std::numbers::pi));
}

double gaussian_delta(double mu, double epsilon) {
  const double middle = epsilon / mu, half = mu / 2.0;
  const double near = middle - half, far = middle + half;
  if (near < -5.0) {  // delta is close to 1
    return normal_tail(near) - std::exp(epsilon - 0.5 * far * far) * mills(far) / std::sqrt(2.0 * std::numbers::pi);
  }
  // φ(near) = e^epsilon·φ(far), so delta is φ(near) times a difference of Mills's ratios, which does not overflow.
  if (mu > 2e-3) return normal_density(near) * (mills(near) - mills(far));
  // Taylor's series where the difference would cancel: m' = z·m − 1, m'' = m + z·m', m''' = 2·m' + z·m''.
  const double m = mills(middle), first = middle * m - 1.0;
  const double third = 2.0 * first + middle * (m + middle * first);
  return std::max(0.0, -normal_density(near) * mu * (first + half * half * third / 6.0));
}

double gaussian_epsilon(double mu, double delta) {
  if (delta >= 1.0) return 0.0;
  if (!(delta > 0.0) || !std::isfinite(mu)) return std::numeric_limits<double>::infinity();
  if (!(mu > 0.0) || std::erf(mu / (2.0 * std::numbers::sqrt2)) <= delta) return 0.0;
  double low = 0.0, high = mu * (mu / 2.0 + std::sqrt(-2.0 * std::log(delta)));  // delta(high) ≤ Φ(−z) ≤ exp(−z²/2)
  for (int i = 0; i < 200; ++i) {
    const double middle = low + (high - low) / 2.0;
    if (middle <= low || middle >= high) break;
    (gaussian_delta(mu, middle) <= delta ? high : low) = middle;
  }
  return high;
}

double sampled_gaussian_delta(double sample_rate, double noise_multiplier, double epsilon) {
  if (sample_rate == 1.0) return gaussian_delta(1.0 / noise_multiplier, epsilon);
  const double inner = epsilon < 30.0
                           ? std::log1p(std::expm1(epsilon) / sample_rate)
                           : epsilon + std::log1p((sample_rate - 1.0) * std::exp(-epsilon)) - std::log(sample_rate);
  return sample_rate * gaussian_delta(1.0 / noise_multiplier, inner);
}

double sampled_gaussian_epsilon(double sample_rate, double noise_multiplier, double delta) {
  const double inner = gaussian_epsilon(1.0 / noise_multiplier, delta / sample_rate);
  if (sample_rate == 1.0 || std::isinf(inner)) return inner;
  if (inner < 30.0) return std::log1p(sample_rate * std::expm1(inner));
  return inner + std::log(sample_rate) + std::log1p((1.0 / sample_rate - 1.0) * std::exp(-inner));
}

}  // namespace trib::privacy
