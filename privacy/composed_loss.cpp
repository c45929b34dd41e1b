// How it works. Let Y be the composed loss, a sum of independent one-step losses, and K(t) = log E[e^(tY)]. Then, with
// (1 − e^(epsilon − Y))+ = V, delta(epsilon) = E[V] = e^(K(θ) − θ·epsilon) · Eθ[V·e^(−θ(Y − epsilon))],
// where Eθ weighs outcomes by e^(θY − K(θ)). With θ at the saddle point K'(θ) = epsilon, what decides lies in the
// middle of the weighted distribution: the FFT's rounding, relative to its peak, is relative to the answer too,
// whatever delta is. (Untilted, it loses deltas below about 1e-11.) A window of some standard deviations around epsilon
// is enough. Mass from outside wraps around into it: that only adds to delta, and what is lost above is bounded by
// Chernoff's inequality and added.
#include "privacy/composed_loss.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <limits>
#include <numbers>
#include <unsupported/Eigen/FFT>
#include <utility>
#include <vector>

#include "privacy/gaussian_loss.h"

namespace trib::privacy {
namespace {

constexpr int kSmallestLogSize = 14, kLargestLogSize = 20;
constexpr double kMostCells = 1 << 20;    // of one step's lattice
constexpr double kAccuracy = 4.5e-5;      // what the lattice may add to epsilon, relative, if its size allows
constexpr double kCoarse = 2e-3;          // the same of the first try, which aims the second
constexpr double kCutOff = 1e-9;          // what is cut off above, over delta, each time
constexpr double kLargestTilt = 1e15;     // losses this small are 0 to rounding
constexpr double kTiltLoss = 10.0;        // log of what a tilt off the saddle point may lose of the FFT's precision
constexpr double kNegligiblePower = -55;  // log of a Fourier coefficient that no longer counts

// A window [low, high] for Y, and the tilts that made it.
struct Window {
  double tilt = 0.0;
  double low = 0.0, high = 0.0;
  double high_tilt = 0.0;  // at which Chernoff's bound of P(Y > high) is smallest
};

// The composition as weighted points: exact moments, no distribution. For planning.
class Planner {
 public:
  Planner(std::span<const SampledGaussian> steps, Adjacency adjacency, double tail) : steps_(steps) {
    for (const SampledGaussian& step : steps) points_.push_back(loss_points(step, adjacency, tail));
  }

  TiltedMoments tilted(double tilt) const {
    TiltedMoments sum;
    for (std::size_t i = 0; i < points_.size(); ++i) {
      const auto count = static_cast<double>(steps_[i].steps);
      const TiltedMoments one = points_[i].tilted(tilt);
      sum.log_mass += count * one.log_mass;
      sum.mean += count * one.mean;
      sum.variance += count * one.variance;
    }
    return sum;
  }
  double log_moment(double tilt) const {
    double sum = 0.0;
    for (std::size_t i = 0; i < points_.size(); ++i) {
      sum += static_cast<double>(steps_[i].steps) * points_[i].log_moment(tilt);
    }
    return sum;
  }

  // The logarithm of delta at the saddle point's epsilon, were the tilted loss a Gaussian.
  static double log_delta(const TiltedMoments& at, double tilt) {
    const double deviation = std::sqrt(at.variance) / std::numbers::sqrt2;
    const double weight = 0.5 * (scaled_erfc(tilt * deviation) - scaled_erfc((1.0 + tilt) * deviation));
    return at.log_mass - tilt * at.mean + std::log(std::max(weight, 1e-300));
  }

  // The tilt θ ≥ 0 that solves `is_above(θ)`, false from there on.
  template <typename Predicate>
  static double largest_tilt(Predicate is_above) {
    double low = 1e-6, high = kLargestTilt;
    if (!is_above(low)) return 0.0;
    for (int i = 0; i < 60 && high / low > 1.001; ++i) {
      const double middle = std::sqrt(low * high);
      (is_above(middle) ? low : high) = middle;
    }
    return low;
  }
  double tilt_for_delta(double delta) const {
    return largest_tilt([&](double tilt) { return log_delta(tilted(tilt), tilt) > std::log(delta); });
  }
  double tilt_for_epsilon(double epsilon) const {
    return largest_tilt([&](double tilt) { return tilted(tilt).mean < epsilon; });
  }

