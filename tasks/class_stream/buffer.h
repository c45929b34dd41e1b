// From a backbone's features to those that a task learns from.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "common/hash.h"
#include "common/result.h"
#include "common/tensor_map.h"
#include "kernels/ridge.h"
#include "privacy/mechanism.h"
#include "tasks/class_stream/config.h"
#include "tasks/class_stream/items.h"
#include "tasks/task.h"

namespace trib::tasks::class_stream {

// The features that a task learns from: the backbone's, or a layer of random ones over them (kernels::RandomFeatures),
// less a public centre where the job has one (center.h).
class Buffer {
 public:
  // Of `width` random features of `input_width`; without a layer where width is 0. The same seed, the same layer.
  Buffer(kernels::Stream& stream, std::int64_t input_width, std::int64_t width, std::uint64_t seed);
  std::int64_t width() const { return layer_ ? layer_->width() : input_width_; }
  // (n, width) float32 from (n, input_width) float32: the same bits for a record in any batch.
  kernels::Tensor apply(kernels::Stream& stream, const kernels::Tensor& inputs) const;
  // From now on taken off every record's features: (width) float32.
  void set_center(kernels::Stream& stream, const HostTensor& center);
  bool has_center() const { return center_.defined(); }
  // What makes two sites' features the same: the backbone, and every bit of the random layer. Not the centre, which all
  // have from the aggregator.
  Sha256 identity(kernels::Stream& stream, const std::string& items) const;

 private:
  std::int64_t input_width_;
  std::shared_ptr<const kernels::RandomFeatures> layer_;  // null: none
  kernels::Tensor center_;                                // (1, width) float32; undefined: none
};

// The same object for equal jobs on one device in one process.
Result<Buffer> shared_buffer(kernels::Stream& stream, const Config& config, std::int64_t input_width,
                             SharedResources& shared);

// Errc::unsupported if the features of this machine are not those that the job names (features.sha256), with both.
Status check_features(kernels::Stream& stream, const Config& config, const ItemFeatures& items, const Buffer& buffer);

// Scales each row of features (n, d) float32 so that its norm is at most `clip_norm`, by the rule that the job names.
kernels::Tensor clip_rows(kernels::Stream& stream, const kernels::Tensor& features, double clip_norm,
                          privacy::Clipping rule);

}  // namespace trib::tasks::class_stream
