#include "privacy/privacy_loss.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <tuple>

#include "privacy/accountant.h"
#include "privacy/composed_loss.h"
#include "privacy/gaussian_loss.h"

namespace trib::privacy {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Below this noise a step is accounted for as if every record took part, which is an upper bound.
constexpr double kSmallestSigma = 0.05;
constexpr double kLargestSigma = 1e6;         // more noise is accounted for as this much
constexpr double kMostSteps = 1e9;            // beyond, rounding would no longer be negligible
constexpr std::size_t kMostMechanisms = 256;  // different ones
constexpr std::array kBothDirections = {Adjacency::remove, Adjacency::add};
constexpr double kLargestCalibratedSigma = 1e4;
constexpr double kSigmaTolerance = 1e-4;

// All plain Gaussians are one, of this mu: sqrt(Σ steps/sigma²).
double gaussian_mu(std::span<const SampledGaussian> steps) {
  double sum = 0.0;
  for (const SampledGaussian& step : steps) {
    sum += static_cast<double>(step.steps) / (step.noise_multiplier * step.noise_multiplier);
  }
  return std::sqrt(sum);
}

bool is_one_step(std::span<const SampledGaussian> steps) {
  return steps.size() == 1 && steps[0].steps == 1;
}

}  // namespace

std::string_view to_string(EpsilonMethod method) {
  switch (method) {
    case EpsilonMethod::closed_form:
      return "closed form";
    case EpsilonMethod::privacy_loss_distribution:
      return "pld";
    case EpsilonMethod::rdp:
      return "rdp";
    case EpsilonMethod::not_private:
      break;
  }
  return "not private";
}

PrivacyLoss& PrivacyLoss::add(double sample_rate, double noise_multiplier, std::int64_t steps) {
  if (steps == 0) return *this;
  if (!(sample_rate >= 0.0 && sample_rate <= 1.0 && steps > 0) || !(sample_rate == 0.0 || noise_multiplier > 0.0)) {
    is_private_ = false;
  } else if (sample_rate > 0.0) {
    phases_.push_back({sample_rate, std::min(noise_multiplier, kLargestSigma), steps});
  }
  return *this;
}

PrivacyLoss& PrivacyLoss::add(const Mechanism& mechanism) {
  switch (mechanism.kind) {
    case MechanismKind::poisson_subsampled_gaussian:
      return add(mechanism.sample_rate, mechanism.noise_multiplier, mechanism.steps);
    case MechanismKind::none:
      break;
  }
  is_private_ = false;
  return *this;
}

// One entry for each different mechanism, sorted, so that no order of adding leaves a trace; plain Gaussians as one
// step of one Gaussian, at the front.
std::vector<SampledGaussian> PrivacyLoss::merged(bool& sampling_ignored) const {
  std::vector<SampledGaussian> sorted = phases_;
  sampling_ignored = false;
  const bool is_single = is_one_step(sorted);  // has a closed form at any noise
  for (SampledGaussian& phase : sorted) {
    if (is_single || phase.sample_rate == 1.0 || phase.noise_multiplier >= kSmallestSigma) continue;
    phase.sample_rate = 1.0;
    sampling_ignored = true;
  }
  std::sort(sorted.begin(), sorted.end(), [](const SampledGaussian& a, const SampledGaussian& b) {
    return std::tie(b.sample_rate, a.noise_multiplier) < std::tie(a.sample_rate, b.noise_multiplier);
  });
  std::vector<SampledGaussian> result;
  for (const SampledGaussian& phase : sorted) {
    const bool same = !result.empty() && result.back().sample_rate == phase.sample_rate &&
                      result.back().noise_multiplier == phase.noise_multiplier;
    if (same && result.back().steps <= std::numeric_limits<std::int64_t>::max() - phase.steps) {
      result.back().steps += phase.steps;
    } else {
      result.push_back(phase);
    }
  }
  const auto sampled = std::find_if(result.begin(), result.end(), [](auto& phase) { return phase.sample_rate < 1.0; });
  if (sampled != result.begin()) {
    const double mu = gaussian_mu({result.begin(), sampled});
    result.erase(result.begin() + 1, sampled);
    result.front() = {1.0, 1.0 / mu, 1};
  }
  return result;
}