  // The narrowest window for a saddle point. A tilt somewhat below it costs a few digits of the FFT's sixteen; where
  // the tilted distribution has a second mode far above epsilon, as small sample rates have, it narrows the window
  // much.
  Window narrowest_window(double saddle, double delta) const {
    const double epsilon = tilted(saddle).mean, at_saddle = log_moment(saddle) - saddle * epsilon;
    Window best = window(saddle, epsilon, delta);
    for (const double share : {0.7, 0.4}) {
      const double tilt = share * saddle;
      if (tilt == 0.0 || log_moment(tilt) - tilt * epsilon - at_saddle > kTiltLoss) break;
      const Window other = window(tilt, epsilon, delta);
      if (other.high - other.low < best.high - best.low) best = other;
    }
    return best;
  }

  Window window(double tilt, double epsilon, double delta) const {
    Window result{tilt, 0.0, 0.0, 0.0};
    const TiltedMoments at = tilted(tilt);
    const double scale = 1.0 / std::sqrt(at.variance);
    // P(Y > high) ≤ e^(K(t) − t·high): this mass is lost, and added.
    const double log_cut = std::log(kCutOff * delta);
    std::tie(result.high, result.high_tilt) =
        smallest([&](double t) { return (log_moment(tilt + t) - log_cut) / (tilt + t); }, scale);
    result.high_tilt += tilt;
    // Pθ(Y > high) ≤ e^(K(θ + t) − K(θ) − t·high), and likewise below: what wraps around is to be negligible beside
    // Eθ[…], of which this is the logarithm. From below it lands near `high`, where it weighs e^(−θ(high − epsilon)).
    const double log_answer = std::log(delta) - (at.log_mass - tilt * epsilon);
    const double log_above = log_answer + std::log(1e-7);
    const auto above = [&](double t) { return (log_moment(tilt + t) - at.log_mass - log_above) / t; };
    result.high = std::max({result.high, std::max(at.mean, epsilon) + 1.0 / scale, smallest(above, scale).first});
    const double log_below = std::min(log_answer + std::log(1e-7) + tilt * (result.high - epsilon), std::log(1e-4));
    const auto below = [&](double t) { return (log_moment(tilt - t) - at.log_mass - log_below) / t; };
    result.low = std::min(-smallest(below, scale).first, std::min(at.mean, epsilon) - 1.0 / scale);
    if (tilt == 0.0) result.low = std::min(result.low, 0.0);
    return result;
  }

  // What a lattice adds to epsilon, to first order: each loss's variance grows by (loss − below)·(above − loss), and
  // `slope` = −d log(delta)/d(epsilon) says what that is worth.
  double inflation(double tilt, double slope, double spacing) const {
    double sum = 0.0;
    for (std::size_t i = 0; i < points_.size(); ++i) {
      const LossPoints& points = points_[i];
      const double log_mass = points.log_moment(tilt);
      double one = 0.0;
      for (std::size_t k = 0; k < points.loss.size(); ++k) {
        const double near = std::abs(points.loss[k]);
        const double split = near < spacing ? near * (spacing - near) : spacing * spacing / 6.0;
        one += split * std::exp(points.log_mass[k] + tilt * points.loss[k] - log_mass);
      }
      sum += static_cast<double>(steps_[i].steps) * one;
    }
    return 0.5 * (1.0 + slope) * sum;
  }

  // For each of the steps, a loss below which everything may be raised to it: that adds 1e-11 at most, relative to the
  // tilted mass.
  std::vector<double> lowest_losses(double tilt, double delta) const {
    double total = 0.0;
    for (const SampledGaussian& step : steps_) total += static_cast<double>(step.steps);
    const double log_share = std::log(1e-11 / total) + (tilt > 0.0 ? 0.0 : std::log(delta));
    std::vector<double> result;
    for (const LossPoints& points : points_) {
      const double log_mass = points.log_moment(tilt);
      const bool rises = points.loss.front() < points.loss.back();
      double below = 0.0, lowest = rises ? points.loss.front() : points.loss.back();
      for (std::size_t k = 0; k < points.loss.size(); ++k) {
        const std::size_t i = rises ? k : points.loss.size() - 1 - k;
        below += std::exp(points.log_mass[i]);
        if (std::log(below) + tilt * points.loss[i] - log_mass > log_share) break;
        lowest = points.loss[i];
      }
      result.push_back(lowest);
    }
    return result;
  }

  // Between the least and the greatest one-step losses: what a lattice has to hold.
  double widest_step(std::span<const double> lowest) const {
    double widest = 0.0;
    for (std::size_t i = 0; i < points_.size(); ++i) {
      widest = std::max(widest, std::max(points_[i].loss.back(), points_[i].loss.front()) - lowest[i]);
    }
    return widest;
  }

