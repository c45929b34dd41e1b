// The RoBERTa encoder (Liu et al. 2019) over packed records, forward and backward, with a frozen base and LoRA
// adapters.
//
// Shapes: t tokens of all records of a micro-batch one after another, d = hidden size, n records. The classification
// head reads only the first token of each record, so the last layer computes its queries, and everything behind its
// attention, for those n rows alone: the same function and the same gradients, for less.
#pragma once

#include <vector>

#include "kernels/attention.h"
#include "kernels/layer_norm.h"
#include "models/lora_linear.h"
#include "models/roberta_checkpoint.h"
#include "models/text_classifier.h"

namespace trib::models {

// One lane's records, packed.
struct PackedBatch {
  kernels::Tensor tokens, positions;  // (t) int32
  RecordRows records;                 // rows are tokens
  RecordRows first_tokens;            // rows are records: what the last layer's queries and the head have
  kernels::Tensor first_rows;         // (n) int32: the row of each record's first token
  kernels::Tensor labels;             // (n) int32
  std::int64_t token_count = 0, record_count = 0;
  std::int64_t longest = 0;  // tokens of the longest record
};

// How a base is stored for the products that the config asks for.
kernels::WeightFormat weight_format(const ClassifierConfig& config);

class RobertaEncoder {
 public:
  // Every layer whose name ends in one of the config's targets gets an adapter.
  static Result<RobertaEncoder> load(kernels::Stream& stream, const RobertaConfig& roberta,
                                     const Checkpoint& checkpoint, const ClassifierConfig& config);

  // All adapters in forward order: query, key, value, attention output, intermediate, output of each layer.
  std::vector<Adapter*> adapters();
  // See LoraLinear::add_forms.
  void add_forms(std::vector<kernels::MatrixForms>& to) const;

  // What backward() needs of one forward pass. Lives in the workspace it was made from.
  struct Saved;

  // first_tokens (n, d) float32 = the encoder's output at each record's first token. With `saved` null nothing is kept.
  void forward(kernels::Stream& stream, kernels::Workspace& workspace, const PackedBatch& batch, Saved* saved,
               const kernels::Tensor& first_tokens) const;
  // all_tokens (t, d) float32 = the encoder's output at every token; nothing is kept for a backward pass.
  void forward_all(kernels::Stream& stream, kernels::Workspace& workspace, const PackedBatch& batch,
                   const kernels::Tensor& all_tokens) const;
  // The adapters' gradients for d_first_tokens (n, d), which is overwritten. Goes as deep as the lowest adapter.
  void backward(kernels::Stream& stream, kernels::Workspace& workspace, const PackedBatch& batch, const Saved& saved,
                const kernels::Tensor& d_first_tokens, const GradientTargets& targets) const;

  bool adapted() const { return lowest_ < stages; }

 private:
  struct Layer {
    LoraLinear query_key_value;   // all but the last layer
    LoraLinear query, key_value;  // the last layer, where they have different rows
    LoraLinear attention_output, intermediate, output;
    kernels::LayerNormWeights attention_norm, output_norm;
  };
  // The adapted stages of a layer, from its input on; where the backward pass of the first layer may end.
  enum Stage : int { projections, attention_output, intermediate, output, stages };

  struct LayerSaved;
  bool is_last(std::size_t layer) const { return layer + 1 == layers_.size(); }
  // A state between layers, and beside it the type that products take. `kept`, where it is defined, is a tensor of the
  // products' type that becomes part of it.
  Activation take_state(kernels::Workspace& workspace, std::int64_t rows, const kernels::Tensor& kept) const;
  // Which rows the last layer computes behind its keys and values.
  enum class Rows { first_tokens, all };
  LayerSaved make_saved(kernels::Workspace& workspace, const PackedBatch& batch, std::size_t layer, bool for_backward,
                        Rows rows) const;
  // `projected` holds (query,) keys and values side by side; `query` is undefined if it is among them.
  kernels::AttentionInputs attention_inputs(const PackedBatch& batch, const kernels::Tensor& projected,
                                            const kernels::Tensor& query, Rows rows) const;
  void run(kernels::Stream& stream, kernels::Workspace& workspace, const PackedBatch& batch, Saved* saved, Rows rows,
           const kernels::Tensor& output) const;
  void forward_layer(kernels::Stream& stream, kernels::Workspace& workspace, const PackedBatch& batch,
                     std::size_t layer, Rows rows, const Activation& input, const LayerSaved& saved,
                     const Activation& result) const;
  void backward_layer(kernels::Stream& stream, kernels::Workspace& workspace, const PackedBatch& batch,
                      std::size_t layer, const LayerSaved& saved, const kernels::Tensor& d,
                      const GradientTargets& targets, const kernels::Tensor& d_input) const;

  RobertaConfig config_;
  ComputeTypes types_;
  int lowest_ = stages;  // the lowest adapted stage, the same in every layer
  bool key_adapted_ = false;
  kernels::Tensor token_table_, position_table_, type_embedding_;
  kernels::LayerNormWeights embedding_norm_;
  std::vector<Layer> layers_;
};

struct RobertaEncoder::LayerSaved {
  // In the products' type, but for the sums of exponentials, which are float32.
  kernels::Tensor query_key_value;  // (t, 3d); the last layer: keys and values, (t, 2d)
  kernels::Tensor query;            // the last layer: (n, d)
  kernels::Tensor log_sums;         // (rows, heads)
  kernels::LayerNormSaved attention_norm, output_norm;
  kernels::Tensor gelu;  // (rows, intermediate size), in the compute type: what gelu's backward pass needs
  LoraLinear::Saved projections, query_projection, attention_output, intermediate, output;
};

struct RobertaEncoder::Saved {
  std::vector<LayerSaved> layers;
};

}  // namespace trib::models
