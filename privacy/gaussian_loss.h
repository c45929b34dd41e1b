// The Gaussian mechanism in closed form: no grid, no series, exact to rounding.
#pragma once

namespace trib::privacy {

// exp(x²)·erfc(x). Overflows to infinity below about −26.
double scaled_erfc(double x);

// delta(epsilon) of N(mu, 1) against N(0, 1), mu > 0: Φ(mu/2 − epsilon/mu) − e^epsilon·Φ(−mu/2 − epsilon/mu)
// (Balle and Wang 2018, Theorem 5). T steps of noise multiplier sigma have mu = sqrt(T)/sigma.
double gaussian_delta(double mu, double epsilon);

// The smallest epsilon ≥ 0 with gaussian_delta(mu, epsilon) ≤ delta. Zero for delta ≥ 1, infinity for delta ≤ 0.
double gaussian_epsilon(double mu, double delta);

// One step of the Poisson-subsampled Gaussian, add/remove-one: delta(epsilon) is q times the Gaussian's at
// log(1 + (e^epsilon − 1)/q) (Balle, Barthe, Gaboardi 2018), which removal attains and addition does not exceed
// (Zhu, Dong, Wang 2022).
double sampled_gaussian_delta(double sample_rate, double noise_multiplier, double epsilon);
double sampled_gaussian_epsilon(double sample_rate, double noise_multiplier, double delta);

}  // namespace trib::privacy
