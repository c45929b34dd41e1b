#include "privacy/loss_lattice.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>

namespace trib::privacy {
namespace {

double normal_tail(double z) {
  return 0.5 * std::erfc(z / std::numbers::sqrt2);
}

// A z beyond which at most `tail` of N(0, 1) lies: Φ(−z) ≤ exp(−z²/2)/2.
double tail_quantile(double tail) {
  return tail < 0.5 ? std::sqrt(-2.0 * std::log(2.0 * tail)) : 0.0;
}

// log(P/Q) as a function of the output x, which increases, and its inverse.
class LogRatio {
 public:
  explicit LogRatio(const SampledGaussian& step)
      : q_(step.sample_rate), variance_(step.noise_multiplier * step.noise_multiplier), log_q_(std::log(q_)) {}

  double at(double x) const {
    const double t = (2.0 * x - 1.0) / (2.0 * variance_);
    if (q_ == 1.0) return t;
    if (t < -1.0) return std::log((1.0 - q_) + q_ * std::exp(t));
    if (t < 30.0) return std::log1p(q_ * std::expm1(t));
    return t + log_q_ + std::log1p((1.0 / q_ - 1.0) * std::exp(-t));
  }
  // The x at which the ratio is `loss`; −infinity at or below its infimum log(1 − q).
  double inverse(double loss) const {
    double t = loss;
    if (q_ < 1.0) {
      if (loss < 30.0) {
        const double excess = std::expm1(loss) / q_;
        if (!(excess > -1.0)) return -std::numeric_limits<double>::infinity();
        t = std::log1p(excess);
      } else {
        t = loss - log_q_ + std::log1p((q_ - 1.0) * std::exp(-loss));
      }
    }
    return variance_ * t + 0.5;
  }

 private:
  double q_, variance_, log_q_;
};

constexpr double kNegligible = 7.4;  // standard deviations, beyond which a mass of 7e-14 is raised in loss

// The outputs that are looked at. Above the upper end (in loss) lies at most `tail`, which becomes infinite; what lies
// below the lower end is raised to it.
struct Outputs {
  double low_x, high_x;
  double infinite;  // mass beyond the end where the loss is large
  double raised;    // mass beyond the other
};

Outputs outputs(const SampledGaussian& step, Adjacency adjacency, double tail, double lowest_x) {
  const double q = step.sample_rate, sigma = step.noise_multiplier;
  if (adjacency == Adjacency::add) {  // the loss falls with x
    const double z = tail_quantile(tail);
    const double high = std::max(std::min(sigma * kNegligible, lowest_x), -sigma * z);
    return {-sigma * z, high, normal_tail(z), normal_tail(high / sigma)};
  }
  const double high = std::max(1.0 + sigma * tail_quantile(tail / (2.0 * q)), sigma * tail_quantile(tail / 2.0));
  const double low = std::min(std::max(-sigma * kNegligible, lowest_x), high);
  return {low, high, (1.0 - q) * normal_tail(high / sigma) + q * normal_tail((high - 1.0) / sigma),
          (1.0 - q) * normal_tail(-low / sigma) + q * normal_tail((1.0 - low) / sigma)};
}

// The logarithm of x's density, but for the factor 1/(sigma·sqrt(2·pi)).
double log_density(double x, double log_ratio, double sigma, Adjacency adjacency) {
  return (adjacency == Adjacency::remove ? log_ratio : 0.0) - x * x / (2.0 * sigma * sigma);
}

// Gauss and Legendre's rules on [−1, 1].
constexpr std::array<double, 2> kNodes2 = {-0.57735026918962576, 0.57735026918962576};
constexpr std::array<double, 2> kWeights2 = {1.0, 1.0};
constexpr std::array<double, 5> kNodes5 = {-0.90617984593866399, -0.53846931010568309, 0.0, 0.53846931010568309,
                                           0.90617984593866399};
constexpr std::array<double, 5> kWeights5 = {0.23692688505618909, 0.47862867049936647, 0.56888888888888889,
                                             0.47862867049936647, 0.23692688505618909};

}  // namespace

TiltedMoments LossPoints::tilted(double tilt) const {
  TiltedMoments result;
  result.log_mass = log_moment(tilt);
  double mean = 0.0;
  for (std::size_t i = 0; i < loss.size(); ++i) {
    mean += loss[i] * std::exp(log_mass[i] + tilt * loss[i] - result.log_mass);
  }
  double variance = 0.0;
  for (std::size_t i = 0; i < loss.size(); ++i) {
    variance += (loss[i] - mean) * (loss[i] - mean) * std::exp(log_mass[i] + tilt * loss[i] - result.log_mass);
  }
  result.mean = mean;
  result.variance = variance;
  return result;
}

double LossPoints::log_moment(double tilt) const {
  double peak = -std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < loss.size(); ++i) peak = std::max(peak, log_mass[i] + tilt * loss[i]);
  double sum = 0.0;
  for (std::size_t i = 0; i < loss.size(); ++i) sum += std::exp(log_mass[i] + tilt * loss[i] - peak);
  return peak + std::log(sum);
}

