#include "tasks/analytic_cil/config.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cmath>

#include "tasks/halves.h"

namespace trib::tasks::analytic_cil {
namespace {

constexpr std::string_view selections[] = {"fixed", "gcv", "validation"};  // in the order of GammaSelection

}  // namespace

Config read_config(const JobSpec& job, ConfigReader& config) {
  Config result;
  static_cast<class_stream::Config&>(result) = class_stream::read_config(job, config);
  const std::string selection = config.choice("ridge.selection", selections, std::string(selections[0]));
  result.selection = static_cast<GammaSelection>(std::ranges::find(selections, selection) - std::begin(selections));
  result.gamma = config.number("ridge.gamma", {.minimum = 0.0, .maximum = 1e12}, result.gamma);
  result.gamma_minimum = config.number(
      "ridge.gamma_minimum", {.minimum = 0.0, .maximum = 1e12, .exclude_minimum = true}, result.gamma_minimum);
  result.gamma_maximum = config.number(
      "ridge.gamma_maximum", {.minimum = 0.0, .maximum = 1e12, .exclude_minimum = true}, result.gamma_maximum);
  if (result.gamma_minimum > result.gamma_maximum) {
    config.fail("ridge.gamma_minimum", fmt::format("must be at most ridge.gamma_maximum = {}", result.gamma_maximum));
  }
  result.noise_margin = config.number("ridge.noise_margin", {.minimum = 0.0, .maximum = 1000.0}, result.noise_margin);
  result.class_sums_weight =
      config.number("ridge.class_sums_weight", {.minimum = 1e-3, .maximum = 1000.0}, result.class_sums_weight);
  result.validation_file = config.text("evaluation.validation_file", "");
  if (result.selection == GammaSelection::validation && result.validation_file.empty()) {
    config.fail("ridge.selection", "\"validation\" needs a public set to choose by: set evaluation.validation_file");
  }
  if (job.privacy.enabled && result.selection == GammaSelection::fixed && result.gamma == 0.0 &&
      result.noise_margin == 0.0) {
    config.fail("ridge.gamma",
                "must be above 0 where privacy.enabled = true and ridge.noise_margin = 0: noise makes "
                "eigenvalues negative");
  }
  return result;
}

Result<Config> config_of(const JobSpec& job) {
  return task_config(job, read_config);
}

std::vector<double> gamma_grid(const Config& config) {
  constexpr double steps_a_decade = 3.0;
  const double span = std::log10(config.gamma_maximum / config.gamma_minimum);
  const auto steps = static_cast<std::int64_t>(std::ceil(span * steps_a_decade - 1e-9));
  std::vector<double> grid;
  for (std::int64_t i = 0; i <= steps; ++i) {
    const double share = steps == 0 ? 0.0 : static_cast<double>(i) / static_cast<double>(steps);
    grid.push_back(config.gamma_minimum * std::pow(10.0, span * share));
  }
  return grid;
}

}  // namespace trib::tasks::analytic_cil
