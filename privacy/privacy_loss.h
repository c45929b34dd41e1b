// Tight epsilon by privacy loss distributions: the composed loss of subsampled Gaussians, by FFT.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "privacy/loss_lattice.h"
#include "privacy/mechanism.h"

namespace trib::privacy {

enum class EpsilonMethod {
  closed_form,                // exact: nothing spent, plain Gaussians, or a single step
  privacy_loss_distribution,  // an upper bound, at most about 4.5e-5 (relative) above the exact value
  rdp,                        // an upper bound, looser: where the distribution cannot be composed
  not_private,                // epsilon is infinite: a mechanism without privacy, or values out of range
};
std::string_view to_string(EpsilonMethod method);  // "closed form", "pld", "rdp", "not private"

struct TightEpsilon {
  double epsilon = 0.0;  // never below the exact value
  EpsilonMethod method = EpsilonMethod::closed_form;
  bool is_fallback = false;  // a looser bound than `privacy_loss_distribution` would give had to do
  std::string why;           // then: the reason
};

// A composition of mechanisms whose schedule was fixed in advance. (Against a server that chooses the next mechanism by
// the last outcome, the cap is an RDP filter: accountant.h.) The order in which mechanisms are added does not matter,
// to the last bit.
class PrivacyLoss {
 public:
  // Adds `steps` compositions of the Poisson-subsampled Gaussian (add/remove-one, sensitivity 1). Values outside q in
  // [0, 1], sigma > 0, steps ≥ 0 make every epsilon infinite.
  PrivacyLoss& add(double sample_rate, double noise_multiplier, std::int64_t steps);
  PrivacyLoss& add(const Mechanism& mechanism);  // MechanismKind::none makes every epsilon infinite

  // The smallest epsilon ≥ 0 such that the composition is (epsilon, delta)-private for adding and for removing one
  // record, rounded up. Monotone in every argument, but for 1e-4 relative. Never throws; infinity only where a
  // mechanism is not private or delta ≤ 0.
  TightEpsilon epsilon(double delta) const;
  // The smallest delta at `epsilon` ≥ 0, rounded up; 1 where nothing better is known.
  double delta(double epsilon) const;

 private:
  std::vector<SampledGaussian> merged(bool& sampling_ignored) const;

  std::vector<SampledGaussian> phases_;
  bool is_private_ = true;
};

TightEpsilon tight_epsilon(std::span<const Mechanism> mechanisms, double delta);

// The smallest noise multiplier (to 1e-4 relative, rounded up; at least 0.05) for which `steps` steps at `sample_rate`
// cost at most (epsilon, delta) by tight_epsilon. Errors are those of calibrate_noise_multiplier (accountant.h).
Result<double> calibrate_tight_noise_multiplier(double epsilon, double delta, double sample_rate, std::int64_t steps);

}  // namespace trib::privacy