LossPoints loss_points(const SampledGaussian& step, Adjacency adjacency, double tail) {
  const double sigma = step.noise_multiplier;
  const LogRatio ratio(step);
  const double all = std::numeric_limits<double>::infinity();
  const Outputs range = outputs(step, adjacency, tail, adjacency == Adjacency::remove ? -all : all);
  // The trapezoid rule: the integrands are analytic within pi·sigma² of the real axis, so its error is about
  // exp(−2·pi²·sigma²/width).
  const double width = std::min(sigma / 16.0, sigma * sigma / 2.0);
  const auto count = static_cast<std::size_t>(std::ceil((range.high_x - range.low_x) / width)) + 1;
  const double log_width = std::log(width / (sigma * std::sqrt(2.0 * std::numbers::pi)));
  LossPoints points;
  points.loss.reserve(count);
  points.log_mass.reserve(count);
  for (std::size_t k = 0; k < count; ++k) {
    const double x = range.low_x + width * static_cast<double>(k);
    const double log_ratio = ratio.at(x);
    points.loss.push_back(adjacency == Adjacency::remove ? log_ratio : -log_ratio);
    points.log_mass.push_back(log_density(x, log_ratio, sigma, adjacency) + log_width);
  }
  return points;
}

double LossLattice::log_moment(double tilt) const {
  // Beside the topmost cell's weight all are at most 1, and its mass is no smaller than what `tail` leaves of it.
  std::size_t top = mass.size();
  while (top > 0 && mass[top - 1] == 0.0) --top;
  if (top == 0) return -std::numeric_limits<double>::infinity();
  const double peak = tilt * spacing * static_cast<double>(first + static_cast<std::int64_t>(top) - 1);
  double sum = 0.0;
  for_each_weight(tilt, peak, [&](std::size_t i, double weight) { sum += i < top ? mass[i] * weight : 0.0; });
  return peak + std::log(sum);
}

LossLattice loss_lattice(const SampledGaussian& step, Adjacency adjacency, double spacing, double tail, double lowest) {
  const double sigma = step.noise_multiplier;
  const double sign = adjacency == Adjacency::remove ? 1.0 : -1.0;
  const LogRatio ratio(step);
  const double lowest_x = ratio.inverse(sign * lowest);
  const Outputs range = outputs(step, adjacency, tail, lowest_x);
  const double least = sign > 0.0 ? ratio.at(range.low_x) : -ratio.at(range.high_x);
  const double highest = sign > 0.0 ? ratio.at(range.high_x) : -ratio.at(range.low_x);

  LossLattice lattice;
  lattice.spacing = spacing;
  lattice.infinite = range.infinite;
  lattice.first = static_cast<std::int64_t>(std::floor(least / spacing));
  const auto cells = static_cast<std::int64_t>(std::ceil(highest / spacing)) - lattice.first;
  lattice.mass.assign(static_cast<std::size_t>(cells) + 2, 0.0);
  lattice.mass[1] += range.raised;

  // 1 − e^−t, which within a cell of a fine lattice is a few terms of its series.
  const bool is_fine = spacing < 1e-3;
  const auto fall = [is_fine](double t) {
    return is_fine ? t * (1.0 - t / 2.0 * (1.0 - t / 3.0 * (1.0 - t / 4.0 * (1.0 - t / 5.0)))) : -std::expm1(-t);
  };
  const double whole = fall(spacing);
  const auto add_piece = [&](double from, double to, auto nodes, auto weights) {
    const double half_width = 0.5 * (to - from) / (sigma * std::sqrt(2.0 * std::numbers::pi));
    for (std::size_t n = 0; n < nodes.size(); ++n) {
      const double x = 0.5 * (from + to) + 0.5 * (to - from) * nodes[n];
      const double log_ratio = ratio.at(x);
      const double mass = half_width * weights[n] * std::exp(log_density(x, log_ratio, sigma, adjacency));
      const double loss = sign * log_ratio;
      const auto cell =
          std::clamp<std::int64_t>(static_cast<std::int64_t>(std::floor(loss / spacing)) - lattice.first, 0, cells);
      // Masses a and b at the cell's ends keep a + b and a·e^(−end) + b·e^(−end'): the mass under either neighbour.
      const double within = loss - spacing * static_cast<double>(lattice.first + cell);
      const double up = std::clamp(fall(within) / whole, 0.0, 1.0);
      lattice.mass[static_cast<std::size_t>(cell)] += mass * (1.0 - up);
      lattice.mass[static_cast<std::size_t>(cell) + 1] += mass * up;
    }
  };
  // The split has a kink at every lattice point: pieces end there, so that the rule sees a smooth function.
  const double widest = std::min(sigma / 6.0, sigma * sigma / 2.0);
  double from = sign > 0.0 ? range.low_x : range.high_x;
  const double end = sign > 0.0 ? range.high_x : range.low_x;
  for (std::int64_t cell = 0; cell < cells && from != end; ++cell) {
    const double upper_loss = spacing * static_cast<double>(lattice.first + cell + 1);
    double to = cell + 1 == cells ? end : ratio.inverse(sign * upper_loss);
    to = sign > 0.0 ? std::clamp(to, from, end) : std::clamp(to, end, from);
    const double left = std::min(from, to), width = std::abs(to - from);
    if (width > widest / 100.0) {
      const int pieces = static_cast<int>(std::ceil(width / widest));
      for (int piece = 0; piece < pieces; ++piece) {
        add_piece(left + width * piece / pieces, left + width * (piece + 1) / pieces, kNodes5, kWeights5);
      }
    } else if (width > 0.0) {
      add_piece(left, left + width, kNodes2, kWeights2);
    }
    from = to;
  }
  return lattice;
}

}  // namespace trib::privacy
