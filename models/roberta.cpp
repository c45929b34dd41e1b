#include "models/roberta.h"

#include <algorithm>
#include <optional>

#include "kernels/activation.h"
#include "kernels/embedding.h"

namespace trib::models {

using kernels::MatrixView;
using kernels::Stream;
using kernels::Tensor;
using kernels::Workspace;

namespace {

constexpr std::string_view linear_names[] = {"attention.self.query",   "attention.self.key", "attention.self.value",
                                             "attention.output.dense", "intermediate.dense", "output.dense"};

// PEFT's rule: a target names every layer whose path ends in it at a dot.
bool matches(std::string_view path, std::string_view target) {
  return path.ends_with(target) && (path.size() == target.size() || path[path.size() - target.size() - 1] == '.');
}

bool is_adapted(std::string_view path, const AdapterConfig& adapter) {
  return std::any_of(adapter.targets.begin(), adapter.targets.end(),
                     [&](const std::string& target) { return matches(path, target); });
}

Status check_targets(const AdapterConfig& adapter) {
  for (const std::string& target : adapter.targets) {
    auto found = [&](std::string_view name) { return matches(name, target); };
    if (std::any_of(std::begin(linear_names), std::end(linear_names), found)) continue;
    return Error{Errc::invalid_argument,
                 "no layer's name ends in the adapter target \"" + target +
                     "\"; accepted are query, key, value, attention.output.dense, "
                     "intermediate.dense and output.dense (which includes attention.output.dense)"};
  }
  return {};
}

// Tensors of equal row length, one below the other.
HostTensor stack(const std::vector<HostTensor>& parts) {
  Shape shape = parts.front().shape();
  shape[0] = 0;
  for (const HostTensor& part : parts) shape[0] += part.shape()[0];
  HostTensor whole(DType::f32, shape);
  auto to = whole.as<float>().begin();
  for (const HostTensor& part : parts) {
    auto from = part.as<float>();
    to = std::copy(from.begin(), from.end(), to);
  }
  return whole;
}

// Reads the parts of one layer's weights.
class LayerLoader {
 public:
  LayerLoader(Stream& stream, const Checkpoint& checkpoint, const ClassifierConfig& config, ComputeTypes types,
              std::string path)
      : stream_(stream), checkpoint_(checkpoint), config_(config), types_(types), path_(std::move(path)) {}

  Result<LoraLinear> linear(const std::vector<std::string>& names, std::int64_t inputs, std::int64_t outputs) const {
    std::vector<HostTensor> weights, biases;
    std::vector<LoraLinear::Part> parts;
    for (const std::string& name : names) {
      TRIB_ASSIGN(HostTensor weight, checkpoint_.tensor(path_ + name + ".weight", {outputs, inputs}));
      TRIB_ASSIGN(HostTensor bias, checkpoint_.tensor(path_ + name + ".bias", {outputs}));
      weights.push_back(std::move(weight));
      biases.push_back(std::move(bias));
      parts.push_back({path_ + name, outputs, is_adapted(name, config_.adapter)});
    }
    return LoraLinear(stream_, Tensor::from_host(stream_, stack(weights)), Tensor::from_host(stream_, stack(biases)),
                      parts, config_.adapter.rank, config_.adapter.alpha, types_);
  }

  Result<kernels::LayerNormWeights> norm(const std::string& name, std::int64_t size, double epsilon) const {
    TRIB_ASSIGN(const HostTensor gamma, checkpoint_.tensor(path_ + name + ".weight", {size}));
    TRIB_ASSIGN(const HostTensor beta, checkpoint_.tensor(path_ + name + ".bias", {size}));
    return kernels::LayerNormWeights{Tensor::from_host(stream_, gamma), Tensor::from_host(stream_, beta),
                                     static_cast<float>(epsilon)};
  }

