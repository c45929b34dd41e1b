// What a stream of classes is judged by.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace trib::tasks::class_stream {

// One evaluated round: the model after it, on the test items of the classes that were exposed by then.
struct Evaluated {
  double accuracy = 0.0;
  double records = 0.0;     // that arrived in the round; 0 where nobody may know
  bool ends_phase = false;  // the last round of a phase of the protocol
};

// "A_AUC": the mean of the accuracy over the records as they arrived, each round with the weight of its own records;
// where these are not known (all 0), the plain mean. "A_avg": the mean over the ends of phases. "A_last": the accuracy
// after the last round. The last two are absent until a phase has ended.
// (G-ACIL measures every 1,000 samples: A_AUC is the limit of its mean for as many rounds as there are measurements.)
std::map<std::string, double> stream_metrics(std::span<const Evaluated> rounds);

// How much of a class was lost: the best accuracy that it ever had, less that of now. Classes that were not exposed
// before the present round, or have no test item, are NaN in `best` and are left out.
struct Forgetting {
  std::vector<double> of_class;  // NaN where it is left out
  double mean = 0.0;             // over those that are not; 0 if there is none
};
Forgetting forgetting(std::span<const double> best, std::span<const double> now);

}  // namespace trib::tasks::class_stream