  // Whether (epsilon, delta) holds by Chernoff's inequality alone, with the best constant (Canonne, Kamath, Steinke
  // 2020, Prop. 12): where one direction of adjacency clearly costs less, this spares its FFT.
  bool clearly_holds(double epsilon, double delta) const {
    const double tilt = std::max(tilt_for_epsilon(epsilon), 1e-6);
    const double log_delta = log_moment(tilt) - tilt * epsilon - tilt * std::log1p(1.0 / tilt) - std::log1p(tilt);
    return log_delta < std::log(delta) - 1e-6;
  }

 private:
  // The minimum over t > 0 of a function that falls, then rises; and where it is.
  template <typename Function>
  static std::pair<double, double> smallest(Function function, double scale) {
    constexpr double golden = 0.6180339887498949;
    double a = std::log(scale) - 12.0, d = std::log(scale) + 12.0;
    double b = d - golden * (d - a), c = a + golden * (d - a);
    double at_b = function(std::exp(b)), at_c = function(std::exp(c));
    for (int i = 0; i < 24; ++i) {
      if (at_b < at_c) {
        d = c, c = b, at_c = at_b;
        b = d - golden * (d - a), at_b = function(std::exp(b));
      } else {
        a = b, b = c, at_b = at_c;
        c = a + golden * (d - a), at_c = function(std::exp(c));
      }
    }
    return at_b < at_c ? std::pair{at_b, std::exp(b)} : std::pair{at_c, std::exp(c)};
  }

  std::span<const SampledGaussian> steps_;
  std::vector<LossPoints> points_;
};

// The steps' lattice losses, composed: the weighted masses of Y on a window of the lattice.
class Curve {
 public:
  Curve(std::span<const SampledGaussian> steps, Adjacency adjacency, const Window& window, double spacing, int log_size,
        double tail, std::span<const double> lowest)
      : tilt_(window.tilt), spacing_(spacing), first_(static_cast<std::int64_t>(std::floor(window.low / spacing))) {
    const std::size_t size = std::size_t{1} << log_size, half = size / 2;
    // Keeps its twiddle factors from one curve to the next.
    thread_local Eigen::FFT<double> fft(Eigen::FFT<double>::impl_type(), Eigen::FFT<double>::HalfSpectrum);
    std::vector<double> folded(size), log_radius(half + 1, 0.0), angle(half + 1, 0.0);
    std::vector<std::complex<double>> spectrum(half + 1);
    double total = 0.0, log_tail = -window.high_tilt * loss_at(static_cast<std::int64_t>(size));
    for (std::size_t s = 0; s < steps.size(); ++s) {
      const auto count = static_cast<double>(steps[s].steps);
      const LossLattice lattice = loss_lattice(steps[s], adjacency, spacing, tail, lowest[s]);
      const double log_mass = lattice.log_moment(tilt_);
      log_mass_ += count * log_mass;
      log_tail += count * lattice.log_moment(window.high_tilt);
      infinite_ += count * lattice.infinite;
      total += count;
      std::fill(folded.begin(), folded.end(), 0.0);
      lattice.for_each_weight(tilt_, log_mass, [&](std::size_t i, double weight) {
        folded[wrapped(lattice.first + static_cast<std::int64_t>(i), size)] += lattice.mass[i] * weight;
      });
      fft.fwd(spectrum.data(), folded.data(), static_cast<Eigen::Index>(size));
      const double least_norm = std::exp(2.0 * kNegligiblePower / count);
      for (std::size_t k = 0; k <= half; ++k) {
        if (log_radius[k] < kNegligiblePower) continue;
        const double norm = std::norm(spectrum[k]);
        log_radius[k] += norm > least_norm ? 0.5 * count * std::log(norm) : 2.0 * kNegligiblePower;
        if (log_radius[k] >= kNegligiblePower) {
          angle[k] += std::remainder(count * std::arg(spectrum[k]), 2.0 * std::numbers::pi);
        }
      }
    }
    for (std::size_t k = 0; k <= half; ++k) {
      spectrum[k] = log_radius[k] < kNegligiblePower ? 0.0 : std::polar(std::exp(log_radius[k]), angle[k]);
    }
    fft.inv(folded.data(), spectrum.data(), static_cast<Eigen::Index>(size));
    infinite_ += std::exp(log_tail);
    rounding_ = 1.0 + 1e-8 + 2e-13 * total;

    // weighted_[j] = Σ over i > j of f_i·e^(−θ(i − j)h)·(1 − e^(−(i − j)h)), by recurrences of positive terms.
    weighted_.assign(size, 0.0);
    const double decay = std::exp(-tilt_ * spacing), step_down = std::exp(-spacing), step_gap = -std::expm1(-spacing);
    double plain = 0.0;
    for (std::size_t j = size - 1; j-- > 0;) {
      plain += std::max(0.0, folded[wrapped(first_ + static_cast<std::int64_t>(j) + 1, size)]);
      weighted_[j] = decay * (step_gap * plain + step_down * weighted_[j + 1]);
      plain *= decay;
    }
  }

