// What is charged: mechanisms, never epsilons. Epsilon is a function of the ledger.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/result.h"

namespace trib::privacy {

enum class MechanismKind {
  none,                         // not private: allowed only where the site's own configuration says so
  poisson_subsampled_gaussian,  // DP-SGD: each record joins with probability sample_rate; unit one record,
                                // add/remove-one
};

// How the noise is drawn. Both are accounted for alike: noise_multiplier is the noise's standard deviation over the
// true sensitivity of what it is added to.
enum class NoiseKind {
  discrete_gaussian,  // integers on a grid: the result is exactly what the accountant takes it for (dp_sgd.h)
  float_gaussian,     // the real Gaussian, rounded to float: the low bits of a result may tell more than was charged
};

// How a record's gradient g is scaled so that its norm is at most the clip norm C.
enum class Clipping {
  flat,       // g·min(1, C/‖g‖)
  automatic,  // g·C/(‖g‖ + 0.01): Bu et al. 2023 (AUTO-S); C only sets the scale, like a learning rate
};

std::string_view to_string(NoiseKind noise);
std::string_view to_string(Clipping clipping);

struct Mechanism {
  MechanismKind kind = MechanismKind::poisson_subsampled_gaussian;
  double sample_rate = 0.0;       // q in (0, 1]
  double noise_multiplier = 0.0;  // sigma: noise stddev over the sensitivity, which is the clip norm and, on a grid,
                                  // what rounding adds to it
  double clip_norm = 0.0;         // C, recorded for the reader; epsilon does not depend on it
  std::int64_t steps = 0;         // how often, with fresh samples and noise
  NoiseKind noise = NoiseKind::discrete_gaussian;
  Clipping clipping = Clipping::flat;
  bool operator==(const Mechanism&) const = default;
};

// One round's cost at one site, charged as a whole before the first record is read and never refunded.
struct Charge {
  std::string job;  // job id
  std::int64_t round = 0;
  std::string data_set;               // the site's name for it
  std::int64_t declared_records = 0;  // the public size
  double target_delta = 1e-5;
  Mechanism mechanism;
};

// Ok if the charge can be accounted for and recorded; Errc::invalid_argument names the first value that is wrong, its
// range, and what to change. A private charge needs target_delta below 1/declared_records: at or above it, publishing
// one whole record would count as private. The discrete Gaussian takes noise multipliers from 1/64 to 16384.
Status check_charge(const Charge& charge);

}  // namespace trib::privacy
