// The sections of a job file that the cold-start recommender reads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "common/config.h"
#include "common/result.h"
#include "tasks/cold_start/dataset.h"
#include "tasks/cold_start/recommender.h"
#include "tasks/cold_start/split.h"
#include "tasks/job.h"

namespace trib::tasks::cold_start {

enum class Source { synthetic, movielens_100k, movielens_1m };

struct Config {
  Source source = Source::synthetic;
  std::string directory;  // of the MovieLens files, relative to the job file
  SyntheticOptions synthetic;
  std::int64_t min_word_count = 20;  // available titles that have a word, for it to be a feature
  SplitOptions split;
  ModelConfig model;

  std::int64_t batch_size = 256;  // expected users of a step
  std::int64_t local_steps = 1;   // a round
  double learning_rate = 0.5;     // of the sites' SGD

  enum class Optimizer { adam, sgd } optimizer = Optimizer::adam;  // the aggregator's
  double server_learning_rate = 0.01;
  double weight_decay = 0.0;

  bool evaluate = true;
  Part evaluated_part = Part::test;
  bool one_user_a_site = false;    // in a simulation
  double dirichlet_alpha = 100.0;  // how unevenly occupations are dealt out to simulated sites
  bool operator==(const Config&) const = default;
};

// Reads [catalogue], [split], [model], [ablation], [training], [server], [evaluation] and [simulate]. Errors wait for
// config.finish().
Config read_config(const JobSpec& job, ConfigReader& config);
// The same from a job that has been read before.
Result<Config> config_of(const JobSpec& job);

// The data set that [catalogue] names.
Result<Dataset> load_dataset(const Config& config, const std::filesystem::path& data_directory);

}  // namespace trib::tasks::cold_start
