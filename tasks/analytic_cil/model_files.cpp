#include "tasks/analytic_cil/model_files.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <limits>

#include "common/files.h"
#include "common/safetensors.h"
#include "models/json_file.h"
#include "tasks/class_stream/buffer.h"
#include "tasks/class_stream/center.h"
#include "tasks/class_stream/classifier.h"
#include "tasks/class_stream/records.h"

namespace trib::tasks::analytic_cil {
namespace {

namespace json = boost::json;
using Path = std::filesystem::path;

constexpr std::string_view model_type = "tributary-analytic";
constexpr std::string_view precisions[] = {"fp32", "bf16", "fp8", "tf32"};  // in the order of models::Precision
constexpr std::string_view config_name = "config.json", tensors_name = "model.safetensors";

Result<std::string> text_at(const json::object& object, std::string_view key, const Path& path) {
  const json::value* value = object.if_contains(key);
  if (value == nullptr || !value->is_string()) {
    return models::corrupt_file(path, fmt::format("\"{}\" must be a text", key));
  }
  return std::string(value->get_string());
}

Result<double> number_at(const json::object& object, std::string_view key, const Path& path) {
  const json::value* value = object.if_contains(key);
  if (value == nullptr || !value->is_number()) {
    return models::corrupt_file(path, fmt::format("\"{}\" must be a number", key));
  }
  return value->to_number<double>();
}

// Whole numbers that a size or a seed may be.
Result<std::int64_t> integer_at(const json::object& object, std::string_view key, std::int64_t most, const Path& path) {
  const json::value* value = object.if_contains(key);
  if (value == nullptr || !value->is_int64() || value->get_int64() < 0 || value->get_int64() > most) {
    return models::corrupt_file(path, fmt::format("\"{}\" must be a whole number from 0 to {}", key, most));
  }
  return value->get_int64();
}

// Rows of the weights that may be predicted.
HostTensor exposed_rows(const ModelFiles& model) {
  const auto width = static_cast<std::size_t>(model.weights.shape()[1]);
  std::vector<double> rows;
  for (std::size_t c = 0; c < model.exposed.size(); ++c) {
    if (!model.exposed[c]) continue;
    const auto row = model.weights.as<double>().subspan(c * width, width);
    rows.insert(rows.end(), row.begin(), row.end());
  }
  return HostTensor::from_f64({static_cast<std::int64_t>(rows.size() / width), static_cast<std::int64_t>(width)}, rows);
}

}  // namespace

Status write_model(const Path& directory, const ModelFiles& model) {
  json::array labels;
  for (std::size_t c = 0; c < model.exposed.size(); ++c)
    if (model.exposed[c]) labels.emplace_back(model.config.labels[c]);
  if (labels.empty()) {
    return Error{Errc::not_found, "no class has been seen yet, so there is no model to export: wait for a round"};
  }
  const features::FeaturesConfig& frozen = model.config.features;
  json::object config{{"model_type", model_type},
                      {"backbone", Path(frozen.backbone.base).filename().native()},
                      {"backbone_sha256", frozen.backbone.sha256 ? to_hex(*frozen.backbone.sha256) : ""},
                      {"precision", precisions[static_cast<std::size_t>(frozen.precision)]},
                      {"base_bits", frozen.base_bits},
                      {"max_tokens", frozen.max_tokens},
                      {"image_size", frozen.image_size},
                      {"vector_width", model.config.vector_width},
                      {"features", model.items},
                      {"features_sha256", model.config.features_sha256 ? to_hex(*model.config.features_sha256) : ""},
                      {"input_width", model.input_width},
                      {"buffer_width", model.config.buffer_width},
                      {"buffer_seed", model.config.buffer_seed},
                      {"centered", model.center.has_value()},
                      {"clip_norm", model.clip_norm},
                      {"clipping", std::string(privacy::to_string(model.clipping))},
                      {"gamma", model.gamma},
                      {"labels", std::move(labels)}};
  TensorMap tensors;
  tensors["weights"] = exposed_rows(model);
  if (model.center) tensors[class_stream::center_name] = *model.center;
  TRIB_TRY(make_directories(directory));
  TRIB_TRY(write_safetensors(directory / tensors_name, tensors));
  return write_file_durably(directory / config_name, json::serialize(config) + "\n");
}

Result<ModelFiles> read_model(const Path& directory) {
  const Path path = directory / config_name;
  TRIB_ASSIGN(const json::object object, models::read_json_object(path));
  const json::value* type = object.if_contains("model_type");
  if (type == nullptr || *type != json::value(model_type)) {
    return Error{
        Errc::invalid_argument,
        fmt::format("{}: is not a model of analytic_cil (model_type \"{}\"); name the directory that `trib model "
                    "export` wrote",
                    path.string(), model_type)};
  }
  ModelFiles model;
  features::FeaturesConfig& frozen = model.config.features;
  TRIB_ASSIGN(frozen.backbone.base, text_at(object, "backbone", path));
  TRIB_ASSIGN(const std::string precision, text_at(object, "precision", path));
  const auto known = std::ranges::find(precisions, precision);
  if (known == std::end(precisions)) return models::corrupt_file(path, "\"precision\" is \"" + precision + "\"");
  frozen.precision = static_cast<models::Precision>(known - std::begin(precisions));
  TRIB_ASSIGN(frozen.base_bits, integer_at(object, "base_bits", 16, path));
  TRIB_ASSIGN(frozen.max_tokens, integer_at(object, "max_tokens", 4096, path));
  TRIB_ASSIGN(frozen.image_size, integer_at(object, "image_size", 2048, path));
  TRIB_ASSIGN(model.config.vector_width, integer_at(object, "vector_width", 65'536, path));
  for (const auto& [key, hash] : {std::pair{"backbone_sha256", &frozen.backbone.sha256},
                                  std::pair{"features_sha256", &model.config.features_sha256}}) {
    TRIB_ASSIGN(const std::string hex, text_at(object, key, path));
    if (hex.empty()) continue;
    TRIB_ASSIGN(*hash, sha256_from_hex(hex));
  }
  TRIB_ASSIGN(model.items, text_at(object, "features", path));
  TRIB_ASSIGN(model.input_width, integer_at(object, "input_width", 65'536, path));
  TRIB_ASSIGN(model.config.buffer_width, integer_at(object, "buffer_width", 32'768, path));
  TRIB_ASSIGN(const std::int64_t seed,
              integer_at(object, "buffer_seed", std::numeric_limits<std::int64_t>::max(), path));
  model.config.buffer_seed = static_cast<std::uint64_t>(seed);
  TRIB_ASSIGN(model.clip_norm, number_at(object, "clip_norm", path));
  TRIB_ASSIGN(const std::string clipping, text_at(object, "clipping", path));
  model.clipping = clipping == privacy::to_string(privacy::Clipping::automatic) ? privacy::Clipping::automatic
                                                                                : privacy::Clipping::flat;
  TRIB_ASSIGN(model.gamma, number_at(object, "gamma", path));
  TRIB_ASSIGN(const json::array* labels, models::array_at(object, "labels", path));
  for (const json::value& label : *labels) {
    if (!label.is_string()) return models::corrupt_file(path, "\"labels\" must be texts");
    model.config.labels.emplace_back(label.get_string());
  }
  TRIB_ASSIGN(SafetensorsFile file, read_safetensors(directory / tensors_name));
  const std::int64_t width = model.config.buffer_width > 0 ? model.config.buffer_width : model.input_width;
  std::vector<TensorSpec> specs{
      {"weights", DType::f64, {static_cast<std::int64_t>(model.config.labels.size()), width}}};
  const json::value* const centered = object.if_contains("centered");
  if (centered == nullptr || !centered->is_bool())
    return models::corrupt_file(path, "\"centered\" must be true or false");
  const bool is_centered = centered->get_bool();
  if (is_centered) specs.push_back({class_stream::center_name, DType::f32, {width}});
  if (const Status fits = file.tensors.check_schema(TensorSchema(std::move(specs))); !fits) {
    return models::corrupt_file(directory / tensors_name, fits.error().message);
  }
  if (const Status finite = file.tensors.check_finite(); !finite) {
    return models::corrupt_file(directory / tensors_name, finite.error().message);
  }
  model.weights = file.tensors.at("weights");
  if (is_centered) model.center = file.tensors.at(class_stream::center_name);
  model.exposed.assign(model.config.labels.size(), true);
  return model;
}

Result<Predictions> predict(const PredictRequest& request, Progress& progress) {
  if (request.adapter.empty()) {
    return Error{
        Errc::invalid_argument,
        "which model? --adapter DIRECTORY, as `trib model export` wrote it: a backbone alone predicts nothing"};
  }
  TRIB_ASSIGN(ModelFiles model, read_model(request.adapter));
  class_stream::Config& config = model.config;
  config.item_column = request.text_column;
  config.label_column = request.label_column;
  config.format = request.format;
  const Path base = std::filesystem::absolute(request.base).lexically_normal();
  const Path directory = base.filename().empty() ? base.parent_path() : base;
  config.features.backbone.base = directory.filename();
  const auto shared = std::make_shared<SharedResources>();
  TRIB_ASSIGN(const std::shared_ptr<class_stream::ItemFeatures> items,
              class_stream::open_items(config, {.device = request.device,
                                                .data_directory = directory.parent_path(),
                                                .model_directories = {},
                                                .cache_directory = {},
                                                .shared = shared}));
  const auto stream = request.device->make_stream();
  TRIB_ASSIGN(class_stream::Buffer buffer, class_stream::shared_buffer(*stream, config, items->width(), *shared));
  if (config.features_sha256 && buffer.identity(*stream, items->identity()) != *config.features_sha256) {
    return Error{Errc::invalid_argument,
                 fmt::format("{} was trained on features of {}, and {} gives {}: name the backbone of its config.json",
                             request.adapter.native(), model.items, directory.native(), items->identity())};
  }

  if (model.center) buffer.set_center(*stream, *model.center);

  TRIB_ASSIGN(const data::TextTable table, class_stream::read_table(request.data, config, false));
  TRIB_ASSIGN(const HostTensor inputs, items->extract(table, &progress));
  kernels::Tensor features = buffer.apply(*stream, kernels::Tensor::from_host(*stream, inputs));
  if (model.clip_norm > 0.0) features = class_stream::clip_rows(*stream, features, model.clip_norm, model.clipping);

  Predictions predictions;
  predictions.logits = class_stream::compute_scores(*stream, features, model.weights);
  predictions.predicted = class_stream::predict_exposed(predictions.logits, model.exposed);
  predictions.labels = config.labels;
  if (!request.label_column.empty()) {
    TRIB_ASSIGN(predictions.expected, class_stream::labels_of(table, config));
    predictions.metrics["accuracy"] =
        class_stream::judge_predictions(predictions.predicted, predictions.expected, model.exposed).accuracy;
  }
  return predictions;
}

}  // namespace trib::tasks::analytic_cil
