// The sections of a job file that text classification with LoRA adapters reads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/hash.h"
#include "common/result.h"
#include "models/text_classifier.h"
#include "tasks/job.h"

namespace trib::tasks::lora_text {

// What the aggregator makes of a round's mean, and so what trains.
enum class Algorithm {
  fedsvd,           // trains B; A and B are refactorized after every round (arXiv 2505.12805)
  ffa,              // trains B; A stays as PEFT initializes it (FFA-LoRA, arXiv 2403.12313)
  ffa_orthonormal,  // trains B; A stays a random matrix with orthonormal rows
  fedavg,           // trains A and B, which are averaged separately
};
std::string_view to_string(Algorithm algorithm);

// How to read a table of texts.
struct TableFormat {
  std::string format = "auto";  // by the file's ending, or "tsv", "csv", "jsonl"
  std::string text_column = "text";
  std::string label_column = "label";
};

struct Config {
  std::string base;                   // directory name of the base model, or the path to it at the aggregator
  std::optional<Sha256> base_sha256;  // what it must be, at the aggregator and at every site
  std::vector<std::string> labels;    // the classes; a record's label is one of these texts
  models::ClassifierConfig classifier;

  Algorithm algorithm = Algorithm::fedsvd;
  std::int64_t batch_size = 64;   // expected records a step; a site with fewer records takes all of them
  std::int64_t local_steps = 10;  // a round
  double learning_rate = 0.5;

  TableFormat table;

  std::string evaluation_file;        // the public test set; empty: none
  std::int64_t evaluation_limit = 0;  // at most so many of its rows, evenly spaced; 0: all
  double average_states = 0.9;        // decay of the running average over rounds; 0: none is kept

  std::string simulated_file;  // training file that a simulation deals out; empty: none
  double dirichlet_alpha = 0.5;
  std::int64_t minimum_records = 10;  // of a simulated site
};

// The learning rate of one trained tensor. Block-LoRA's n up-projections share one gradient, so their sum moves n times
// as far as each (models/README.md).
double learning_rate_of(const Config& config, std::string_view parameter);

// Reads [model], [adapter], [training], [data], [evaluation] and [simulate]. Errors wait for config.finish().
Config read_config(const JobSpec& job, ConfigReader& config);

// The same from a job that has been read before. Errc::invalid_argument as from reading the job file.
Result<Config> config_of(const JobSpec& job);

}  // namespace trib::tasks::lora_text
