// The sections of a job file that analytic class-incremental learning reads: those of a stream of classes, and [ridge].
#pragma once

#include <string>
#include <vector>

#include "common/config.h"
#include "common/result.h"
#include "tasks/class_stream/config.h"
#include "tasks/job.h"

namespace trib::tasks::analytic_cil {

// How gamma is chosen, each time the sums are solved.
enum class GammaSelection {
  fixed,       // ridge.gamma
  gcv,         // generalized cross-validation over a grid, from the sums alone
  validation,  // the grid's best accuracy on a public validation set
};

struct Config : class_stream::Config {
  GammaSelection selection = GammaSelection::fixed;
  double gamma = 100.0;
  double gamma_minimum = 1e-2, gamma_maximum = 1e5;  // of the grid, three values a decade
  double noise_margin = 1.0;       // under privacy, gamma is at least so many times the norm that the noise may have
  double class_sums_weight = 1.0;  // under privacy: how much louder YᵀX is released than XᵀX (statistics.h)

  std::string validation_file;  // public, in the aggregator's data directory; for GammaSelection::validation
};

// Errors wait for config.finish().
Config read_config(const JobSpec& job, ConfigReader& config);

// The same from a job that has been read before. Errc::invalid_argument as from reading the job file.
Result<Config> config_of(const JobSpec& job);

// The grid of ridge.gamma_minimum to ridge.gamma_maximum: three values a decade, ascending.
std::vector<double> gamma_grid(const Config& config);

}  // namespace trib::tasks::analytic_cil
