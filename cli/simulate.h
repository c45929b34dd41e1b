// A whole federation in one process: the same round engine, the same client half and the same task as the daemons, over
// a transport in memory. For experiments; nothing travels, and nobody is late.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "common/result.h"
#include "common/tensor_map.h"
#include "tasks/task.h"

namespace trib::cli {

// Where a simulation is. `loss` is what a site would show on its own screen.
struct SimulationProgress {
  std::int64_t round = 0, rounds = 0;
  std::int64_t sites_done = 0, sites_chosen = 0;  // of this round
  std::string site;                               // the one that trains
  std::int64_t step = 0, steps = 0;
  double loss = 0.0;
  std::optional<double> accuracy;  // of the last evaluated round
  // Work outside a round's steps, such as making features, and how much of it is done; empty: there is none. That of a
  // site names it above; of the aggregator's, `site` is empty.
  std::string work;
  double work_done = 0.0;
};

// What one site hands in, as the aggregator gets it.
struct SimulatedContribution {
  const std::string& site;
  std::int64_t round = 0;
  const TensorMap& constants;
  const TensorMap& broadcast;
  const TensorMap& tensors;  // multiplied by the weight
  double weight = 0.0;
};

struct SimulationOptions {
  std::filesystem::path job_file;
  std::vector<std::string> overrides;  // "section.key=value"
  std::int64_t clients = 0;            // 0: the job file's simulate.sites
  // Public randomness, selection, data split, sampling and noise all follow from the seed: the report then says that
  // nothing is private. Without one here and with job.seed = 0, sampling and noise come from the operating system.
  std::optional<std::uint64_t> seed;
  int threads = 0;              // 0: TRIBUTARY_THREADS, or all processors
  std::string device = "auto";  // as kernels::open_devices() has it
  std::vector<std::filesystem::path> model_directories;
  std::filesystem::path work_directory;    // must be empty or absent, and stays; none: a temporary one
  std::filesystem::path export_directory;  // where the model goes at the end; none: nowhere
  std::optional<double> site_epsilon;      // each site's budget; none: the job's epsilon
  std::function<void(const SimulationProgress&)> on_progress;
  std::function<bool()> cancelled;  // asked between steps
  // For audits, asked before the first round: may change the sites' data files and their declared sizes. Sites are
  // named site-1, site-2, … in the order of `data`.
  std::function<Status(const tasks::JobSpec& job, const tasks::AggregatorContext& aggregator,
                       std::vector<tasks::TaskDefinition::SiteData>& data)>
      on_data;
  // Sees every contribution before it is summed.
  std::function<Status(const SimulatedContribution&)> on_contribution;
};

// Runs the job to its end. The result is the job's report (server/job_report.h) with "simulated", "peak_memory_bytes"
// and, if it was asked for, "exported" added; its "state" says how the job ended. Errors: what is wrong with the job
// file, the data or the directories (nothing was started); Errc::internal if the engine waits for something that cannot
// come.
Result<std::string> run_simulation(const SimulationOptions& options);

}  // namespace trib::cli
