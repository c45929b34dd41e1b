#include "privacy/accountant.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <mutex>
#include <numbers>
#include <string>
#include <utility>

namespace trib::privacy {
namespace {

constexpr std::size_t kOrderCount = 99 + 53 + 4;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Below this the integrand has features that the grid does not resolve; the Gaussian without sampling bounds it there.
constexpr double kSmallestSigma = 0.05;
// Above this a larger sigma is accounted for as this one: an upper bound, and nothing overflows.
constexpr double kLargestSigma = 1e6;
constexpr double kLargestCalibratedSigma = 1e4;

constexpr std::array<double, kOrderCount> make_orders() {
  std::array<double, kOrderCount> orders{};
  std::size_t n = 0;
  for (int tenth = 1; tenth < 100; ++tenth) orders[n++] = 1.0 + tenth / 10.0;
  for (int order = 11; order < 64; ++order) orders[n++] = order;
  for (int order : {128, 256, 512, 1024}) orders[n++] = order;
  return orders;
}
constexpr std::array<double, kOrderCount> kOrders = make_orders();

// log A(alpha) for every order, where A(alpha) = E over x ~ N(0, sigma²) of (1 + u(x))^alpha and
// u(x) = q·(exp((2x − 1)/(2 sigma²)) − 1) is what the likelihood ratio of the sampled to the plain Gaussian has over 1
// (Mironov, Talwar, Zhang 2019, eq. 6). The trapezoid rule converges exponentially for such integrands; on
// [−14 sigma, alpha + 14 sigma] with a step of sigma/60 it is exact to rounding.
class Quadrature {
 public:
  Quadrature(double sample_rate, double sigma) : sigma_(sigma), step_(sigma / 60.0) {
    const double variance = sigma * sigma;
    const std::size_t points = point_count(kOrders.back());
    excess_.resize(points);
    log_ratio_.resize(points);
    log_density_.resize(points);
    for (std::size_t k = 0; k < points; ++k) {
      const double x = -14.0 * sigma + step_ * static_cast<double>(k);
      const double t = (2.0 * x - 1.0) / (2.0 * variance);
      log_density_[k] = -x * x / (2.0 * variance);
      excess_[k] = sample_rate * std::expm1(t);
      log_ratio_[k] = t < 30.0 ? std::log1p(excess_[k])
                               : t + std::log(sample_rate) + std::log1p((1.0 / sample_rate - 1.0) * std::exp(-t));
    }
  }

  double log_a(double alpha) const {
    const std::size_t points = point_count(alpha);
    double peak = -kInfinity;
    for (std::size_t k = 0; k < points; ++k) peak = std::max(peak, alpha * log_ratio_[k] + log_density_[k]);
    double sum = 0.0;
    for (std::size_t k = 0; k < points; ++k) {
      const double exponent = alpha * log_ratio_[k] + log_density_[k] - peak;
      if (exponent > -45.0) sum += std::exp(exponent);
    }
    const double log_a = peak + std::log(sum * scale());
    return log_a < 0.05 ? std::log1p(small_excess(alpha, points)) : log_a;
  }

 private:
  std::size_t point_count(double alpha) const {
    return static_cast<std::size_t>(std::ceil((alpha + 28.0 * sigma_) / step_)) + 1;
  }
  double scale() const { return step_ / (sigma_ * std::sqrt(2.0 * std::numbers::pi)); }

  // A − 1 without cancellation: E[u] = 0, so A − 1 = E[(1 + u)^alpha − 1 − alpha·u], whose integrand is never negative.
  double small_excess(double alpha, std::size_t points) const {
    double sum = 0.0;
    for (std::size_t k = 0; k < points; ++k) {
      const double exponent = alpha * log_ratio_[k];
      const double density = std::exp(log_density_[k]);
      if (std::abs(exponent) < 1.0) {
        sum += (std::expm1(exponent) - alpha * excess_[k]) * density;
      } else {
        // The power may be too large, and the density too small, for a double where their product counts.
        sum += std::exp(exponent + log_density_[k]);
        if (density > 0.0) sum -= (1.0 + alpha * excess_[k]) * density;
      }
    }
    return std::max(0.0, sum * scale());
  }

