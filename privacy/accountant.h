// Epsilon from mechanisms, and noise from epsilon: Rényi differential privacy by quadrature. Tight figures, for
// schedules that are fixed in advance, are in privacy_loss.h.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/result.h"
#include "privacy/mechanism.h"

namespace trib::privacy {

// The Rényi orders of dp_accounting: 1.1 … 10.9 by 0.1, 11 … 63, 128, 256, 512, 1024.
std::span<const double> rdp_orders();

// Rényi divergences of a composition at rdp_orders(). Addition composes.
class RdpCurve {
 public:
  RdpCurve();
  // Adds `steps` compositions of the Poisson-subsampled Gaussian (add/remove-one, sensitivity 1). Values outside
  // q in [0, 1], sigma > 0, steps ≥ 0, and mechanisms that are not private, cost infinity.
  RdpCurve& add(double sample_rate, double noise_multiplier, std::int64_t steps);
  RdpCurve& add(const Mechanism& mechanism);
  // min over orders of r + log1p(−1/a) − log(delta·a)/(a−1) (Canonne–Kamath–Steinke 2020, Prop. 12), never below 0.
  double epsilon(double delta) const;
  double best_order(double delta) const;
  // The same at one of rdp_orders() only: at least epsilon(delta). Any other order is a bug and throws.
  double epsilon_at_order(double order, double delta) const;
  std::span<const double> divergences() const { return divergences_; }

 private:
  std::vector<double> divergences_;
};

// The order at which as many steps of `mechanism` as (epsilon, delta) affords cost least. A cap that is checked at this
// one order, fixed beforehand, is a privacy filter: it holds even against mechanisms that are chosen adaptively
// (Feldman and Zrnic 2021), and it declines no step of a job that repeats this mechanism.
double filter_order(const Mechanism& mechanism, double epsilon, double delta);

// Errc::invalid_argument names the first value of a calibration request that is out of range.
Status check_calibration(double epsilon, double delta, double sample_rate, std::int64_t steps);

// The smallest noise multiplier (to 1e-5 relative, rounded up; at least about 0.03) for which `steps` steps at
// `sample_rate` cost at most (epsilon, delta) by RDP, which is what a cap's filter counts by.
// Errors: check_calibration's, and Errc::unsupported if none up to 1e4 is enough.
Result<double> calibrate_noise_multiplier(double epsilon, double delta, double sample_rate, std::int64_t steps);

}  // namespace trib::privacy
