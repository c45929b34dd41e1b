// One step's privacy loss: as weighted points that are exact to rounding, and on a lattice that never under-reports.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace trib::privacy {

// Which neighbour the output came from. Both count: neither dominates the other under composition.
enum class Adjacency {
  remove,  // loss log(P/Q) of x ~ P, where P = (1 − q)·N(0, sigma²) + q·N(1, sigma²) and Q = N(0, sigma²)
  add,     // loss log(Q/P) of x ~ Q
};

// The Poisson-subsampled Gaussian, sensitivity 1: sample_rate in (0, 1], noise_multiplier ≥ 0.05.
struct SampledGaussian {
  double sample_rate = 0.0;
  double noise_multiplier = 0.0;
  std::int64_t steps = 0;
};

// Moments of a loss L after weighting it by exp(tilt·L).
struct TiltedMoments {
  double log_mass = 0.0;  // log E[exp(tilt·L)]: the cumulant generating function
  double mean = 0.0;
  double variance = 0.0;
};

// A finite distribution of losses.
struct LossPoints {
  std::vector<double> loss, log_mass;
  TiltedMoments tilted(double tilt) const;
  double log_moment(double tilt) const;  // tilted(tilt).log_mass alone, which is cheaper
};

// Quadrature nodes of one step's loss, without the upper tail of mass at most `tail`: for planning.
LossPoints loss_points(const SampledGaussian& step, Adjacency adjacency, double tail);

// One step's loss on the lattice {i·spacing}. Every loss between two lattice points is split between them so that its
// mass under both neighbours stays what it was ("connect the dots": Doroshenko, Ghazi, Kamath, Kumar, Manurangsi 2022):
// of all lattice distributions that dominate the mechanism, the one that inflates it least. Composition keeps the
// domination, so delta and epsilon are upper bounds at any spacing.
struct LossLattice {
  std::int64_t first = 0;  // the index of mass.front()
  double spacing = 0.0;
  std::vector<double> mass;
  double infinite = 0.0;  // mass whose loss counts as infinite: the upper tail that was cut off, at most `tail`

  // As LossPoints', for tilt ≥ 0.
  double log_moment(double tilt) const;
  // Calls visit(i, weight) with e^(tilt·loss − offset) for every cell in order.
  template <typename Visit>
  void for_each_weight(double tilt, double offset, Visit visit) const;
};

template <typename Visit>
void LossLattice::for_each_weight(double tilt, double offset, Visit visit) const {
  // A geometric progression, begun anew before its rounding adds up to more than 1e-14, or its range to much.
  const std::size_t block = tilt * spacing < 1.0 ? 64 : 1;
  const double ratio = std::exp(tilt * spacing);
  for (std::size_t begin = 0; begin < mass.size(); begin += block) {
    double weight = std::exp(tilt * spacing * static_cast<double>(first + static_cast<std::int64_t>(begin)) - offset);
    for (std::size_t i = begin; i < std::min(mass.size(), begin + block); ++i, weight *= ratio) visit(i, weight);
  }
}

// Losses below `lowest` are raised to it, which only adds to delta.
LossLattice loss_lattice(const SampledGaussian& step, Adjacency adjacency, double spacing, double tail, double lowest);

}  // namespace trib::privacy
