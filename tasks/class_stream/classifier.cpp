#include "tasks/class_stream/classifier.h"

#include <algorithm>
#include <limits>

#include "kernels/gemm.h"

namespace trib::tasks::class_stream {

HostTensor compute_scores(kernels::Stream& stream, const kernels::Tensor& features, const HostTensor& weights) {
  HostTensor narrow(DType::f32, weights.shape());
  std::ranges::transform(weights.as<double>(), narrow.as<float>().begin(),
                         [](double weight) { return static_cast<float>(weight); });
  const kernels::PackedMatrix packed(stream, kernels::Tensor::from_host(stream, narrow), true, DType::f32);
  const kernels::Tensor scores(stream.device(), DType::f32, {features.dim(0), weights.shape()[0]});
  kernels::packed_product(stream, features, packed, {}, false, scores);
  return scores.to_host(stream);
}

std::vector<std::int32_t> predict_exposed(const HostTensor& scores, const std::vector<bool>& exposed) {
  const auto classes = static_cast<std::size_t>(scores.shape()[1]);
  std::vector<std::int32_t> predicted(static_cast<std::size_t>(scores.shape()[0]), -1);
  for (std::size_t i = 0; i < predicted.size(); ++i) {
    const std::span<const float> row = scores.as<float>().subspan(i * classes, classes);
    float best = -std::numeric_limits<float>::infinity();
    for (std::size_t c = 0; c < classes; ++c) {
      if (!exposed[c] || !(row[c] > best)) continue;
      best = row[c];
      predicted[i] = static_cast<std::int32_t>(c);
    }
  }
  return predicted;
}

Judgement judge_predictions(const std::vector<std::int32_t>& predicted, const std::vector<std::int32_t>& expected,
                            const std::vector<bool>& exposed) {
  std::vector<double> items(exposed.size(), 0.0), right(exposed.size(), 0.0);
  double all_items = 0.0, all_right = 0.0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const auto label = static_cast<std::size_t>(expected[i]);
    if (!exposed[label]) continue;
    const double hit = predicted[i] == expected[i] ? 1.0 : 0.0;
    items[label] += 1.0;
    right[label] += hit;
    all_items += 1.0;
    all_right += hit;
  }
  Judgement judgement{.accuracy = all_items > 0.0 ? all_right / all_items : 0.0,
                      .of_class = std::vector<double>(exposed.size(), std::numeric_limits<double>::quiet_NaN())};
  for (std::size_t c = 0; c < exposed.size(); ++c)
    if (items[c] > 0.0) judgement.of_class[c] = right[c] / items[c];
  return judgement;
}

Status LabelledFeatures::prepare(kernels::Stream& stream, ItemFeatures& items, const Buffer& buffer, double clip_norm,
                                 privacy::Clipping clipping, Progress* progress) {
  if (features_.defined()) return {};
  TRIB_ASSIGN(const HostTensor inputs, items.extract(set_.table, progress));
  features_ = buffer.apply(stream, kernels::Tensor::from_host(stream, inputs));
  if (clip_norm > 0.0) features_ = clip_rows(stream, features_, clip_norm, clipping);
  for (data::TextRow& row : set_.table.rows) row.text.clear();
  return {};
}

Judgement LabelledFeatures::judge(kernels::Stream& stream, const HostTensor& weights,
                                  const std::vector<bool>& exposed) const {
  return judge_predictions(predict_exposed(compute_scores(stream, features_, weights), exposed), set_.labels, exposed);
}

}  // namespace trib::tasks::class_stream