  double loss_at(std::int64_t j) const { return spacing_ * static_cast<double>(first_ + j); }
  std::int64_t size() const { return static_cast<std::int64_t>(weighted_.size()); }

  double delta_at(std::int64_t j) const {
    const double weighted = weighted_[static_cast<std::size_t>(j)];
    return rounding_ * (std::exp(log_mass_ - tilt_ * loss_at(j)) * weighted) + infinite_;
  }

  // The epsilon of `delta`; below the window: −infinity; above it: +infinity.
  double epsilon(double delta) const {
    if (infinite_ >= delta || delta_at(size() - 1) > delta) return std::numeric_limits<double>::infinity();
    if (delta_at(0) <= delta) return -std::numeric_limits<double>::infinity();
    std::int64_t over = 0, under = size() - 1;
    while (under - over > 1) {
      const std::int64_t middle = over + (under - over) / 2;
      (delta_at(middle) > delta ? over : under) = middle;
    }
    // Between lattice points delta is linear in e^epsilon.
    const double share = (delta_at(over) - delta) / (delta_at(over) - delta_at(under));
    return loss_at(over) + std::log1p(std::clamp(share, 0.0, 1.0) * std::expm1(spacing_));
  }

  // −d log(delta)/d(epsilon) at an epsilon inside the window; 0 outside.
  double slope(double epsilon) const {
    const auto below = static_cast<std::int64_t>(std::floor(epsilon / spacing_)) - first_;
    if (below < 0 || below + 1 >= size() || !(delta_at(below + 1) > 0.0)) return 0.0;
    return std::log(delta_at(below) / delta_at(below + 1)) / spacing_;
  }

  // Delta at an epsilon inside the window.
  std::optional<double> delta(double epsilon) const {
    const auto below = static_cast<std::int64_t>(std::floor(epsilon / spacing_)) - first_;
    if (below < 0 || below + 1 >= size()) return std::nullopt;
    const double share = std::clamp(std::expm1(epsilon - loss_at(below)) / std::expm1(spacing_), 0.0, 1.0);
    return (1.0 - share) * delta_at(below) + share * delta_at(below + 1);
  }

 private:
  static std::size_t wrapped(std::int64_t index, std::size_t size) {
    return static_cast<std::size_t>(index) & (size - 1);  // size is a power of two
  }

