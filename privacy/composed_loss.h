// The composition of many steps' privacy losses, in one direction of adjacency.
#pragma once

#include <optional>
#include <span>

#include "privacy/loss_lattice.h"

namespace trib::privacy {

// The smallest epsilon ≥ at_least at which the steps' composition has at most `delta` in this direction: an upper
// bound, about 4.5e-5 (relative) above the exact value. Empty where no lattice of a size that fits holds the loss. 0 <
// delta < 1.
std::optional<double> composed_epsilon(std::span<const SampledGaussian> steps, Adjacency adjacency, double delta,
                                       double at_least = 0.0);

// An upper bound of the smallest delta ≥ at_least at `epsilon` ≥ 0 in this direction, likewise.
std::optional<double> composed_delta(std::span<const SampledGaussian> steps, Adjacency adjacency, double epsilon,
                                     double at_least = 0.0);

// An approximation (no bound) of composed_epsilon within some percent, hundreds of times as fast: where to begin a
// search.
double approximate_epsilon(std::span<const SampledGaussian> steps, Adjacency adjacency, double delta);

}  // namespace trib::privacy
