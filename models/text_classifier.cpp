#include "models/text_classifier.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <new>
#include <numeric>
#include <utility>

#include "common/log.h"
#include "common/random.h"
#include "kernels/embedding.h"
#include "kernels/lanes.h"
#include "kernels/linalg.h"
#include "kernels/loss.h"
#include "kernels/recorded_work.h"
#include "models/classification_head.h"
#include "models/roberta.h"

namespace trib::models {

using kernels::PerSampleGradients;
using kernels::Stream;
using kernels::Tensor;
using kernels::Workspace;
using Records = std::span<const TokenizedText* const>;

namespace {

// Below this a second lane costs more than it brings.
constexpr std::int64_t smallest_chunk_tokens = 64;

// Splits records into chunks of at most about `chunk_tokens` tokens, whose activations one lane holds at once, as many
// as a multiple of `lanes` where that pays, of nearly equal size: the longest record first, each to the chunk with the
// fewest tokens.
std::vector<std::vector<std::size_t>> split_into_chunks(Records records, int lanes, std::int64_t chunk_tokens) {
  std::int64_t total = 0;
  for (const TokenizedText* record : records) total += static_cast<std::int64_t>(record->tokens.size());
  std::int64_t waves = std::max<std::int64_t>(1, (total + lanes * chunk_tokens - 1) / (lanes * chunk_tokens));
  std::int64_t count = waves > 1 ? waves * lanes : std::clamp<std::int64_t>(total / smallest_chunk_tokens, 1, lanes);
  count = std::min(count, static_cast<std::int64_t>(records.size()));

  std::vector<std::size_t> order(records.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t i, std::size_t j) { return records[i]->tokens.size() > records[j]->tokens.size(); });
  std::vector<std::vector<std::size_t>> chunks(static_cast<std::size_t>(count));
  std::vector<std::size_t> tokens(chunks.size(), 0);
  for (std::size_t record : order) {
    auto least = static_cast<std::size_t>(std::min_element(tokens.begin(), tokens.end()) - tokens.begin());
    chunks[least].push_back(record);
    tokens[least] += records[record]->tokens.size();
  }
  return chunks;
}

// What one chunk's records come to on the device.
struct Chunk {
  std::vector<std::size_t> records;  // indices into the call's
  // The shape that it is padded to (Device::row_class): rows beyond the records' belong to `padding` further records,
  // of 1 to `longest` tokens, that do not count. Their gradients are zeros in rows of their own, from first_padding on.
  std::int64_t token_count = 0, record_count = 0, longest = 0;
  std::int64_t padding = 0, first_padding = 0;
};

// Sets the shape of a chunk of records with so many tokens in all, the longest of them `longest`, at most `limit`.
void set_shape(Chunk& chunk, kernels::Device& device, std::int64_t tokens, std::int64_t longest, std::int64_t limit) {
  const auto records = static_cast<std::int64_t>(chunk.records.size());
  chunk.longest = std::min(limit, static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(longest))));
  chunk.token_count = device.row_class(tokens);
  chunk.record_count = device.row_class(records);
  // Padding of T tokens and R records needs R ≤ T ≤ R·longest. Both only grow here, and the classes are close together.
  for (;;) {
    const std::int64_t more_tokens = chunk.token_count - tokens;
    chunk.padding = chunk.record_count - records;
    if (more_tokens < chunk.padding) {
      chunk.token_count = device.row_class(tokens + chunk.padding);
    } else if (more_tokens > chunk.padding * chunk.longest) {
      chunk.record_count = device.row_class(records + (more_tokens + chunk.longest - 1) / chunk.longest);
    } else {
      return;
    }
  }
}

}  // namespace

struct TextClassifier::Impl {
  // One lane's memory, kept from call to call.
  struct Lane {
    Lane(kernels::Device& device, std::size_t recorded_shapes)
        : workspace(device), inputs(device), recorded(recorded_shapes) {}
    Workspace workspace, inputs;
    kernels::RecordedWork recorded;  // a chunk's work, by its shape
    std::vector<Tensor> sums;        // this lane's share of summed gradients
  };
  // The head's gradients are outer products (n, ·) of these, filled in by all lanes. Undefined where not needed.
  struct HeadGradients {
    Tensor d_logits, hidden, d_hidden, input;
  };

