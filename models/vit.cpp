#include "models/vit.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <boost/json/object.hpp>

#include "kernels/attention.h"
#include "kernels/convolution.h"
#include "kernels/embedding.h"
#include "kernels/per_sample.h"
#include "models/checkpoint.h"
#include "models/json_file.h"

namespace trib::models {

using kernels::PackedMatrix;
using kernels::Stream;
using kernels::Tensor;
using kernels::Workspace;

Result<VitConfig> read_vit_config(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "config.json";
  TRIB_ASSIGN(const boost::json::object json, read_json_object(path));
  const auto refuse = [&](std::string_view problem) {
    return Error{Errc::unsupported, fmt::format("{}: {}", path.native(), problem)};
  };
  if (text_at(json, "model_type") != "vit")
    return refuse(fmt::format("\"model_type\" is \"{}\"; only \"vit\" is supported", text_at(json, "model_type")));
  if (text_at(json, "hidden_act") != "gelu")
    return refuse(fmt::format("\"hidden_act\" is \"{}\"; only \"gelu\" (the exact form) is supported",
                              text_at(json, "hidden_act")));
  VitConfig config;
  TRIB_ASSIGN(config.hidden_size, positive_at(json, "hidden_size", path));
  TRIB_ASSIGN(config.intermediate_size, positive_at(json, "intermediate_size", path));
  TRIB_ASSIGN(config.layers, positive_at(json, "num_hidden_layers", path));
  TRIB_ASSIGN(config.heads, positive_at(json, "num_attention_heads", path));
  TRIB_ASSIGN(config.image_size, positive_at(json, "image_size", path));
  TRIB_ASSIGN(config.patch_size, positive_at(json, "patch_size", path));
  TRIB_ASSIGN(config.layer_norm_epsilon, number_at(json, "layer_norm_eps", config.layer_norm_epsilon, path));
  if (const boost::json::value* bias = json.if_contains("qkv_bias"); bias != nullptr && bias->is_bool())
    config.qkv_bias = bias->get_bool();
  TRIB_ASSIGN(const std::int64_t channels, positive_at(json, "num_channels", path));
  if (channels != 3) return refuse(fmt::format("\"num_channels\" is {}; only 3 is supported", channels));
  if (config.hidden_size % config.heads != 0)
    return corrupt_file(path, fmt::format("\"hidden_size\" ({}) is not a multiple of \"num_attention_heads\" ({})",
                                          config.hidden_size, config.heads));
  if (config.image_size % config.patch_size != 0)
    return refuse(fmt::format("\"image_size\" ({}) is not a multiple of \"patch_size\" ({})", config.image_size,
                              config.patch_size));
  return config;
}

VitEncoder::VitEncoder(kernels::Device& device, const ImageProcessor& processor, const VitConfig& config)
    : ImageEncoder(device, processor, device.kind() == kernels::DeviceKind::cpu ? 4 : 64), config_(config) {}

Result<std::unique_ptr<VitEncoder>> VitEncoder::load(kernels::Device& device, const std::filesystem::path& directory,
                                                     const ImageProcessor& processor,
                                                     kernels::Float32Products products) {
  TRIB_ASSIGN(const VitConfig config, read_vit_config(directory));
  if (processor.size != config.image_size)
    return Error{Errc::invalid_argument,
                 fmt::format("pictures of {} pixels do not fit the positions of the network in {}: it takes {}",
                             processor.size, directory.native(), config.image_size)};
  TRIB_ASSIGN(const Checkpoint checkpoint, Checkpoint::read(directory, "vit."));
  std::unique_ptr<VitEncoder> encoder(new VitEncoder(device, processor, config));
  Stream& stream = encoder->stream();
  const std::int64_t d = config.hidden_size, wide = config.intermediate_size, patch = config.patch_size;
  const auto tensor = [&](const std::string& name, const Shape& shape) {
    return checkpoint.tensor("vit." + name, shape);
  };
  const auto norm = [&](const std::string& name) -> Result<kernels::LayerNormWeights> {
    TRIB_ASSIGN(const HostTensor gamma, tensor(name + ".weight", {d}));
    TRIB_ASSIGN(const HostTensor beta, tensor(name + ".bias", {d}));
    return kernels::LayerNormWeights{Tensor::from_host(stream, gamma), Tensor::from_host(stream, beta),
                                     static_cast<float>(config.layer_norm_epsilon)};
  };
  // Several layers with one input, as one product.
  const auto linear = [&](const std::vector<std::string>& names, std::int64_t inputs, std::int64_t outputs,
                          bool has_bias) -> Result<Linear> {
    const auto count = static_cast<std::int64_t>(names.size());
    HostTensor weights(DType::f32, {count * outputs, inputs}), biases(DType::f32, {count * outputs});
    auto weight_place = weights.as<float>().begin(), bias_place = biases.as<float>().begin();
    for (const std::string& name : names) {
      TRIB_ASSIGN(const HostTensor weight, tensor(name + ".weight", {outputs, inputs}));
      weight_place = std::ranges::copy(weight.as<float>(), weight_place).out;
      if (!has_bias) continue;
      TRIB_ASSIGN(const HostTensor bias, tensor(name + ".bias", {outputs}));
      bias_place = std::ranges::copy(bias.as<float>(), bias_place).out;
    }
    return Linear{PackedMatrix(stream, Tensor::from_host(stream, weights), true, DType::f32, products),
                  Tensor::from_host(stream, biases)};
  };

  TRIB_ASSIGN(const HostTensor patches, tensor("embeddings.patch_embeddings.projection.weight", {d, 3, patch, patch}));
  TRIB_ASSIGN(const HostTensor patch_bias, tensor("embeddings.patch_embeddings.projection.bias", {d}));
  TRIB_ASSIGN(const HostTensor class_token, tensor("embeddings.cls_token", {1, 1, d}));
  TRIB_ASSIGN(const HostTensor positions, tensor("embeddings.position_embeddings", {1, config.tokens(), d}));
  encoder->patches_ = {
      PackedMatrix(stream, Tensor::from_host(stream, window_weights(patches)), false, DType::f32, products),
      Tensor::from_host(stream, patch_bias)};
  encoder->class_token_ = Tensor::from_host(stream, class_token).reshape({1, d});
  encoder->positions_ = Tensor::from_host(stream, positions).reshape({config.tokens(), d});
  encoder->zero_ = Tensor::zeros(stream, DType::f32, {d});
  for (std::int64_t i = 0; i < config.layers; ++i) {
    const std::string path = fmt::format("encoder.layer.{}.", i), attention = path + "attention.attention.";
    Layer& layer = encoder->layers_.emplace_back();
    TRIB_ASSIGN(layer.before, norm(path + "layernorm_before"));
    TRIB_ASSIGN(layer.after, norm(path + "layernorm_after"));
    TRIB_ASSIGN(layer.query_key_value,
                linear({attention + "query", attention + "key", attention + "value"}, d, d, config.qkv_bias));
    TRIB_ASSIGN(layer.attention_output, linear({path + "attention.output.dense"}, d, d, true));
    TRIB_ASSIGN(layer.intermediate, linear({path + "intermediate.dense"}, d, wide, true));
    TRIB_ASSIGN(layer.output, linear({path + "output.dense"}, wide, d, true));
  }
  TRIB_ASSIGN(encoder->last_norm_, norm("layernorm"));
  return encoder;
}

double VitEncoder::operations() const {
  const auto t = static_cast<double>(config_.tokens()), d = static_cast<double>(config_.hidden_size),
             wide = static_cast<double>(config_.intermediate_size), patch = static_cast<double>(config_.patch_size);
  return 2.0 * ((t - 1.0) * 3.0 * patch * patch * d +
                static_cast<double>(config_.layers) * (t * (4.0 * d * d + 2.0 * d * wide) + 2.0 * t * t * d));
}

Tensor VitEncoder::states(Stream& stream, Workspace& workspace, const Tensor& x, std::int64_t images) const {
  const std::int64_t d = config_.hidden_size, tokens = config_.tokens(), patches = tokens - 1;
  const Tensor state = workspace.take(DType::f32, {images * tokens, d});
  // What the layers need of the batch's shape: row 0 of the table is the class token, row 1 + i patch i of the batch.
  std::vector<std::int32_t> numbers;
  for (std::int64_t image = 0; image < images; ++image)
    for (std::int64_t token = 0; token < tokens; ++token)
      numbers.push_back(static_cast<std::int32_t>(token == 0 ? 0 : image * patches + token));
  for (std::int64_t image = 0; image < images; ++image)
    for (std::int64_t token = 0; token < tokens; ++token) numbers.push_back(static_cast<std::int32_t>(token));
  for (std::int64_t image = 0; image <= images; ++image) numbers.push_back(static_cast<std::int32_t>(image * tokens));
  const Tensor all = Tensor::from_host(stream, std::span<const std::int32_t>(numbers));
  const std::int64_t rows = images * tokens;
  {
    const Workspace::Scope scope(workspace);
    const Tensor table = workspace.take(DType::f32, {1 + images * patches, d});
    table.rows(0, 1).copy_from(stream, class_token_);
    const kernels::Windows windows{
        images, config_.image_size, config_.image_size, 3, config_.patch_size, config_.patch_size, 0};
    kernels::convolution(stream, workspace, x, windows, patches_.weights, patches_.bias, false, false,
                         table.rows(1, images * patches));
    kernels::embed(stream, all.rows(0, rows), table, all.rows(rows, rows), positions_, zero_, state);
  }
  for (const Layer& layer : layers_) forward_layer(stream, workspace, layer, all.rows(2 * rows, images + 1), state);
  return state;
}

void VitEncoder::forward_layer(Stream& stream, Workspace& workspace, const Layer& layer, const Tensor& offsets,
                               const Tensor& state) const {
  const Workspace::Scope scope(workspace);
  const std::int64_t rows = state.dim(0), d = config_.hidden_size, wide = config_.intermediate_size;
  const auto take = [&](std::int64_t columns) { return workspace.take(DType::f32, {rows, columns}); };
  const Tensor normalized = take(d), projected = take(3 * d), context = take(d), added = take(d);
  kernels::layer_norm(stream, state, {}, layer.before, normalized, {}, {});
  kernels::packed_product(stream, normalized, layer.query_key_value.weights, layer.query_key_value.bias, false,
                          projected);
  kernels::AttentionInputs inputs;
  inputs.query = {projected, 0, d};
  inputs.keys = {projected, d, d};
  inputs.values = {projected, 2 * d, d};
  inputs.query_offsets = inputs.key_offsets = offsets;
  inputs.heads = config_.heads;
  inputs.longest = config_.tokens();
  kernels::attention(stream, inputs, context, {});
  kernels::packed_product(stream, context, layer.attention_output.weights, layer.attention_output.bias, false, added);
  kernels::axpy(stream, 1.0, added, state);

  kernels::layer_norm(stream, state, {}, layer.after, normalized, {}, {});
  const Tensor inner = take(wide);
  kernels::packed_product_gelu(stream, normalized, layer.intermediate.weights, layer.intermediate.bias, inner, inner,
                               {});
  kernels::packed_product(stream, inner, layer.output.weights, layer.output.bias, false, added);
  kernels::axpy(stream, 1.0, added, state);
}

void VitEncoder::forward_all(Stream& stream, Workspace& workspace, const Tensor& x, std::int64_t images,
                             const Tensor& last) const {
  kernels::layer_norm(stream, states(stream, workspace, x, images), {}, last_norm_, last, {}, {});
}

void VitEncoder::forward(Stream& stream, Workspace& workspace, const Tensor& x, std::int64_t images,
                         const Tensor& out) const {
  const Tensor state = states(stream, workspace, x, images);
  std::vector<std::int32_t> rows;
  for (std::int64_t image = 0; image < images; ++image)
    rows.push_back(static_cast<std::int32_t>(image * config_.tokens()));
  const Tensor first = workspace.take(DType::f32, {images, config_.hidden_size});
  kernels::gather_rows(stream, state, Tensor::from_host(stream, std::span<const std::int32_t>(rows)), first);
  kernels::layer_norm(stream, first, {}, last_norm_, out, {}, {});
}

Result<std::unique_ptr<ImageEncoder>> load_vit(kernels::Device& device, const std::filesystem::path& directory,
                                               const ImageProcessor& processor, kernels::Float32Products products) {
  TRIB_ASSIGN(std::unique_ptr<VitEncoder> encoder, VitEncoder::load(device, directory, processor, products));
  return std::unique_ptr<ImageEncoder>(std::move(encoder));
}

}  // namespace trib::models