 private:
  Stream& stream_;
  const Checkpoint& checkpoint_;
  const ClassifierConfig& config_;
  ComputeTypes types_;
  std::string path_;
};

}  // namespace

kernels::WeightFormat weight_format(const ClassifierConfig& config) {
  using kernels::WeightFormat;
  if (config.precision == Precision::fp8) return WeightFormat::fp8;
  return config.base_bits == 8 ? WeightFormat::int8 : config.base_bits == 4 ? WeightFormat::int4 : WeightFormat::dense;
}

Result<RobertaEncoder> RobertaEncoder::load(Stream& stream, const RobertaConfig& roberta, const Checkpoint& checkpoint,
                                            const ClassifierConfig& config) {
  TRIB_TRY(check_targets(config.adapter));
  RobertaEncoder encoder;
  encoder.config_ = roberta;
  const kernels::WeightFormat weights = weight_format(config);
  const bool fp8 = weights == kernels::WeightFormat::fp8;
  const DType compute = fp8                                   ? kernels::fp8_companion_type(stream.device())
                        : config.precision == Precision::bf16 ? DType::bf16
                                                              : DType::f32;
  const auto [products, states, state_gradients] = kernels::activation_types(stream.device(), compute);
  // States in bfloat16 where products are in FP8: their rounding is a sixteenth of e4m3's.
  const ComputeTypes types{
      compute,
      products,
      fp8 ? compute : states,
      state_gradients,
      weights,
      config.precision == Precision::tf32 ? kernels::Float32Products::tf32 : kernels::Float32Products::exact};
  encoder.types_ = types;
  const std::int64_t d = roberta.hidden_size, wide = roberta.intermediate_size;

  const std::string embeddings = "roberta.embeddings.";
  TRIB_ASSIGN(const HostTensor tokens,
              checkpoint.tensor(embeddings + "word_embeddings.weight", {roberta.vocabulary_size, d}));
  TRIB_ASSIGN(const HostTensor positions,
              checkpoint.tensor(embeddings + "position_embeddings.weight", {roberta.max_positions, d}));
  TRIB_ASSIGN(const HostTensor token_types, checkpoint.tensor(embeddings + "token_type_embeddings.weight", {1, d}));
  encoder.token_table_ = Tensor::from_host(stream, tokens);
  encoder.position_table_ = Tensor::from_host(stream, positions);
  encoder.type_embedding_ = Tensor::from_host(stream, token_types);
  TRIB_ASSIGN(
      encoder.embedding_norm_,
      LayerLoader(stream, checkpoint, config, types, embeddings).norm("LayerNorm", d, roberta.layer_norm_epsilon));

  const std::string query = "attention.self.query", key = "attention.self.key", value = "attention.self.value";
  for (std::int64_t i = 0; i < roberta.layers; ++i) {
    LayerLoader loader(stream, checkpoint, config, types, "roberta.encoder.layer." + std::to_string(i) + ".");
    Layer& layer = encoder.layers_.emplace_back();
    if (i + 1 < roberta.layers) {
      TRIB_ASSIGN(layer.query_key_value, loader.linear({query, key, value}, d, d));
    } else {
      TRIB_ASSIGN(layer.query, loader.linear({query}, d, d));
      TRIB_ASSIGN(layer.key_value, loader.linear({key, value}, d, d));
    }
    TRIB_ASSIGN(layer.attention_output, loader.linear({"attention.output.dense"}, d, d));
    TRIB_ASSIGN(layer.attention_norm, loader.norm("attention.output.LayerNorm", d, roberta.layer_norm_epsilon));
    TRIB_ASSIGN(layer.intermediate, loader.linear({"intermediate.dense"}, d, wide));
    TRIB_ASSIGN(layer.output, loader.linear({"output.dense"}, wide, d));
    TRIB_ASSIGN(layer.output_norm, loader.norm("output.LayerNorm", d, roberta.layer_norm_epsilon));
  }
  const Layer& last = encoder.layers_.back();
  encoder.lowest_ = last.query.adapted() || last.key_value.adapted() ? projections
                    : last.attention_output.adapted()                ? attention_output
                    : last.intermediate.adapted()                    ? intermediate
                    : last.output.adapted()                          ? output
                                                                     : stages;
  encoder.key_adapted_ = is_adapted(key, config.adapter);
  return encoder;
}

std::vector<Adapter*> RobertaEncoder::adapters() {
  std::vector<Adapter*> all;
  for (Layer& layer : layers_)
    for (LoraLinear* linear : {&layer.query_key_value, &layer.query, &layer.key_value, &layer.attention_output,
                               &layer.intermediate, &layer.output})
      for (Adapter& adapter : linear->adapters()) all.push_back(&adapter);
  return all;
}

void RobertaEncoder::add_forms(std::vector<kernels::MatrixForms>& to) const {
  for (const Layer& layer : layers_)
    for (const LoraLinear* linear : {&layer.query_key_value, &layer.query, &layer.key_value, &layer.attention_output,
                                     &layer.intermediate, &layer.output})
      linear->add_forms(to);
}

Activation RobertaEncoder::take_state(Workspace& workspace, std::int64_t rows, const Tensor& kept) const {
  auto take = [&](DType dtype) { return workspace.take(dtype, {rows, config_.hidden_size}); };
  Activation state;
  if (kept.defined()) (types_.products == types_.states ? state.value : state.compute) = kept;
  if (!state.value.defined()) state.value = take(types_.states);
  if (types_.states == types_.compute) state.compute = state.value;
  if (!state.compute.defined()) state.compute = take(types_.compute);
  if (types_.fp8()) state.fp8 = kernels::Fp8Rows::take(workspace, rows, config_.hidden_size);
  return state;
}

// Allocates what a pass keeps of a layer. Of the first layer only what lies above the lowest adapter is kept.
RobertaEncoder::LayerSaved RobertaEncoder::make_saved(Workspace& workspace, const PackedBatch& batch, std::size_t index,
                                                      bool for_backward, Rows wanted) const {
  const Layer& layer = layers_[index];
  const bool last = is_last(index);
  const std::int64_t d = config_.hidden_size, t = batch.token_count,
                     rows = last && wanted == Rows::first_tokens ? batch.record_count : t;
  LayerSaved saved;
  saved.projections = (last ? layer.key_value : layer.query_key_value).make_saved(workspace, t);
  if (last) saved.query_projection = layer.query.make_saved(workspace, rows);
  saved.attention_output = layer.attention_output.make_saved(workspace, rows);
  saved.intermediate = layer.intermediate.make_saved(workspace, rows);
  saved.output = layer.output.make_saved(workspace, rows);

  auto take = [&](std::int64_t columns) { return workspace.take(types_.products, {rows, columns}); };
  const int deepest = !for_backward ? static_cast<int>(stages) : index == 0 ? lowest_ : static_cast<int>(projections);
  if (deepest <= output) saved.output_norm = {take(d), workspace.take(DType::f32, {rows})};
  if (deepest <= intermediate) saved.gelu = workspace.take(types_.compute, {rows, config_.intermediate_size});
  if (deepest <= attention_output) saved.attention_norm = {take(d), workspace.take(DType::f32, {rows})};
  if (for_backward) {
    if (layer.output.trains_a()) saved.output.input = take(config_.intermediate_size);
    if (layer.intermediate.trains_a()) saved.intermediate.input = take(d);
    if (layer.attention_output.trains_a()) saved.attention_output.input = take(d);
    if (last && layer.query.trains_a()) saved.query_projection.input = take(d);
  }
  if (deepest <= projections) {
    saved.query_key_value = workspace.take(types_.products, {t, (last ? 2 : 3) * d});
    if (last) saved.query = take(d);
    saved.log_sums = workspace.take(DType::f32, {rows, config_.heads});
  }
  return saved;
}

kernels::AttentionInputs RobertaEncoder::attention_inputs(const PackedBatch& batch, const Tensor& projected,
                                                          const Tensor& query, Rows rows) const {
  const std::int64_t d = config_.hidden_size;
  kernels::AttentionInputs inputs;
  inputs.heads = config_.heads;
  inputs.longest = batch.longest;
  inputs.key_offsets = batch.records.offsets;
  if (query.defined()) {
    inputs.query = query;
    inputs.query_offsets = rows == Rows::all ? batch.records.offsets : batch.first_tokens.offsets;
  } else {
    inputs.query = {projected, 0, d};
    inputs.query_offsets = batch.records.offsets;
  }
  const std::int64_t first_key = projected.dim(1) - 2 * d;
  inputs.keys = {projected, first_key, d};
  inputs.values = {projected, first_key + d, d};
  return inputs;
}

void RobertaEncoder::forward(Stream& stream, Workspace& workspace, const PackedBatch& batch, Saved* saved,
                             const Tensor& first_tokens) const {
  run(stream, workspace, batch, saved, Rows::first_tokens, first_tokens);
}

void RobertaEncoder::forward_all(Stream& stream, Workspace& workspace, const PackedBatch& batch,
                                 const Tensor& all_tokens) const {
  run(stream, workspace, batch, nullptr, Rows::all, all_tokens);
}

void RobertaEncoder::run(Stream& stream, Workspace& workspace, const PackedBatch& batch, Saved* saved, Rows rows,
                         const Tensor& output) const {
  Activation x = take_state(workspace, batch.token_count, {});
  kernels::embed(stream, batch.tokens, token_table_, batch.positions, position_table_,
                 type_embedding_.reshape({config_.hidden_size}), x.value);
  const bool two_forms = types_.states != types_.compute;  // of a state
  kernels::layer_norm(stream, x.value, {}, embedding_norm_, x.value, two_forms ? x.compute : Tensor(), {}, x.fp8);
  if (saved) saved->layers.clear();
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    // A layer's output takes the place of its input, except where a trained A needs that input later.
    std::optional<Workspace::Scope> scope;
    if (!saved) scope.emplace(workspace);
    LayerSaved layer_saved = make_saved(workspace, batch, i, saved != nullptr, rows);
    const bool keep_input = saved && (layers_[i].query_key_value.trains_a() || layers_[i].key_value.trains_a());
    if (keep_input) layer_saved.projections.input = types_.shared() ? x.compute : x.value;
    Activation result = is_last(i)   ? Activation{output, {}, {}}
                        : keep_input ? take_state(workspace, batch.token_count, {})
                                     : x;
    forward_layer(stream, workspace, batch, i, rows, x, layer_saved, result);
    if (saved) saved->layers.push_back(std::move(layer_saved));
    x = result;
  }
}