  Impl(kernels::Device& device, RobertaConfig roberta_config, ClassifierConfig classifier_config)
      : stream(device.make_stream()),
        roberta(roberta_config),
        config(std::move(classifier_config)),
        results(device),
        losses(device),
        chunk_tokens(kernels::rows_per_lane(*stream)) {}

  std::unique_ptr<Stream> stream;
  RobertaConfig roberta;
  ClassifierConfig config;
  RobertaEncoder encoder;
  ClassificationHead head;
  std::vector<Adapter*> adapters;  // inside `encoder`
  std::vector<AdaptedLayer> adapted_layers;
  std::vector<std::string> parameter_names;
  std::vector<Tensor> parameters;
  std::size_t first_head_parameter = 0;
  std::vector<std::unique_ptr<Lane>> lanes;
  Workspace results;                        // what a call hands out: per-sample gradients with their losses, logits
  Workspace losses;                         // of summed_gradients()
  std::vector<kernels::MatrixForms> forms;  // of all adapters and the head
  Tensor one;                               // (1) float32
  std::int64_t chunk_tokens = 0;

  void register_parameters();
  std::vector<Chunk> chunks_of(Records records, bool with_labels) const;
  PackedBatch pack(Stream& lane_stream, Workspace& inputs, Records records, const Chunk& chunk) const;
  void chunk_gradients(Stream& lane_stream, Workspace& workspace, const PackedBatch& batch,
                       const GradientTargets& targets, const HeadGradients* per_sample_head,
                       const Tensor& losses) const;
  void add_head_sums(Stream& lane_stream, Workspace& workspace, const ClassificationHead::Saved& saved,
                     const Tensor& d_logits, const Tensor& d_hidden, const GradientTargets& targets) const;
  enum class Pass : std::int64_t { per_sample, summed, logits, means };
  template <typename Begin, typename Work>
  void for_each_chunk(Pass pass, Records records, const Begin& begin, const Work& work);
  template <typename Work>
  void run_chunks(Pass pass, Records records, const std::vector<Chunk>& chunks, std::int64_t rows, const Work& work);

  bool trains_head() const { return config.head != HeadTraining::frozen; }
  bool trains_dense() const { return config.head == HeadTraining::all; }
};

void TextClassifier::Impl::register_parameters() {
  adapters = encoder.adapters();
  for (Adapter* adapter : adapters) {
    adapted_layers.push_back({adapter->name, adapter->b.dim(0), adapter->a.dim(1)});
    adapter->trains_a = config.adapter.train_a;
    if (adapter->trains_a) {
      adapter->a_parameter = parameters.size();
      parameter_names.push_back(adapter->name + ".lora_A");
      parameters.push_back(adapter->a);
    }
    adapter->b_parameter = parameters.size();
    parameter_names.push_back(adapter->name + ".lora_B");
    parameters.push_back(adapter->b);
  }
  first_head_parameter = parameters.size();
  for (const ClassificationHead::Parameter& parameter : head.parameters()) {
    if (!parameter.trained) continue;
    parameter_names.push_back(parameter.name);
    parameters.push_back(parameter.value);
  }
}

