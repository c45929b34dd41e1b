#include "models/classification_head.h"

#include "common/random.h"
#include "kernels/activation.h"
#include "kernels/embedding.h"
#include "kernels/gemm.h"
#include "kernels/per_sample.h"

namespace trib::models {

using kernels::Stream;
using kernels::Tensor;
using kernels::Workspace;

Result<ClassificationHead> ClassificationHead::load(Stream& stream, const RobertaConfig& roberta,
                                                    const Checkpoint& checkpoint, const ClassifierConfig& config) {
  const std::int64_t d = roberta.hidden_size, labels = config.label_count;
  const RandomKey key = RandomKey::from_seed(config.head_seed);
  auto random = [&](Shape shape, std::uint64_t stream_id) {
    Tensor weights = Tensor::zeros(stream, DType::f32, std::move(shape));
    kernels::add_gaussian_noise(stream, roberta.initializer_range, key.bytes(), stream_id, 0, weights);
    return weights;
  };
  ClassificationHead head;
  if (checkpoint.contains("classifier.dense.weight")) {
    TRIB_ASSIGN(const HostTensor weight, checkpoint.tensor("classifier.dense.weight", {d, d}));
    TRIB_ASSIGN(const HostTensor bias, checkpoint.tensor("classifier.dense.bias", {d}));
    head.dense_weight_ = Tensor::from_host(stream, weight);
    head.dense_bias_ = Tensor::from_host(stream, bias);
  } else {
    head.dense_weight_ = random({d, d}, 1);
    head.dense_bias_ = Tensor::zeros(stream, DType::f32, {d});
  }
  Result<HostTensor> out_weight = checkpoint.tensor("classifier.out_proj.weight", {labels, d});
  Result<HostTensor> out_bias = checkpoint.tensor("classifier.out_proj.bias", {labels});
  if (out_weight && out_bias) {
    head.out_weight_ = Tensor::from_host(stream, *out_weight);
    head.out_bias_ = Tensor::from_host(stream, *out_bias);
  } else {
    head.out_weight_ = random({labels, d}, 2);
    head.out_bias_ = Tensor::zeros(stream, DType::f32, {labels});
  }
  head.dense_transposed_ = Tensor(stream.device(), DType::f32, {d, d});
  head.out_transposed_ = Tensor(stream.device(), DType::f32, {d, labels});
  const bool all = config.head == HeadTraining::all, out = config.head != HeadTraining::frozen;
  head.parameters_ = {{"classifier.dense.weight", head.dense_weight_, all},
                      {"classifier.dense.bias", head.dense_bias_, all},
                      {"classifier.out_proj.weight", head.out_weight_, out},
                      {"classifier.out_proj.bias", head.out_bias_, out}};
  return head;
}

void ClassificationHead::add_forms(std::vector<kernels::MatrixForms>& to) const {
  to.push_back({dense_weight_, dense_transposed_, {}});
  to.push_back({out_weight_, out_transposed_, {}});
}

void ClassificationHead::forward(Stream& stream, Workspace& workspace, const Tensor& input, Saved& saved,
                                 const Tensor& logits) const {
  saved.input = input;
  saved.hidden = workspace.take(DType::f32, input.shape());
  kernels::fill_rows(stream, dense_bias_, saved.hidden);
  kernels::matmul(stream, 1.0f, input, dense_transposed_, true, saved.hidden);
  kernels::tanh(stream, saved.hidden, saved.hidden);
  kernels::fill_rows(stream, out_bias_, logits);
  kernels::matmul(stream, 1.0f, saved.hidden, out_transposed_, true, logits);
}

void ClassificationHead::backward(Stream& stream, Workspace& workspace, const Saved& saved, const Tensor& d_logits,
                                  const Tensor& d_hidden, const Tensor& d_input) const {
  if (!d_hidden.defined() && !d_input.defined()) return;
  const Tensor d = d_hidden.defined() ? d_hidden : workspace.take(DType::f32, saved.hidden.shape());
  kernels::matmul(stream, 1.0f, d_logits, out_weight_, false, d);
  kernels::tanh_backward(stream, d, saved.hidden, d);
  if (d_input.defined()) kernels::matmul(stream, 1.0f, d, dense_weight_, false, d_input);
}

}  // namespace trib::models