void RobertaEncoder::forward_layer(Stream& stream, Workspace& workspace, const PackedBatch& batch, std::size_t index,
                                   Rows wanted, const Activation& input, const LayerSaved& saved,
                                   const Activation& result) const {
  Workspace::Scope scope(workspace);
  const Layer& layer = layers_[index];
  const bool two_forms = types_.states != types_.compute, shared = types_.shared(), last = is_last(index),
             fp8 = types_.fp8(), narrow = last && wanted == Rows::first_tokens;
  const std::int64_t d = config_.hidden_size, t = batch.token_count, rows = narrow ? batch.record_count : t;
  auto kept_or_scratch = [&](const Tensor& kept, std::int64_t row_count, std::int64_t columns) {
    return kept.defined() ? kept : workspace.take(types_.products, {row_count, columns});
  };
  // An input of `linear` that an operation makes in the products' type if an adapter reads it or products take it, and
  // in the compute type if not.
  auto take_input = [&](const LoraLinear& linear, const Tensor& kept, std::int64_t columns) {
    Activation x;
    if (shared || linear.adapted()) x.value = kept_or_scratch(kept, rows, columns);
    x.compute = shared ? x.value : workspace.take(types_.compute, {rows, columns});
    if (fp8) x.fp8 = kernels::Fp8Rows::take(workspace, rows, columns);
    return x;
  };
  auto target_of = [&](const Activation& x) { return x.value.defined() ? x.value : x.compute; };
  auto complete = [&](const Activation& x) {
    if (!shared && x.value.defined()) kernels::to_bf16(stream, x.value, x.compute);
    if (fp8) kernels::quantize_rows(stream, target_of(x), x.fp8);
  };
  // x + residual is normalized into `state`. A product that gives the state's type may write x into it.
  auto take_sum = [&](const Activation& state) {
    return types_.products == types_.states ? state.value : workspace.take(types_.products, {rows, d});
  };
  auto add_and_normalize = [&](const Tensor& x, const Tensor& residual, const kernels::LayerNormWeights& weights,
                               const kernels::LayerNormSaved& kept, const Activation& state) {
    kernels::layer_norm(stream, x, residual, weights, state.value, two_forms ? state.compute : Tensor(), kept,
                        state.fp8);
  };

  // Queries, keys and values.
  const Tensor projected = kept_or_scratch(saved.query_key_value, t, (last ? 2 : 3) * d);
  Tensor query, residual = input.value;
  if (last && !narrow) {
    query = workspace.take(types_.products, {t, d});
    layer.query.forward(stream, input, saved.query_projection, query);
    layer.key_value.forward(stream, input, saved.projections, projected);
  } else if (last) {
    const Activation first = take_state(workspace, rows, saved.query_projection.input);
    kernels::gather_rows(stream, input.value, batch.first_rows, first.value);
    if (two_forms) kernels::gather_rows(stream, input.compute, batch.first_rows, first.compute);
    if (fp8) kernels::quantize_rows(stream, first.value, first.fp8);
    query = kept_or_scratch(saved.query, rows, d);
    layer.query.forward(stream, first, saved.query_projection, query);
    layer.key_value.forward(stream, input, saved.projections, projected);
    residual = first.value;
  } else {
    layer.query_key_value.forward(stream, input, saved.projections, projected);
  }

  // Attention and its output, added to the input and normalized.
  const Activation context = take_input(layer.attention_output, saved.attention_output.input, d);
  kernels::attention(stream, attention_inputs(batch, projected, query, wanted), target_of(context), saved.log_sums);
  complete(context);
  const Activation middle = take_state(workspace, rows, saved.intermediate.input);
  const Tensor attended = take_sum(middle);
  layer.attention_output.forward(stream, context, saved.attention_output, attended);
  add_and_normalize(attended, residual, layer.attention_norm, saved.attention_norm, middle);

  // The feed-forward part, added and normalized.
  Activation inner;
  if (fp8) {
    // The gelu has its own pass, which rounds its result.
    const std::int64_t wide = config_.intermediate_size;
    const bool in_place = saved.gelu.defined() && kernels::gelu_keeps_input(stream.device());
    const Tensor before = in_place ? saved.gelu : workspace.take(types_.products, {rows, wide});
    inner.fp8 = kernels::Fp8Rows::take(workspace, rows, wide);
    if (layer.output.adapted()) inner.value = inner.compute = kept_or_scratch(saved.output.input, rows, wide);
    layer.intermediate.forward(stream, middle, saved.intermediate, before);
    kernels::gelu_fp8(stream, before, inner.value, inner.fp8, saved.gelu);
  } else {
    Tensor before;  // the gelu's input
    if (layer.intermediate.adapted() || types_.products == DType::f32)
      before = workspace.take(types_.products, {rows, config_.intermediate_size});
    if (shared || layer.output.adapted())
      inner.value = before.defined() && !saved.output.input.defined()
                        ? before
                        : kept_or_scratch(saved.output.input, rows, config_.intermediate_size);
    inner.compute = shared ? inner.value : workspace.take(types_.compute, before.shape());
    if (layer.intermediate.adapted()) {
      layer.intermediate.forward(stream, middle, saved.intermediate, before);
      kernels::gelu(stream, before, target_of(inner), saved.gelu);
    } else {
      layer.intermediate.forward_gelu(stream, middle, before, target_of(inner), saved.gelu);
    }
    complete(inner);
  }
  const Tensor sum = workspace.take(types_.products, {rows, d});
  layer.output.forward(stream, inner, saved.output, sum);
  kernels::layer_norm(stream, sum, middle.value, layer.output_norm, result.value,
                      two_forms && !last ? result.compute : Tensor(), saved.output_norm, result.fp8);
}