// Checks the records and deals them out.
std::vector<Chunk> TextClassifier::Impl::chunks_of(Records records, bool with_labels) const {
  for (const TokenizedText* record : records) {
    const auto length = static_cast<std::int64_t>(record->tokens.size());
    if (length == 0 || length > roberta.longest_record())
      throw std::invalid_argument("a record of " + std::to_string(length) + " tokens: the model takes 1 to " +
                                  std::to_string(roberta.longest_record()));
    if (with_labels && (record->label < 0 || record->label >= config.label_count))
      throw std::invalid_argument("a record with label " + std::to_string(record->label) + ": the model has " +
                                  std::to_string(config.label_count) + " labels");
    for (const std::int32_t token : record->tokens)
      if (token < 0 || token >= roberta.vocabulary_size)
        throw std::invalid_argument("a record with token " + std::to_string(token) + ": the vocabulary has " +
                                    std::to_string(roberta.vocabulary_size));
  }
  std::vector<Chunk> chunks;
  auto next_row = static_cast<std::int64_t>(records.size());
  for (std::vector<std::size_t>& indices : split_into_chunks(records, kernels::lane_count(*stream), chunk_tokens)) {
    Chunk& chunk = chunks.emplace_back();
    chunk.records = std::move(indices);
    std::size_t tokens = 0, longest = 1;
    for (const std::size_t index : chunk.records) {
      tokens += records[index]->tokens.size();
      longest = std::max(longest, records[index]->tokens.size());
    }
    set_shape(chunk, stream->device(), static_cast<std::int64_t>(tokens), static_cast<std::int64_t>(longest),
              roberta.longest_record());
    chunk.first_padding = next_row;
    next_row += chunk.padding;
  }
  return chunks;
}

// One copy to the device for all that a chunk's work reads.
PackedBatch TextClassifier::Impl::pack(Stream& lane_stream, Workspace& inputs, Records records,
                                       const Chunk& chunk) const {
  const auto t = static_cast<std::size_t>(chunk.token_count), n = static_cast<std::size_t>(chunk.record_count);
  std::size_t size = 0;
  const auto place = [&](std::size_t count) { return std::exchange(size, size + (count + 15) / 16 * 16); };
  const std::size_t tokens = place(t), positions = place(t), offsets = place(n + 1), ones = place(n + 1),
                    first_rows = place(n), targets = place(n), labels = place(n);
  HostTensor host(DType::i32, {static_cast<std::int64_t>(size)});
  const std::span<std::int32_t> values = host.as<std::int32_t>();

  std::size_t row = 0, at = 0;
  const auto add = [&](std::span<const std::int32_t> record, std::int64_t target, std::int32_t label) {
    std::ranges::copy(record, values.begin() + static_cast<std::ptrdiff_t>(tokens + row));
    for (std::size_t i = 0; i < record.size(); ++i)
      values[positions + row + i] = static_cast<std::int32_t>(roberta.first_position() + static_cast<std::int64_t>(i));
    values[first_rows + at] = static_cast<std::int32_t>(row);
    values[targets + at] = static_cast<std::int32_t>(target);
    values[labels + at] = label;
    row += record.size();
    ++at;
    values[offsets + at] = static_cast<std::int32_t>(row);
    values[ones + at] = static_cast<std::int32_t>(at);
  };
  for (const std::size_t index : chunk.records)
    add(records[index]->tokens, static_cast<std::int64_t>(index), records[index]->label);
  const std::vector<std::int32_t> filler(static_cast<std::size_t>(chunk.longest), 0);
  for (std::int64_t i = 0; i < chunk.padding; ++i) {
    const std::size_t left = t - row, records_left = static_cast<std::size_t>(chunk.padding - i);
    add(std::span(filler).first((left + records_left - 1) / records_left), chunk.first_padding + i, -1);
  }

  inputs.reset();
  const Tensor all = inputs.take(DType::i32, host.shape());
  all.copy_from_host(lane_stream, host);
  const auto part = [&](std::size_t first, std::size_t count) {
    return all.rows(static_cast<std::int64_t>(first), static_cast<std::int64_t>(count));
  };
  PackedBatch batch;
  batch.tokens = part(tokens, t);
  batch.positions = part(positions, t);
  batch.records = {part(offsets, n + 1), part(targets, n)};
  batch.first_tokens = {part(ones, n + 1), batch.records.targets};
  batch.first_rows = part(first_rows, n);
  batch.labels = part(labels, n);
  batch.token_count = chunk.token_count;
  batch.record_count = chunk.record_count;
  batch.longest = chunk.longest;
  return batch;
}

