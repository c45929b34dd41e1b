// A trained model as files: model.safetensors and config.json, all that is needed beside the backbone.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "common/result.h"
#include "common/tensor_map.h"
#include "privacy/mechanism.h"
#include "tasks/class_stream/config.h"
#include "tasks/task.h"

namespace trib::tasks::analytic_cil {

struct ModelFiles {
  class_stream::Config config;  // its [features], [model] and [buffer]
  std::string items;            // ItemFeatures::identity()
  std::int64_t input_width = 0;
  double clip_norm = 0.0;  // of the features; 0: as they are
  privacy::Clipping clipping = privacy::Clipping::flat;
  std::optional<HostTensor> center;  // (width) float32, taken off the features; none: not centred
  HostTensor weights;                // (labels, width) float64
  std::vector<bool> exposed;         // labels that may be predicted
  double gamma = 0.0;
};

// config.json names the backbone and its SHA-256, buffer, clip and the labels; model.safetensors holds "weights"
// (labels, width) float64, of exposed labels alone, in the order of config.json, and "center" (width) float32 where the
// job had one. The score of a label is weights·x with x = relu(features·buffer) − center, scaled to the clip norm.
Status write_model(const std::filesystem::path& directory, const ModelFiles& model);
// Errc::not_found, corrupt with the file, or invalid_argument if it is a model of something else.
Result<ModelFiles> read_model(const std::filesystem::path& directory);

// `trib model predict` and `trib model evaluate`: request.adapter is a directory that write_model() wrote, request.base
// the backbone, whose SHA-256 must be the model's. Logits are scores, a column for each label that may be predicted.
Result<Predictions> predict(const PredictRequest& request, Progress& progress);

}  // namespace trib::tasks::analytic_cil