void RobertaEncoder::backward(Stream& stream, Workspace& workspace, const PackedBatch& batch, const Saved& saved,
                              const Tensor& d_first_tokens, const GradientTargets& targets) const {
  if (!adapted()) return;
  const Tensor d_state = workspace.take(types_.state_gradients, {batch.token_count, config_.hidden_size});
  for (std::size_t i = layers_.size(); i-- > 0;)
    backward_layer(stream, workspace, batch, i, saved.layers[i], is_last(i) ? d_first_tokens : d_state, targets,
                   d_state);
}

// `d` (rows, hidden) holds the gradient at the layer's output and is overwritten on the way down; d_input receives the
// gradient at the layer's input and is `d` itself except in the last layer, whose input has more rows.
void RobertaEncoder::backward_layer(Stream& stream, Workspace& workspace, const PackedBatch& batch, std::size_t index,
                                    const LayerSaved& saved, const Tensor& d, const GradientTargets& targets,
                                    const Tensor& d_input) const {
  Workspace::Scope scope(workspace);
  const Layer& layer = layers_[index];
  const bool two_forms = d.dtype() != types_.compute, shared = types_.shared(), last = is_last(index),
             fp8 = types_.fp8();
  const std::int64_t size = config_.hidden_size, t = batch.token_count, rows = last ? batch.record_count : t;
  const RecordRows& row_sets = last ? batch.first_tokens : batch.records;
  const int deepest = index == 0 ? lowest_ : static_cast<int>(projections);

  Activation d_sum{d, two_forms ? workspace.take(types_.compute, {rows, size}) : d, {}};
  if (fp8) d_sum.fp8 = kernels::Fp8Rows::take(workspace, rows, size);
  kernels::layer_norm_backward(stream, d, layer.output_norm, saved.output_norm, d, two_forms ? d_sum.compute : Tensor(),
                               d_sum.fp8);
  {
    Workspace::Scope feed_forward(workspace);
    if (deepest == output)
      return layer.output.backward(stream, workspace, d_sum, saved.output, row_sets, targets, {}, false);
    const Shape inner_shape = {rows, config_.intermediate_size};
    Activation d_inner;
    if (shared || layer.intermediate.adapted() || layer.output.adapted() || types_.products == DType::f32)
      d_inner.value = workspace.take(types_.products, inner_shape);
    d_inner.compute = shared ? d_inner.value : workspace.take(types_.compute, inner_shape);
    const Tensor& target = layer.intermediate.adapted() ? d_inner.value : d_inner.compute;
    if (fp8) {
      d_inner.fp8 = kernels::Fp8Rows::take(workspace, rows, config_.intermediate_size);
      layer.output.backward(stream, workspace, d_sum, saved.output, row_sets, targets, d_inner.value, false);
      kernels::gelu_backward_fp8(stream, d_inner.value, saved.gelu, layer.intermediate.adapted() ? target : Tensor(),
                                 d_inner.fp8);
    } else if (layer.output.adapted()) {
      layer.output.backward(stream, workspace, d_sum, saved.output, row_sets, targets, d_inner.value, false);
      kernels::gelu_backward(stream, d_inner.value, saved.gelu, target);
    } else {
      layer.output.backward_gelu(stream, d_sum, saved.gelu, d_inner.value, target);
    }
    if (!shared && layer.intermediate.adapted()) kernels::to_bf16(stream, d_inner.value, d_inner.compute);
    layer.intermediate.backward(stream, workspace, d_inner, saved.intermediate, row_sets, targets,
                                deepest < intermediate ? d : Tensor(), true);
    if (deepest == intermediate) return;
  }
  kernels::layer_norm_backward(stream, d, layer.attention_norm, saved.attention_norm, d,
                               two_forms ? d_sum.compute : Tensor(), d_sum.fp8);
  Tensor d_context;
  if (deepest < attention_output) d_context = workspace.take(types_.products, {rows, size});
  layer.attention_output.backward(stream, workspace, d_sum, saved.attention_output, row_sets, targets, d_context,
                                  false);
  if (deepest == attention_output) return;

  // Nothing below the first layer's projections trains: no gradient at its input, nor at keys without an adapter.
  const bool goes_on = index > 0;
  const std::int64_t first_key = last ? 0 : size;
  Activation d_projected, d_query;
  d_projected.value = workspace.take(types_.products, {t, first_key + 2 * size});
  if (last) d_query.value = workspace.take(types_.products, {rows, size});
  MatrixView d_keys;
  if (goes_on || key_adapted_) d_keys = {d_projected.value, first_key, size};
  kernels::attention_backward(stream, attention_inputs(batch, saved.query_key_value, saved.query, Rows::first_tokens),
                              saved.log_sums, d_context,
                              last ? MatrixView(d_query.value) : MatrixView(d_projected.value, 0, size), d_keys,
                              {d_projected.value, first_key + size, size});
  auto complete = [&](Activation& gradient) {
    gradient.compute = gradient.value;
    if (fp8 && goes_on) {
      gradient.fp8 = kernels::Fp8Rows::take(workspace, gradient.value.dim(0), gradient.value.dim(1));
      kernels::quantize_rows(stream, gradient.value, gradient.fp8);
    }
    if (shared || !goes_on) return;
    gradient.compute = workspace.take(types_.compute, gradient.value.shape());
    kernels::to_bf16(stream, gradient.value, gradient.compute);
  };
  complete(d_projected);
  if (!last) {
    layer.query_key_value.backward(stream, workspace, d_projected, saved.projections, batch.records, targets,
                                   goes_on ? d_input : Tensor(), true);
    return;
  }
  complete(d_query);
  layer.query.backward(stream, workspace, d_query, saved.query_projection, batch.first_tokens, targets,
                       goes_on ? d : Tensor(), true);
  layer.key_value.backward(stream, workspace, d_projected, saved.projections, batch.records, targets,
                           goes_on ? d_input : Tensor(), false);
  if (goes_on) kernels::scatter_add_rows(stream, d, batch.first_rows, d_input);
}

}  // namespace trib::models
