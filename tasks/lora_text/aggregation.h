// What each algorithm makes of a round's mean. All of it is a function of the sum: no site's own factors are seen here.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/result.h"
#include "common/tensor_map.h"
#include "kernels/tensor.h"
#include "models/text_classifier.h"
#include "tasks/lora_text/config.h"

namespace trib::tasks::lora_text {

// The adapters of a job: ΔW = (alpha/rank)·B·A for every layer, A (rank, in), B (out, rank).
struct AdapterLayout {
  std::vector<models::TextClassifier::AdaptedLayer> layers;
  std::int64_t rank = 0;
};

// Tensor names. A state, a broadcast and a running average all hold adapters under these.
std::string a_name(const models::TextClassifier::AdaptedLayer& layer);         // "<layer>.lora_A"
std::string b_name(const models::TextClassifier::AdaptedLayer& layer);         // "<layer>.lora_B"
std::string rotation_name(const models::TextClassifier::AdaptedLayer& layer);  // "<layer>.rotation"

// A_0 of every layer, float32, from public randomness: orthonormal rows (the Q of a Gaussian matrix) for fedsvd and
// ffa-orthonormal, uniform on ±1/sqrt(in) as PEFT initializes (Kaiming, a = sqrt 5) for ffa and fedavg.
TensorMap draw_initial_a(kernels::Stream& stream, Algorithm algorithm, const AdapterLayout& layout, std::uint64_t seed);

// The factors that `state` stands for, float32, under a_name and b_name. A is the state's own where it has one,
// rotation·A_0 (computed in float64) where it has a rotation, and A_0 otherwise; A_0 is from `constants`.
// Errc::not_found if a tensor is missing.
Result<TensorMap> explicit_adapters(kernels::Stream& stream, const AdapterLayout& layout, const TensorMap& constants,
                                    const TensorMap& state);

// One algorithm's server side, for the adapters alone. Stateless: whatever has to be remembered is in the state.
class Aggregation {
 public:
  virtual ~Aggregation() = default;

  // Whether A is fixed for the job, so that A_0 is a constant that every site fetches once.
  virtual bool has_fixed_a() const = 0;

  // Before the first round. B is zero, float32. `initial_a` is what draw_initial_a gave.
  virtual TensorMap initial_state(const TensorMap& initial_a) const = 0;

  // After a round whose mean is `mean` (float64, at least the tensors that sites train).
  virtual Result<TensorMap> next_state(kernels::Stream& stream, const TensorMap& initial_a, const TensorMap& state,
                                       const TensorMap& mean) const = 0;

  // average ← decay·average + (1 − decay)·ΔW(state), as float64 factors that explicit_adapters understands. An average
  // of the products, never of the factors. `average` is empty before the first call.
  virtual Status add_to_average(kernels::Stream& stream, TensorMap& average, const TensorMap& state,
                                double decay) const = 0;
};

std::unique_ptr<Aggregation> make_aggregation(Algorithm algorithm, AdapterLayout layout);

}  // namespace trib::tasks::lora_text
