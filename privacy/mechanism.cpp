#include "privacy/mechanism.h"

#include <spdlog/fmt/fmt.h>

#include <cmath>

namespace trib::privacy {

std::string_view to_string(NoiseKind noise) {
  return noise == NoiseKind::discrete_gaussian ? "discrete_gaussian" : "float_gaussian";
}

std::string_view to_string(Clipping clipping) {
  return clipping == Clipping::flat ? "flat" : "automatic";
}

Status check_charge(const Charge& charge) {
  const auto refuse = [&](std::string_view name, auto value, std::string_view range) {
    return Error{Errc::invalid_argument, fmt::format("cannot charge round {} of job '{}' to data set '{}': {} is {}, "
                                                     "but must be {}",
                                                     charge.round, charge.job, charge.data_set, name, value, range)};
  };
  const Mechanism& mechanism = charge.mechanism;
  if (charge.job.empty()) return refuse("job", "''", "a job's id");
  if (charge.data_set.empty()) return refuse("data_set", "''", "the name of one of the site's data sets");
  if (charge.round < 0) return refuse("round", charge.round, "at least 0");
  if (charge.declared_records < 1) return refuse("declared_records", charge.declared_records, "at least 1");
  if (mechanism.steps < 1) return refuse("steps", mechanism.steps, "at least 1");
  if (!(mechanism.sample_rate > 0.0 && mechanism.sample_rate <= 1.0)) {
    return refuse("sample_rate", mechanism.sample_rate, "above 0 and at most 1");
  }
  if (mechanism.kind == MechanismKind::none) return {};
  if (!(mechanism.noise_multiplier > 0.0 && std::isfinite(mechanism.noise_multiplier))) {
    return refuse("noise_multiplier", mechanism.noise_multiplier, "above 0 and finite");
  }
  if (mechanism.noise == NoiseKind::discrete_gaussian &&
      !(mechanism.noise_multiplier >= 0x1p-6 && mechanism.noise_multiplier <= 0x1p14)) {
    return refuse("noise_multiplier", mechanism.noise_multiplier,
                  "from 1/64 to 16384 for the discrete Gaussian; change the job's epsilon");
  }
  // Squares of smaller and larger norms would leave the range of float32.
  if (!(mechanism.clip_norm >= 1e-9 && mechanism.clip_norm <= 1e9)) {
    return refuse("clip_norm", mechanism.clip_norm, "from 1e-9 to 1e9");
  }
  const double most = 1.0 / static_cast<double>(charge.declared_records);
  if (!(charge.target_delta > 0.0 && charge.target_delta < most)) {
    return refuse("target_delta", charge.target_delta,
                  fmt::format("above 0 and below 1/declared_records = {:.3g}; lower the job's delta", most));
  }
  return {};
}

}  // namespace trib::privacy
