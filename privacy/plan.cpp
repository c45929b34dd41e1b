#include "privacy/plan.h"

#include <spdlog/fmt/fmt.h>

#include <cmath>

#include "privacy/accountant.h"

namespace trib::privacy {
namespace {

template <typename... Arguments>
Error refuse(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  return {Errc::invalid_argument, fmt::format(format, std::forward<Arguments>(arguments)...)};
}

}  // namespace

Result<RoundPrivacy> plan_privacy(const PlanRequest& request) {
  if (!(request.epsilon > 0.0 && std::isfinite(request.epsilon))) {
    return refuse("epsilon is {}: give the privacy loss that may be spent, a number above 0 such as 6",
                  request.epsilon);
  }
  if (request.declared_records < 1) {
    return refuse("declared_records is {}: declare the public size of the site's data set, at least 1",
                  request.declared_records);
  }
  const double records = static_cast<double>(request.declared_records);
  if (!(request.delta > 0.0 && request.delta < 1.0 / records)) {
    return refuse(
        "delta is {}, but must be above 0 and below 1/{} = {:.3g} (one over the declared records): at or above that, "
        "publishing a whole record would count as private; lower delta",
        request.delta, request.declared_records, 1.0 / records);
  }
  if (request.batch_size < 1) {
    return refuse("batch_size is {}: give the expected number of records a step, at least 1", request.batch_size);
  }
  if (request.batch_size > request.declared_records) {
    return refuse("batch_size is {}, but the site declares only {} records: lower batch_size to at most {}",
                  request.batch_size, request.declared_records, request.declared_records);
  }
  if (request.steps_per_round < 1) return refuse("steps_per_round is {}: give at least 1", request.steps_per_round);
  if (request.max_rounds < 1) return refuse("max_rounds is {}: give at least 1", request.max_rounds);
  if (request.steps_per_round > (std::int64_t{1} << 52) / request.max_rounds) {
    return refuse("{} rounds of {} steps are too many to account for: lower max_rounds or steps_per_round",
                  request.max_rounds, request.steps_per_round);
  }
  const double sample_rate = static_cast<double>(request.batch_size) / records;
  const auto calibrate =
      request.accountant == Accountant::pld ? calibrate_tight_noise_multiplier : calibrate_noise_multiplier;
  TRIB_ASSIGN(const double noise_multiplier,
              calibrate(request.epsilon, request.delta, sample_rate, request.steps_per_round * request.max_rounds));
  return RoundPrivacy{sample_rate, noise_multiplier};
}

Result<Mechanism> round_mechanism(const RoundPrivacy& plan, double clip_norm, std::int64_t steps_per_round,
                                  Clipping clipping, NoiseKind noise) {
  if (!(clip_norm > 0.0 && std::isfinite(clip_norm))) {
    return refuse("clip_norm is {}: give the largest norm that one record's gradient may keep, above 0 such as 1",
                  clip_norm);
  }
  if (steps_per_round < 1) return refuse("steps_per_round is {}: give at least 1", steps_per_round);
  return Mechanism{MechanismKind::poisson_subsampled_gaussian,
                   plan.sample_rate,
                   plan.noise_multiplier,
                   clip_norm,
                   steps_per_round,
                   noise,
                   clipping};
}

double epsilon_after_rounds(const Mechanism& round, std::int64_t rounds, double delta) {
  Mechanism all = round;
  all.steps *= rounds;
  return RdpCurve().add(all).epsilon(delta);
}

TightEpsilon tight_epsilon_after_rounds(const Mechanism& round, std::int64_t rounds, double delta) {
  Mechanism all = round;
  all.steps *= rounds;
  return tight_epsilon({&all, 1}, delta);
}

}  // namespace trib::privacy
