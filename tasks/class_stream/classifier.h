// A labelled public set, and what weights get right on it.
#pragma once

#include <cstdint>
#include <vector>

#include "common/result.h"
#include "common/tensor_map.h"
#include "kernels/tensor.h"
#include "tasks/class_stream/buffer.h"
#include "tasks/class_stream/records.h"

namespace trib::tasks::class_stream {

// (n, classes) float32 = features·weightsᵀ: features (n, d) float32, weights (classes, d) float64.
HostTensor compute_scores(kernels::Stream& stream, const kernels::Tensor& features, const HostTensor& weights);

// The index of each row's largest score among exposed classes, the first of several; −1 if none is exposed.
std::vector<std::int32_t> predict_exposed(const HostTensor& scores, const std::vector<bool>& exposed);

struct Judgement {
  double accuracy = 0.0;         // over the items of exposed classes; 0 if there is none
  std::vector<double> of_class;  // NaN: not exposed, or without an item
};
Judgement judge_predictions(const std::vector<std::int32_t>& predicted, const std::vector<std::int32_t>& expected,
                            const std::vector<bool>& exposed);

// A public set whose features are made once, when they are first needed.
class LabelledFeatures {
 public:
  LabelledFeatures(PublicSet set) : set_(std::move(set)) {}  // NOLINT: a set is one
  // `progress` may be null.
  Status prepare(kernels::Stream& stream, ItemFeatures& items, const Buffer& buffer, double clip_norm,
                 privacy::Clipping clipping, Progress* progress);
  // After prepare().
  Judgement judge(kernels::Stream& stream, const HostTensor& weights, const std::vector<bool>& exposed) const;

 private:
  PublicSet set_;
  kernels::Tensor features_;
};

}  // namespace trib::tasks::class_stream