// Calls begin(rows), which takes what the call hands out with so many rows: those of the records, in their order, and
// those of the padding. Then work(lane stream, lane, batch) for all records, chunk by chunk. Where memory runs out, all
// of it is done again with chunks of half the size, so both must be able to begin anew, `work` with fresh lanes.
template <typename Begin, typename Work>
void TextClassifier::Impl::for_each_chunk(Pass pass, Records records, const Begin& begin, const Work& work) {
  for (;;) {
    try {
      const std::vector<Chunk> chunks = chunks_of(records, pass == Pass::per_sample || pass == Pass::summed);
      auto rows = static_cast<std::int64_t>(records.size());
      for (const Chunk& chunk : chunks) rows += chunk.padding;
      rows = stream->device().row_class(rows);
      begin(rows);
      return run_chunks(pass, records, chunks, rows, work);
    } catch (const std::bad_alloc&) {
      lanes.clear();
      stream->device().trim();
      if (chunk_tokens <= smallest_chunk_tokens) throw;
      chunk_tokens /= 2;
      spdlog::warn("{} ran out of memory: going on with {} tokens at once", stream->device().name(), chunk_tokens);
    }
  }
}

template <typename Work>
void TextClassifier::Impl::run_chunks(Pass pass, Records records, const std::vector<Chunk>& chunks, std::int64_t rows,
                                      const Work& work) {
  const int lane_count =
      static_cast<int>(std::min<std::size_t>(chunks.size(), static_cast<std::size_t>(kernels::lane_count(*stream))));
  while (static_cast<int>(lanes.size()) < lane_count)
    lanes.push_back(std::make_unique<Lane>(stream->device(), config.recorded_shapes));
  if (pass == Pass::summed)
    for (int i = 0; i < lane_count; ++i)
      if (Lane& lane = *lanes[static_cast<std::size_t>(i)]; lane.sums.empty())
        for (const Tensor& parameter : parameters)
          lane.sums.push_back(Tensor::zeros(*stream, DType::f32, parameter.shape()));
  kernels::for_each_lane(*stream, lane_count, [&](Stream& lane_stream, int index) {
    Lane& lane = *lanes[static_cast<std::size_t>(index)];
    for (std::size_t c = static_cast<std::size_t>(index); c < chunks.size();
         c += static_cast<std::size_t>(lane_count)) {
      const PackedBatch batch = pack(lane_stream, lane.inputs, records, chunks[c]);
      lane.workspace.reset();
      lane.recorded.run(lane_stream,
                        {static_cast<std::int64_t>(pass), batch.token_count, batch.record_count, batch.longest, rows,
                         lane.inputs.layout(), lane.workspace.layout(), results.layout(), losses.layout()},
                        [&] { work(lane_stream, lane, batch); });
    }
  });
}

// Forward and backward over one chunk. `losses` (N, 1) receives those of its records.
void TextClassifier::Impl::chunk_gradients(Stream& lane_stream, Workspace& workspace, const PackedBatch& batch,
                                           const GradientTargets& targets, const HeadGradients* per_sample_head,
                                           const Tensor& losses) const {
  const std::int64_t n = batch.record_count, d = roberta.hidden_size;
  const Tensor first_tokens = workspace.take(DType::f32, {n, d});
  RobertaEncoder::Saved saved;
  encoder.forward(lane_stream, workspace, batch, encoder.adapted() ? &saved : nullptr, first_tokens);
  const Tensor logits = workspace.take(DType::f32, {n, config.label_count}),
               chunk_losses = workspace.take(DType::f32, {n, 1});
  ClassificationHead::Saved head_saved;
  head.forward(lane_stream, workspace, first_tokens, head_saved, logits);
  const Tensor d_logits = workspace.take(DType::f32, logits.shape());
  kernels::cross_entropy(lane_stream, logits, batch.labels, chunk_losses, d_logits);
  kernels::scatter_rows(lane_stream, chunk_losses, batch.records.targets, losses);

  Tensor d_hidden, d_first_tokens;
  if (trains_dense()) d_hidden = workspace.take(DType::f32, {n, d});
  if (encoder.adapted()) d_first_tokens = workspace.take(DType::f32, {n, d});
  head.backward(lane_stream, workspace, head_saved, d_logits, d_hidden, d_first_tokens);
  if (per_sample_head != nullptr) {
    auto scatter = [&](const Tensor& from, const Tensor& to) {
      if (to.defined()) kernels::scatter_rows(lane_stream, from, batch.records.targets, to);
    };
    scatter(d_logits, per_sample_head->d_logits);
    scatter(head_saved.hidden, per_sample_head->hidden);
    scatter(d_hidden, per_sample_head->d_hidden);
    scatter(head_saved.input, per_sample_head->input);
  } else {
    add_head_sums(lane_stream, workspace, head_saved, d_logits, d_hidden, targets);
  }
  if (encoder.adapted()) encoder.backward(lane_stream, workspace, batch, saved, d_first_tokens, targets);
}