TightEpsilon PrivacyLoss::epsilon(double delta) const {
  if (delta >= 1.0) return {};
  if (!is_private_) return {kInfinity, EpsilonMethod::not_private, false, ""};
  if (phases_.empty()) return {};
  if (!(delta > 0.0)) return {kInfinity, EpsilonMethod::not_private, false, ""};
  bool sampling_ignored = false;
  const std::vector<SampledGaussian> steps = merged(sampling_ignored);

  TightEpsilon result;
  if (sampling_ignored) {
    result.is_fallback = true;
    result.why =
        fmt::format("a noise multiplier below {} is accounted for as if every record took part", kSmallestSigma);
  }
  if (is_one_step(steps)) {
    constexpr double rounding = 1.0 + 1e-13;
    result.epsilon = rounding * sampled_gaussian_epsilon(steps[0].sample_rate, steps[0].noise_multiplier, delta);
    return result;
  }

  RdpCurve curve;
  for (const SampledGaussian& phase : phases_) curve.add(phase.sample_rate, phase.noise_multiplier, phase.steps);
  const double rdp = curve.epsilon(delta);
  const auto fall_back = [&](std::string why) { return TightEpsilon{rdp, EpsilonMethod::rdp, true, std::move(why)}; };
  double total = 0.0;
  for (const SampledGaussian& step : steps) total += static_cast<double>(step.steps);
  if (total > kMostSteps) return fall_back(fmt::format("{:.3g} steps are more than {:.0e}", total, kMostSteps));
  if (steps.size() > kMostMechanisms) {
    return fall_back(fmt::format("{} different mechanisms are more than {}", steps.size(), kMostMechanisms));
  }
  result.method = EpsilonMethod::privacy_loss_distribution;
  for (const Adjacency adjacency : kBothDirections) {
    const std::optional<double> epsilon = composed_epsilon(steps, adjacency, delta, result.epsilon);
    if (!epsilon) return fall_back("no lattice of a size that fits holds the privacy loss");
    result.epsilon = *epsilon;
  }
  if (rdp < result.epsilon) return fall_back("the lattice is too coarse for so wide a privacy loss");
  return result;
}

double PrivacyLoss::delta(double epsilon) const {
  if (!is_private_ || !(epsilon >= 0.0)) return 1.0;
  if (phases_.empty()) return 0.0;
  bool sampling_ignored = false;
  const std::vector<SampledGaussian> steps = merged(sampling_ignored);
  if (is_one_step(steps)) return sampled_gaussian_delta(steps[0].sample_rate, steps[0].noise_multiplier, epsilon);
  double total = 0.0, delta = 0.0;
  for (const SampledGaussian& step : steps) total += static_cast<double>(step.steps);
  if (total > kMostSteps || steps.size() > kMostMechanisms) return 1.0;
  for (const Adjacency adjacency : kBothDirections) {
    const std::optional<double> bound = composed_delta(steps, adjacency, epsilon, delta);
    if (!bound) return 1.0;
    delta = *bound;
  }
  return std::min(1.0, delta);
}

TightEpsilon tight_epsilon(std::span<const Mechanism> mechanisms, double delta) {
  PrivacyLoss loss;
  for (const Mechanism& mechanism : mechanisms) loss.add(mechanism);
  return loss.epsilon(delta);
}

Result<double> calibrate_tight_noise_multiplier(double epsilon, double delta, double sample_rate, std::int64_t steps) {
  TRIB_TRY(check_calibration(epsilon, delta, sample_rate, steps));
  const auto cost = [&](double sigma) { return PrivacyLoss().add(sample_rate, sigma, steps).epsilon(delta).epsilon; };
  // Where to begin: the Gaussian approximation, which is fast.
  const auto approximate_cost = [&](double sigma) {
    if (sample_rate == 1.0 || steps == 1) return cost(sigma);
    const SampledGaussian step{sample_rate, sigma, steps};
    return approximate_epsilon({&step, 1}, Adjacency::remove, delta);
  };
  double low = kSmallestSigma, high = kLargestCalibratedSigma;
  for (int i = 0; i < 40 && high / low > 1.001; ++i) {
    const double middle = std::sqrt(low * high);
    (approximate_cost(middle) <= epsilon ? high : low) = middle;
  }
  double sigma = high;
  const double nearby = 1.01;
  // How epsilon falls with sigma: epsilon is about sigma^−slope here.
  double slope =
      std::log(approximate_cost(sigma / nearby) / approximate_cost(sigma * nearby)) / (2.0 * std::log(nearby));
  if (!(slope > 0.1 && slope < 1e3)) slope = 1.0;

  // The bracket: `low` costs too much (or is the least there is), `high` does not (or is the most).
  low = kSmallestSigma, high = kLargestCalibratedSigma;
  bool high_is_known = false;
  for (int i = 0; i < 60 && high / low > 1.0 + kSigmaTolerance; ++i) {
    const double here = cost(sigma);
    if (here <= epsilon) {
      high = sigma;
      high_is_known = true;
      if (here >= epsilon * (1.0 - slope * kSigmaTolerance)) return high;
    } else {
      low = sigma;
    }
    // Newton's step on the logarithms, to a hair below the target; where it leaves the bracket, or after a few,
    // bisection.
    double next =
        here > 0.0 ? sigma * std::pow(here / (epsilon * (1.0 - 0.4 * slope * kSigmaTolerance)), 1.0 / slope) : 0.0;
    if (!(next > low && next < high) || i % 6 == 5) next = std::sqrt(low * high);
    sigma = next;
  }
  if (!high_is_known && cost(high) > epsilon) {
    return Error{Errc::unsupported,
                 fmt::format("no noise multiplier up to {} gives epsilon {} in {} steps at sample rate "
                             "{}: raise epsilon or delta, or take fewer or smaller steps",
                             kLargestCalibratedSigma, epsilon, steps, sample_rate)};
  }
  return high;
}

}  // namespace trib::privacy
