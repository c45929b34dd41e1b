// From what a job and a site declare to the mechanism of its rounds: the sampling rate and the noise.
#pragma once

#include <cstdint>
#include <string_view>

#include "common/result.h"
#include "privacy/mechanism.h"
#include "privacy/privacy_loss.h"

namespace trib::privacy {

// By which bound noise is chosen.
enum class Accountant {
  rdp,  // what a site's cap counts by: a job that fits its epsilon fits a cap of the same epsilon
  pld,  // tight, so less noise (6 % at the median of our table); sites need a cap above the job's epsilon
};
inline constexpr std::string_view accountant_names[] = {"rdp", "pld"};  // in the order of Accountant

// What has to be known in advance, and in public, to plan a site's noise.
struct PlanRequest {
  double epsilon = 0.0;               // to be spent at most, over max_rounds rounds
  double delta = 1e-5;                // below 1/declared_records
  std::int64_t declared_records = 0;  // the public size of the site's data set
  std::int64_t batch_size = 0;        // expected records a step; at most declared_records
  std::int64_t steps_per_round = 0;
  std::int64_t max_rounds = 0;  // that the site may take part in
  Accountant accountant = Accountant::rdp;
};

// One round's mechanism, but for its clip norm, which costs nothing.
struct RoundPrivacy {
  double sample_rate = 0.0;       // batch_size / declared_records
  double noise_multiplier = 0.0;  // the smallest that keeps max_rounds rounds within (epsilon, delta)
};

// Calibrates (a few tenths of a second: call it once a job, not once a round). Errc::invalid_argument names the
// value that cannot be, and the remedy; Errc::unsupported where no noise is enough.
Result<RoundPrivacy> plan_privacy(const PlanRequest& request);

// The round's mechanism: plan, clip norm and what else costs nothing, in the form that is charged.
// Errc::invalid_argument unless clip_norm > 0.
Result<Mechanism> round_mechanism(const RoundPrivacy& plan, double clip_norm, std::int64_t steps_per_round,
                                  Clipping clipping = Clipping::flat, NoiseKind noise = NoiseKind::discrete_gaussian);

// Epsilon at `delta` after `rounds` rounds of `round`, by RDP.
double epsilon_after_rounds(const Mechanism& round, std::int64_t rounds, double delta);

// The same by privacy loss distributions: what a schedule that is fixed in advance really costs.
TightEpsilon tight_epsilon_after_rounds(const Mechanism& round, std::int64_t rounds, double delta);

}  // namespace trib::privacy
