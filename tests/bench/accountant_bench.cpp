// The tight accountant over the reference tables: epsilon of every single phase in points.csv, and the noise of every
// row of calibration.csv. Processor time is what to read: it is one thread.
#include <benchmark/benchmark.h>

#include "privacy/privacy_loss.h"
#include "tests/privacy/golden_table.h"

namespace trib::privacy {
namespace {

void tight_epsilon_of(benchmark::State& state, const TablePhase& phase, double delta) {
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        PrivacyLoss().add(phase.sample_rate, phase.noise_multiplier, phase.steps).epsilon(delta).epsilon);
  }
}

void calibrate(benchmark::State& state, const Row& row) {
  for (auto _ : state) {
    benchmark::DoNotOptimize(calibrate_tight_noise_multiplier(number(row, "target_eps"), number(row, "delta"),
                                                              number(row, "q"),
                                                              static_cast<std::int64_t>(number(row, "steps")))
                                 .ok());
  }
}

void register_all() {
  const auto add = [](const std::string& name, const auto& run) {
    benchmark::RegisterBenchmark(name.c_str(), run)->Unit(benchmark::kMillisecond);
  };
  for (const Row& row : read_table("points.csv")) {
    const TablePhase phase = phases_of(row)[0];
    add("tight_epsilon/steps_" + std::to_string(phase.steps) + "/row_" + row.at("id"),
        [phase, delta = number(row, "delta")](benchmark::State& state) { tight_epsilon_of(state, phase, delta); });
  }
  add("tight_epsilon/steps_100000/typical", [](benchmark::State& state) {
    tight_epsilon_of(state, {0.004, 1.0, 100000}, 1e-5);
  });
  for (const Row& row : read_table("calibration.csv")) {
    add("calibrate/row_" + row.at("id"), [row](benchmark::State& state) { calibrate(state, row); });
  }
}

}  // namespace
}  // namespace trib::privacy

int main(int argc, char** argv) {
  trib::privacy::register_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
