// RobertaClassificationHead: out_proj(tanh(dense(first token))), float32 throughout.
#pragma once

#include <string>
#include <vector>

#include "kernels/gemm.h"
#include "models/roberta_checkpoint.h"
#include "models/text_classifier.h"

namespace trib::models {

class ClassificationHead {
 public:
  // Weights come from the checkpoint where it has them (out_proj only if it has as many labels), and otherwise from the
  // seed: N(0, initializer_range²), zero bias.
  static Result<ClassificationHead> load(kernels::Stream& stream, const RobertaConfig& roberta,
                                         const Checkpoint& checkpoint, const ClassifierConfig& config);

  struct Parameter {
    std::string name;
    kernels::Tensor value;
    bool trained = false;
  };
  const std::vector<Parameter>& parameters() const { return parameters_; }

  // The weights and their forms in forward(), which must be made (kernels::make_forms) before every micro-batch.
  void add_forms(std::vector<kernels::MatrixForms>& to) const;

  struct Saved {
    kernels::Tensor input;   // (n, d), the encoder's first tokens
    kernels::Tensor hidden;  // (n, d), after tanh
  };
  // logits (n, labels).
  void forward(kernels::Stream& stream, kernels::Workspace& workspace, const kernels::Tensor& input, Saved& saved,
               const kernels::Tensor& logits) const;

  // The gradients between the loss and the encoder: d_hidden (n, d) at dense's output (before tanh), and d_input (n,
  // d). Either may be undefined where nothing needs it.
  void backward(kernels::Stream& stream, kernels::Workspace& workspace, const Saved& saved,
                const kernels::Tensor& d_logits, const kernels::Tensor& d_hidden, const kernels::Tensor& d_input) const;

 private:
  kernels::Tensor dense_weight_, dense_bias_, out_weight_, out_bias_;  // (d, d), (d), (labels, d), (labels)
  kernels::Tensor dense_transposed_, out_transposed_;
  std::vector<Parameter> parameters_;
};

}  // namespace trib::models