  double tilt_, spacing_;
  std::int64_t first_;
  double log_mass_ = 0.0;  // K(θ) of the lattice losses
  double infinite_ = 0.0, rounding_ = 1.0;
  std::vector<double> weighted_;
};

double total_steps(std::span<const SampledGaussian> steps) {
  double total = 0.0;
  for (const SampledGaussian& step : steps) total += static_cast<double>(step.steps);
  return total;
}

// A curve, and what its lattice is expected to add to epsilon, relative.
struct Composed {
  Curve curve;
  double inflation = 0.0;
};

std::optional<Composed> compose(std::span<const SampledGaussian> steps, Adjacency adjacency, const Planner& planner,
                                double saddle, double slope, double delta, double tail, double accuracy) {
  const Window window = planner.narrowest_window(saddle, delta);
  const double width = window.high - window.low;
  if (!std::isfinite(width) || !(width > 0.0)) return std::nullopt;
  const double epsilon = std::max(planner.tilted(saddle).mean, 1e-3 * width);
  int log_size = kSmallestLogSize;
  // Two points to spare: the window's ends lie between lattice points.
  const auto spacing_of = [&](int log_length) { return width / (std::ldexp(1.0, log_length) - 2.0); };
  while (log_size < kLargestLogSize && planner.inflation(window.tilt, slope, spacing_of(log_size)) > accuracy * epsilon)
    ++log_size;
  const std::vector<double> lowest = planner.lowest_losses(window.tilt, delta);
  const double spacing = std::max(spacing_of(log_size), planner.widest_step(lowest) / kMostCells);
  if (!(spacing > 0.0) || std::abs(window.low / spacing) > 1e15 || std::abs(window.high / spacing) > 1e15) {
    return std::nullopt;
  }
  return Composed{Curve(steps, adjacency, window, spacing, log_size, tail, lowest),
                  planner.inflation(window.tilt, slope, spacing) / epsilon};
}

}  // namespace

std::optional<double> composed_epsilon(std::span<const SampledGaussian> steps, Adjacency adjacency, double delta,
                                       double at_least) {
  const double tail = kCutOff * delta / total_steps(steps);
  const Planner planner(steps, adjacency, tail);
  if (at_least > 0.0 && planner.clearly_holds(at_least, delta)) return at_least;
  double saddle = planner.tilt_for_delta(delta), slope = saddle, accuracy = kCoarse;
  std::optional<double> smallest;
  // A coarse lattice aims the fine one: the saddle point was found as if the composition were a Gaussian. Every curve
  // is an upper bound, so the smallest counts.
  for (int attempt = 0; attempt < 8; ++attempt) {
    const std::optional<Composed> composed = compose(steps, adjacency, planner, saddle, slope, delta, tail, accuracy);
    if (!composed) break;
    const Curve& curve = composed->curve;
    const double epsilon = curve.epsilon(delta);
    if (std::isnan(epsilon)) break;
    double aim = std::max(0.0, epsilon);
    if (std::isfinite(epsilon)) {
      smallest = std::min(aim, smallest.value_or(aim));
      if (*smallest <= at_least) return at_least;
      slope = std::max(saddle, curve.slope(epsilon));
      const TiltedMoments at = planner.tilted(saddle);
      const bool is_aimed =
          std::abs(epsilon - at.mean) < 0.5 * std::sqrt(at.variance) || (saddle == 0.0 && epsilon <= at.mean);
      if (is_aimed && accuracy == kAccuracy) break;
      // Where the other direction seems to cost more, no more accuracy than it takes to see that.
      const double margin = at_least / epsilon * (1.0 + composed->inflation) - 1.0;
      accuracy = accuracy == kCoarse ? std::clamp(0.7 * margin, kAccuracy, 0.5 * kCoarse) : kAccuracy;
    } else if (epsilon < 0.0) {
      if (saddle == 0.0 || curve.loss_at(0) <= 0.0) return at_least;
      aim = curve.loss_at(0);
    } else {
      aim = curve.loss_at(curve.size() - 1);
    }
    saddle = planner.tilt_for_epsilon(aim);
  }
  if (smallest) return std::max(at_least, *smallest);
  return std::nullopt;
}

std::optional<double> composed_delta(std::span<const SampledGaussian> steps, Adjacency adjacency, double epsilon,
                                     double at_least) {
  // What is negligible depends on the answer: the first curve finds its size.
  double guess = std::clamp(at_least, 1e-12, 0.5), slope = 0.0;
  std::optional<double> smallest;
  for (int attempt = 0; attempt < 3; ++attempt) {
    const double tail = kCutOff * guess / total_steps(steps);
    const Planner planner(steps, adjacency, tail);
    if (at_least > 0.0 && planner.clearly_holds(epsilon, at_least)) return at_least;
    const double saddle = planner.tilt_for_epsilon(epsilon);
    slope = std::max(slope, saddle);
    const std::optional<Composed> composed = compose(steps, adjacency, planner, saddle, slope, guess, tail, kAccuracy);
    const std::optional<double> delta = composed ? composed->curve.delta(epsilon) : std::nullopt;
    if (!delta || std::isnan(*delta)) break;
    smallest = std::min(*delta, smallest.value_or(*delta));
    slope = composed->curve.slope(epsilon);
    if (guess < 10.0 * *smallest && guess > 1e-3 * *smallest) break;
    guess = std::clamp(*smallest, 1e-200, 0.5);
  }
  if (smallest) return std::max(at_least, *smallest);
  return std::nullopt;
}

double approximate_epsilon(std::span<const SampledGaussian> steps, Adjacency adjacency, double delta) {
  const Planner planner(steps, adjacency, kCutOff * delta / total_steps(steps));
  return std::max(0.0, planner.tilted(planner.tilt_for_delta(delta)).mean);
}

}  // namespace trib::privacy