void TextClassifier::Impl::add_head_sums(Stream& lane_stream, Workspace& workspace,
                                         const ClassificationHead::Saved& saved, const Tensor& d_logits,
                                         const Tensor& d_hidden, const GradientTargets& targets) const {
  if (!trains_head()) return;
  const std::int64_t n = d_logits.dim(0);
  const Tensor ones = workspace.take(DType::f32, {n, 1});
  kernels::fill_rows(lane_stream, one, ones);
  std::size_t parameter = first_head_parameter;
  auto add = [&](const Tensor& output_grads, const Tensor& inputs) {
    kernels::matmul_transposed(lane_stream, 1.0f, output_grads, inputs, true, targets.tensors[parameter++]);
    const Tensor& bias = targets.tensors[parameter++];
    kernels::matmul_transposed(lane_stream, 1.0f, output_grads, ones, true, bias.reshape({bias.element_count(), 1}));
  };
  if (trains_dense()) add(d_hidden, saved.input);
  add(d_logits, saved.hidden);
}

TextClassifier::TextClassifier(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TextClassifier::~TextClassifier() = default;

Result<std::unique_ptr<TextClassifier>> TextClassifier::load(kernels::Device& device,
                                                             const std::filesystem::path& base_directory,
                                                             const ClassifierConfig& config) {
  auto refuse = [](std::string message) { return Error{Errc::invalid_argument, std::move(message)}; };
  if (config.label_count < 2)
    return refuse("label_count is " + std::to_string(config.label_count) + "; a classifier needs at least 2 labels");
  if (config.adapter.rank < 1)
    return refuse("the adapter rank is " + std::to_string(config.adapter.rank) + "; it must be at least 1");
  if (config.adapter.blocks < 1)
    return refuse("the adapter has " + std::to_string(config.adapter.blocks) + " blocks; it needs at least 1");
  if (!std::isfinite(config.adapter.alpha)) return refuse("the adapter's alpha must be a finite number");
  TRIB_ASSIGN(RobertaConfig roberta, read_roberta_config(base_directory));
  if (config.max_tokens < 1 || config.max_tokens > roberta.longest_record())
    return refuse("max_tokens is " + std::to_string(config.max_tokens) + "; the base model in " +
                  base_directory.string() + " takes 1 to " + std::to_string(roberta.longest_record()));
  if (config.adapter.rank > std::min(roberta.hidden_size, roberta.intermediate_size))
    return refuse("the adapter rank is " + std::to_string(config.adapter.rank) +
                  "; the base model's layers allow at most " +
                  std::to_string(std::min(roberta.hidden_size, roberta.intermediate_size)));
  if (config.base_bits != 16 && config.base_bits != 8 && config.base_bits != 4)
    return refuse("base_bits is " + std::to_string(config.base_bits) + "; accepted are 16, 8 and 4");
  if (config.base_bits != 16 && config.precision != Precision::bf16)
    return refuse("base_bits is " + std::to_string(config.base_bits) +
                  ", which needs the precision bf16: weights are brought back to bfloat16 in the product");
  if (config.precision == Precision::tf32 && !kernels::supports_tf32(device))
    spdlog::info("precision \"tf32\" is fp32 on {}: it has no tf32 products", device.name());
  TRIB_TRY(kernels::supports_compute(device, config.precision == Precision::bf16 ? DType::bf16 : DType::f32));
  TRIB_TRY(kernels::supports_format(device, weight_format(config)));
  if (config.precision == Precision::fp8 && (roberta.hidden_size % 16 != 0 || roberta.intermediate_size % 16 != 0))
    return refuse("the precision fp8 takes layers whose sizes are multiples of 16; the base model in " +
                  base_directory.string() + " has " + std::to_string(roberta.hidden_size) + " and " +
                  std::to_string(roberta.intermediate_size) + ": set the precision to bf16");
  TRIB_ASSIGN(const Checkpoint checkpoint, Checkpoint::read(base_directory, "roberta."));

  auto impl = std::make_unique<Impl>(device, roberta, config);
  TRIB_ASSIGN(impl->encoder, RobertaEncoder::load(*impl->stream, roberta, checkpoint, config));
  TRIB_ASSIGN(impl->head, ClassificationHead::load(*impl->stream, roberta, checkpoint, config));
  impl->register_parameters();
  impl->encoder.add_forms(impl->forms);
  impl->head.add_forms(impl->forms);
  const float one = 1.0f;
  impl->one = Tensor::from_host(*impl->stream, std::span<const float>(&one, 1));
  // Until a state is set, A is drawn from the seed, so that a fresh model can train; B = 0 leaves the base unchanged.
  const RandomKey key = RandomKey::from_seed(config.head_seed, 1);
  for (std::size_t i = 0; i < impl->adapters.size(); ++i)
    kernels::random_orthonormal_rows(*impl->stream, key.bytes(), i, impl->adapters[i]->a);
  return std::unique_ptr<TextClassifier>(new TextClassifier(std::move(impl)));
}

const ClassifierConfig& TextClassifier::config() const {
  return impl_->config;
}
Stream& TextClassifier::stream() {
  return *impl_->stream;
}
const std::vector<TextClassifier::AdaptedLayer>& TextClassifier::adapted_layers() const {
  return impl_->adapted_layers;
}
const std::vector<std::string>& TextClassifier::parameter_names() const {
  return impl_->parameter_names;
}
const std::vector<Tensor>& TextClassifier::parameters() const {
  return impl_->parameters;
}

Status TextClassifier::set_state(const TensorMap& state) {
  std::vector<std::pair<std::string, Tensor>> places;
  for (const Adapter* adapter : impl_->adapters) {
    places.emplace_back(adapter->name + ".lora_A", adapter->a);
    places.emplace_back(adapter->name + ".lora_B", adapter->b);
  }
  for (const ClassificationHead::Parameter& parameter : impl_->head.parameters())
    places.emplace_back(parameter.name, parameter.value);
  // All or nothing: nothing is copied before everything was checked.
  for (const auto& [name, tensor] : places) {
    if (!state.contains(name)) continue;
    const HostTensor& host = state.at(name);
    if (host.dtype() != DType::f32 || host.shape() != tensor.shape())
      return Error{Errc::invalid_argument, "tensor \"" + name + "\" is " + std::string(to_string(host.dtype())) + " " +
                                               to_string(host.shape()) + "; the model has F32 " +
                                               to_string(tensor.shape())};
  }
  for (const auto& [name, tensor] : places)
    if (state.contains(name)) tensor.copy_from_host(*impl_->stream, state.at(name));
  return {};
}

TensorMap TextClassifier::state() {
  TensorMap state;
  for (const Adapter* adapter : impl_->adapters) {
    state[adapter->name + ".lora_A"] = adapter->a.to_host(*impl_->stream);
    state[adapter->name + ".lora_B"] = adapter->b.to_host(*impl_->stream);
  }
  for (const ClassificationHead::Parameter& parameter : impl_->head.parameters())
    state[parameter.name] = parameter.value.to_host(*impl_->stream);
  return state;
}

void TextClassifier::per_sample_gradients(Records records, PerSampleGradients& out) {
  Impl& m = *impl_;
  kernels::make_forms(*m.stream, m.forms);  // parameters may have been updated in place since the last call
  const auto n = static_cast<std::int64_t>(records.size());
  const std::int64_t d = m.roberta.hidden_size;
  Impl::HeadGradients head;
  GradientTargets targets;
  Tensor losses;
  const auto begin = [&](std::int64_t rows) {
    m.results.reset();
    const auto take = [&](std::int64_t columns) { return m.results.take(DType::f32, {rows, columns}); };
    head = {};
    if (m.trains_head()) {
      head.d_logits = take(m.config.label_count);
      head.hidden = take(d);
    }
    if (m.trains_dense()) {
      head.d_hidden = take(d);
      head.input = take(d);
    }
    losses = take(1);
    targets = {.per_sample = true, .tensors = std::vector<Tensor>(m.parameters.size())};
    for (std::size_t i = 0; i < m.first_head_parameter; ++i) targets.tensors[i] = take(m.parameters[i].element_count());
  };
  m.for_each_chunk(Impl::Pass::per_sample, records, begin,
                   [&](Stream& lane_stream, Impl::Lane& lane, const PackedBatch& batch) {
                     m.chunk_gradients(lane_stream, lane.workspace, batch, targets, &head, losses);
                   });
  // The rows of the padding stay behind.
  out = {.sample_count = n, .tensors = {}, .losses = losses.rows(0, n)};
  for (std::size_t i = 0; i < m.parameters.size(); ++i) {
    kernels::PerSampleGradient& gradient = out.tensors.emplace_back();
    gradient.name = m.parameter_names[i];
    gradient.shape = m.parameters[i].shape();
    if (i < m.first_head_parameter) {
      gradient.values = targets.tensors[i].rows(0, n);
      continue;
    }
    const bool dense = m.trains_dense() && i < m.first_head_parameter + 2, bias = gradient.shape.size() == 1;
    const Tensor& output_grads = dense ? head.d_hidden : head.d_logits;
    if (bias) {
      gradient.values = output_grads.rows(0, n);
    } else {
      gradient.output_grads = output_grads.rows(0, n);
      gradient.inputs = (dense ? head.input : head.hidden).rows(0, n);
    }
  }
}

void TextClassifier::summed_gradients(Records records, const std::vector<Tensor>& sums, const Tensor& loss) {
  Impl& m = *impl_;
  if (sums.size() != m.parameters.size())
    throw std::invalid_argument("summed_gradients: one sum a parameter is needed");
  kernels::make_forms(*m.stream, m.forms);  // parameters may have been updated in place since the last call
  // Lanes add into tensors of their own; the sums then take them in the order of the lanes.
  for (const auto& lane : m.lanes)
    for (const Tensor& sum : lane->sums) sum.zero(*m.stream);
  Tensor losses;
  m.for_each_chunk(
      Impl::Pass::summed, records,
      [&](std::int64_t rows) {
        m.losses.reset();
        losses = m.losses.take(DType::f32, {rows, 1});
      },
      [&](Stream& lane_stream, Impl::Lane& lane, const PackedBatch& batch) {
        m.chunk_gradients(lane_stream, lane.workspace, batch, {.per_sample = false, .tensors = lane.sums}, nullptr,
                          losses);
      });
  // All memory that this takes is taken before anything is added: a call that throws std::bad_alloc has added nothing.
  std::vector<std::vector<kernels::ScaledAddition>> additions(m.lanes.size());
  for (std::size_t l = 0; l < m.lanes.size(); ++l)
    for (std::size_t i = 0; i < m.lanes[l]->sums.size(); ++i)
      additions[l].push_back({1.0, m.lanes[l]->sums[i], sums[i]});
  for (const auto& of_lane : additions) kernels::add_scaled(*m.stream, of_lane);
  if (loss.defined()) kernels::add_sum(*m.stream, losses.rows(0, static_cast<std::int64_t>(records.size())), loss);
}

HostTensor TextClassifier::logits(Records records) {
  Impl& m = *impl_;
  kernels::make_forms(*m.stream, m.forms);  // parameters may have been updated in place since the last call
  Tensor all;
  m.for_each_chunk(
      Impl::Pass::logits, records,
      [&](std::int64_t rows) {
        m.results.reset();
        all = m.results.take(DType::f32, {rows, m.config.label_count});
      },
      [&](Stream& lane_stream, Impl::Lane& lane, const PackedBatch& batch) {
        const Tensor first_tokens = lane.workspace.take(DType::f32, {batch.record_count, m.roberta.hidden_size});
        m.encoder.forward(lane_stream, lane.workspace, batch, nullptr, first_tokens);
        const Tensor logits = lane.workspace.take(DType::f32, {batch.record_count, m.config.label_count});
        ClassificationHead::Saved saved;
        m.head.forward(lane_stream, lane.workspace, first_tokens, saved, logits);
        kernels::scatter_rows(lane_stream, logits, batch.records.targets, all);
      });
  return all.rows(0, static_cast<std::int64_t>(records.size())).to_host(*m.stream);
}

HostTensor TextClassifier::mean_states(Records records) {
  Impl& m = *impl_;
  kernels::make_forms(*m.stream, m.forms);
  const std::int64_t d = m.roberta.hidden_size;
  Tensor sums;
  m.for_each_chunk(
      Impl::Pass::means, records,
      [&](std::int64_t rows) {
        m.results.reset();
        sums = m.results.take(DType::f32, {rows, d});
      },
      [&](Stream& lane_stream, Impl::Lane& lane, const PackedBatch& batch) {
        const Tensor states = lane.workspace.take(DType::f32, {batch.token_count, d});
        m.encoder.forward_all(lane_stream, lane.workspace, batch, states);
        const Tensor ones = lane.workspace.take(DType::f32, {batch.token_count, 1});
        kernels::fill_rows(lane_stream, m.one, ones);
        kernels::segment_products(lane_stream, 1.0f, ones, states, batch.records.offsets, batch.records.targets, sums);
      });
  HostTensor means = sums.rows(0, static_cast<std::int64_t>(records.size())).to_host(*m.stream);
  auto value = means.as<float>().begin();
  for (const TokenizedText* record : records)
    for (std::int64_t i = 0; i < d; ++i) *value++ /= static_cast<float>(record->tokens.size());
  return means;
}

std::int64_t TextClassifier::hidden_size() const {
  return impl_->roberta.hidden_size;
}

std::int64_t TextClassifier::suggested_micro_batch(std::int64_t tokens) const {
  const Impl& m = *impl_;
  // Two chunks a lane: the lanes' load evens out, and per-sample gradients stay small beside the activations in flight.
  const std::int64_t for_speed =
      2 * m.chunk_tokens * kernels::lane_count(*m.stream) / std::max<std::int64_t>(1, tokens);
  std::int64_t gradient_bytes = 0;
  for (const Tensor& parameter : m.parameters)
    if (parameter.shape().size() == 2) gradient_bytes += static_cast<std::int64_t>(parameter.byte_count());
  const auto memory = static_cast<std::int64_t>(m.stream->device().free_memory() / 4);
  const std::int64_t for_memory = memory / std::max<std::int64_t>(1, gradient_bytes);
  return std::max<std::int64_t>(1, std::min(for_speed, for_memory));
}

std::size_t TextClassifier::peak_workspace_bytes() const {
  std::size_t total = impl_->results.peak_bytes() + impl_->losses.peak_bytes();
  for (const auto& lane : impl_->lanes) {
    total += lane->workspace.peak_bytes() + lane->inputs.peak_bytes();
    for (const Tensor& sum : lane->sums) total += sum.byte_count();
  }
  return total;
}

}  // namespace trib::models
