// The sections of a job file that describe a stream of classes: records of new and old classes that arrive over time,
// as features of a frozen backbone. Tasks read them among their own.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/hash.h"
#include "common/result.h"
#include "tasks/data/si_blurry.h"
#include "tasks/features/config.h"
#include "tasks/job.h"

namespace trib::tasks::class_stream {

struct Config {
  features::FeaturesConfig features;      // the frozen backbone, where there is one
  std::int64_t vector_width = 0;          // above 0: items are so many numbers between spaces, and there is no backbone
  std::optional<Sha256> features_sha256;  // what Buffer::identity() must be, at the aggregator and at every site
  std::string center_file;                // public items whose mean is taken off everyone's features (center.h)
  std::optional<Sha256> center_sha256;    // of that mean; fixed at submission
  std::vector<std::string> labels;  // all classes that the job may ever see; a record's label is one of these texts

  std::int64_t buffer_width = 1000;  // of the random layer; 0: the features are used as they are
  std::uint64_t buffer_seed = 0;

  std::int64_t phases = 1;
  std::int64_t steps_per_phase = 1;        // rounds of a phase
  std::vector<std::int64_t> label_phases;  // from which phase on each label may be predicted; empty: not declared
  data::SiBlurryOptions stream;            // how a simulation's records arrive

  std::string format = "auto";
  std::string item_column = "text";
  std::string label_column = "label";
  std::string phase_column = "phase";  // of the sites' files, where they have it

  std::string evaluation_file;        // the public test set; empty: none
  std::int64_t evaluation_limit = 0;  // at most so many of its rows, evenly spaced; 0: all

  std::string simulated_file;  // training file that a simulation deals out; empty: none
  double dirichlet_alpha = 0.5;
  std::int64_t minimum_records = 10;  // of a simulated site

  std::int64_t class_count() const { return static_cast<std::int64_t>(labels.size()); }
  // Rounds in which new records arrive; later ones are for sites that missed one.
  std::int64_t step_count() const { return phases * steps_per_phase; }
  // 1 to phases; rounds after the last step belong to the last.
  std::int64_t phase_of(std::int64_t round) const {
    return std::min(phases, (round + steps_per_phase - 1) / steps_per_phase);
  }
  bool ends_phase(std::int64_t round) const { return round <= step_count() && round % steps_per_phase == 0; }
  // Which labels may be predicted after `round`: those of which a record has arrived. `counts` has the records of each
  // label so far; empty under privacy, where nobody knows and the job says (label_phases).
  std::vector<bool> exposed_classes(std::span<const double> counts, std::int64_t round) const;
};

// Reads [features], [model], [buffer], [protocol], [data], [evaluation] and [simulate]. Errors wait for
// config.finish().
Config read_config(const JobSpec& job, ConfigReader& config);

}  // namespace trib::tasks::class_stream