  double sigma_, step_;
  std::vector<double> excess_, log_ratio_, log_density_;
};

using Divergences = std::array<double, kOrderCount>;

// Rényi divergences of one step.
Divergences one_step(double sample_rate, double noise_multiplier) {
  Divergences divergences{};
  if (sample_rate == 0.0) return divergences;  // no record ever takes part
  if (!(sample_rate > 0.0 && sample_rate <= 1.0 && noise_multiplier > 0.0)) {
    divergences.fill(kInfinity);
    return divergences;
  }
  const double sigma = std::min(noise_multiplier, kLargestSigma);
  if (sample_rate == 1.0 || sigma < kSmallestSigma) {
    for (std::size_t i = 0; i < kOrderCount; ++i) divergences[i] = kOrders[i] / (2.0 * sigma * sigma);
    return divergences;
  }
  const Quadrature quadrature(sample_rate, sigma);
  for (std::size_t i = 0; i < kOrderCount; ++i) divergences[i] = quadrature.log_a(kOrders[i]) / (kOrders[i] - 1.0);
  return divergences;
}

// A job repeats one mechanism in every round: its integrals are computed once.
Divergences cached_one_step(double sample_rate, double noise_multiplier) {
  static std::mutex mutex;
  static std::map<std::pair<double, double>, Divergences> cache;
  constexpr std::size_t kMostEntries = 8192;  // 10 MiB: an aggregator accounts for every site of every job
  if (std::isnan(sample_rate) || std::isnan(noise_multiplier)) return one_step(sample_rate, noise_multiplier);
  const std::pair key{sample_rate, noise_multiplier};
  {
    const std::lock_guard lock(mutex);
    if (const auto found = cache.find(key); found != cache.end()) return found->second;
  }
  const Divergences divergences = one_step(sample_rate, noise_multiplier);
  const std::lock_guard lock(mutex);
  if (cache.size() >= kMostEntries) cache.clear();  // a peer that never repeats itself costs time, not memory
  cache.emplace(key, divergences);
  return divergences;
}

double epsilon_at(double order, double divergence, double delta) {
  // KL ≤ divergence, and total variation ≤ sqrt(1 − exp(−KL)): then delta alone covers it.
  if (delta * delta + std::expm1(-divergence) > 0.0) return 0.0;
  return divergence + std::log1p(-1.0 / order) - std::log(delta * order) / (order - 1.0);
}

// The smallest epsilon over the orders, and the index of its order.
std::pair<double, std::size_t> best(std::span<const double> divergences, double steps, double delta) {
  std::pair<double, std::size_t> result{kInfinity, 0};
  for (std::size_t i = 0; i < kOrderCount; ++i) {
    const double epsilon = epsilon_at(kOrders[i], divergences[i] * steps, delta);
    if (epsilon < result.first) result = {epsilon, i};
  }
  result.first = std::max(0.0, result.first);
  return result;
}

}  // namespace

std::span<const double> rdp_orders() {
  return kOrders;
}

RdpCurve::RdpCurve() : divergences_(kOrderCount, 0.0) {}

RdpCurve& RdpCurve::add(double sample_rate, double noise_multiplier, std::int64_t steps) {
  if (steps == 0) return *this;
  const Divergences step = cached_one_step(sample_rate, noise_multiplier);
  for (std::size_t i = 0; i < kOrderCount; ++i) {
    divergences_[i] += steps > 0 ? static_cast<double>(steps) * step[i] : kInfinity;
  }
  return *this;
}

RdpCurve& RdpCurve::add(const Mechanism& mechanism) {
  switch (mechanism.kind) {
    case MechanismKind::poisson_subsampled_gaussian:
      return add(mechanism.sample_rate, mechanism.noise_multiplier, mechanism.steps);
    case MechanismKind::none:
      break;
  }
  std::fill(divergences_.begin(), divergences_.end(), kInfinity);
  return *this;
}

double RdpCurve::epsilon(double delta) const {
  return best(divergences_, 1.0, delta).first;
}

double RdpCurve::best_order(double delta) const {
  return kOrders[best(divergences_, 1.0, delta).second];
}

double RdpCurve::epsilon_at_order(double order, double delta) const {
  const auto found = std::find(kOrders.begin(), kOrders.end(), order);
  if (found == kOrders.end()) throw std::invalid_argument("no such Rényi order: " + std::to_string(order));
  const double divergence = divergences_[static_cast<std::size_t>(found - kOrders.begin())];
  return std::max(0.0, epsilon_at(order, divergence, delta));
}

double filter_order(const Mechanism& mechanism, double epsilon, double delta) {
  const Divergences step = cached_one_step(mechanism.sample_rate, mechanism.noise_multiplier);
  std::int64_t affordable = 1, too_many = std::int64_t{1} << 52;
  while (too_many - affordable > 1) {
    const std::int64_t middle = affordable + (too_many - affordable) / 2;
    (best(step, static_cast<double>(middle), delta).first <= epsilon ? affordable : too_many) = middle;
  }
  return kOrders[best(step, static_cast<double>(affordable), delta).second];
}

Status check_calibration(double epsilon, double delta, double sample_rate, std::int64_t steps) {
  const auto refuse = [](std::string_view what, auto value, std::string_view range) {
    return Error{Errc::invalid_argument, fmt::format("{} is {}, but must be {}", what, value, range)};
  };
  if (!(epsilon > 0.0 && std::isfinite(epsilon))) return refuse("epsilon", epsilon, "above 0 and finite");
  if (!(delta > 0.0 && delta < 1.0)) return refuse("delta", delta, "above 0 and below 1");
  if (!(sample_rate > 0.0 && sample_rate <= 1.0)) return refuse("sample_rate", sample_rate, "above 0 and at most 1");
  if (steps < 1) return refuse("steps", steps, "at least 1");
  return {};
}

Result<double> calibrate_noise_multiplier(double epsilon, double delta, double sample_rate, std::int64_t steps) {
  TRIB_TRY(check_calibration(epsilon, delta, sample_rate, steps));
  const auto fits = [&](double sigma) {
    return best(one_step(sample_rate, sigma), static_cast<double>(steps), delta).first <= epsilon;
  };
  double enough = 1.0;
  while (!fits(enough)) {
    if (enough >= kLargestCalibratedSigma) {
      return Error{Errc::unsupported, "no noise multiplier up to 10000 gives epsilon " + std::to_string(epsilon) +
                                          " in " + std::to_string(steps) + " steps at sample rate " +
                                          std::to_string(sample_rate) +
                                          ": raise epsilon or delta, or take fewer or smaller steps"};
    }
    enough = std::min(2.0 * enough, kLargestCalibratedSigma);
  }
  double too_little = enough / 2.0;
  while (fits(too_little)) {
    enough = too_little;
    too_little /= 2.0;
    if (enough <= kSmallestSigma) return enough;
  }
  while (enough / too_little > 1.0 + 1e-5) {
    const double middle = std::sqrt(enough * too_little);
    (fits(middle) ? enough : too_little) = middle;
  }
  return enough;
}

}  // namespace trib::privacy
