#include "models/lora_linear.h"

#include <tuple>

#include "kernels/activation.h"

namespace trib::models {

using kernels::MatrixView;
using kernels::Stream;
using kernels::Tensor;
using kernels::Workspace;

void GradientTargets::add(Stream& stream, std::size_t parameter, float alpha, const MatrixView& a, const MatrixView& b,
                          const RecordRows& rows) const {
  if (per_sample) {
    kernels::segment_products(stream, alpha, a, b, rows.offsets, rows.targets, tensors[parameter]);
  } else {
    kernels::matmul_transposed(stream, alpha, a, b, true, tensors[parameter]);
  }
}

LoraLinear::LoraLinear(Stream& stream, const Tensor& weights, const Tensor& bias, const std::vector<Part>& parts,
                       std::int64_t rank, double alpha, ComputeTypes types)
    : types_(types), rank_(rank), scale_(static_cast<float>(alpha / static_cast<double>(rank))) {
  std::tie(forward_, backward_) =
      kernels::PackedMatrix::both_ways(stream, weights, types.compute, types.weights, types.float32_products);
  auto in_products_type = [&](const Tensor& from) {
    return types.products == DType::f32 ? from : Tensor(stream.device(), types.products, from.shape());
  };
  bias_ = in_products_type(bias);
  if (types.products != DType::f32) kernels::to_bf16(stream, bias, bias_);
  std::int64_t column = 0;
  for (const Part& part : parts) {
    if (part.adapted) {
      Adapter adapter;
      adapter.name = part.name;
      adapter.b = Tensor::zeros(stream, DType::f32, {part.outputs, rank});
      first_columns_.push_back(column);
      b_product_.push_back(in_products_type(adapter.b));
      b_transposed_.emplace_back(stream.device(), types.products, Shape{rank, part.outputs});
      adapters_.push_back(std::move(adapter));
    }
    column += part.outputs;
  }
  if (adapters_.empty()) return;
  all_a_ = Tensor::zeros(stream, DType::f32, {reduced_size(), input_size()});
  all_a_product_ = in_products_type(all_a_);
  all_a_transposed_ = Tensor(stream.device(), types.products, {input_size(), reduced_size()});
  for (std::size_t i = 0; i < adapters_.size(); ++i)
    adapters_[i].a = all_a_.rows(static_cast<std::int64_t>(i) * rank_, rank_);
}

void LoraLinear::add_forms(std::vector<kernels::MatrixForms>& to) const {
  if (!adapted()) return;
  const auto copy = [&](const Tensor& product) { return types_.products == DType::f32 ? Tensor() : product; };
  to.push_back({all_a_, all_a_transposed_, copy(all_a_product_)});
  for (std::size_t i = 0; i < adapters_.size(); ++i)
    to.push_back({adapters_[i].b, b_transposed_[i], copy(b_product_[i])});
}

LoraLinear::Saved LoraLinear::make_saved(Workspace& workspace, std::int64_t rows) const {
  Saved saved;
  if (adapted()) saved.reduced = workspace.take(types_.products, {rows, reduced_size()});
  return saved;
}

void LoraLinear::frozen_product(Stream& stream, const Activation& x, const kernels::PackedMatrix& w, const Tensor& bias,
                                bool accumulate, const Tensor& y) const {
  if (types_.fp8()) return kernels::fp8_product(stream, x.fp8, w, bias, accumulate, y);
  kernels::packed_product(stream, x.compute, w, bias, accumulate, y);
}

void LoraLinear::forward(Stream& stream, const Activation& x, const Saved& saved, const Tensor& y) const {
  frozen_product(stream, x, forward_, bias_, false, y);
  if (!adapted()) return;
  kernels::matmul(stream, 1.0f, for_adapters(x), all_a_transposed_, false, saved.reduced);
  for (std::size_t i = 0; i < adapters_.size(); ++i)
    kernels::matmul(stream, scale_, reduced(saved.reduced, i), b_transposed_[i], true,
                    {y, first_columns_[i], adapters_[i].b.dim(0)});
}

void LoraLinear::forward_gelu(Stream& stream, const Activation& x, const Tensor& before, const Tensor& y,
                              const Tensor& kept) const {
  kernels::packed_product_gelu(stream, x.compute, forward_, bias_, before, y, kept);
}

void LoraLinear::backward_gelu(Stream& stream, const Activation& dy, const Tensor& kept, const Tensor& before,
                               const Tensor& dx) const {
  kernels::packed_product_gelu_backward(stream, dy.compute, backward_, kept, before, dx);
}

void LoraLinear::forward_gelu(Stream& stream, const Activation& x, const Tensor& before, const kernels::Fp8Rows& rows,
                              const Tensor& kept) const {
  kernels::fp8_product_gelu(stream, x.fp8, forward_, bias_, before, rows, kept);
}

void LoraLinear::backward_gelu(Stream& stream, const Activation& dy, const Tensor& kept, const Tensor& before,
                               const kernels::Fp8Rows& rows) const {
  kernels::fp8_product_gelu_backward(stream, dy.fp8, backward_, kept, before, rows);
}

void LoraLinear::backward(Stream& stream, Workspace& workspace, const Activation& dy, const Saved& saved,
                          const RecordRows& rows, const GradientTargets& targets, const Tensor& dx,
                          bool accumulate) const {
  if (dx.defined()) frozen_product(stream, dy, backward_, {}, accumulate, dx);
  if (!adapted()) return;
  Workspace::Scope scope(workspace);
  const bool needs_reduced_gradient = dx.defined() || trains_a();
  Tensor du;  // the gradient at u, (rows, adapters·rank)
  const Tensor& dy_adapters = for_adapters(dy);
  if (needs_reduced_gradient) du = workspace.take(types_.products, {dy_adapters.dim(0), reduced_size()});
  if (targets.per_sample && !trains_a()) {
    std::vector<kernels::AdapterGradient> gradients;
    for (std::size_t i = 0; i < adapters_.size(); ++i)
      gradients.push_back({.dy = {dy_adapters, first_columns_[i], adapters_[i].b.dim(0)},
                           .u = reduced(saved.reduced, i),
                           .b = b_product_[i],
                           .out = targets.tensors[adapters_[i].b_parameter],
                           .du = du.defined() ? reduced(du, i) : MatrixView()});
    kernels::adapter_gradients(stream, scale_, gradients, rows.offsets, rows.targets);
    if (dx.defined()) kernels::matmul(stream, 1.0f, du, all_a_product_, true, dx);
    return;
  }
  for (std::size_t i = 0; i < adapters_.size(); ++i) {
    const Adapter& adapter = adapters_[i];
    const MatrixView g(dy_adapters, first_columns_[i], adapter.b.dim(0));
    targets.add(stream, adapter.b_parameter, scale_, g, reduced(saved.reduced, i), rows);
    if (!needs_reduced_gradient) continue;
    kernels::matmul(stream, scale_, g, b_product_[i], false, reduced(du, i));
    if (adapter.trains_a) targets.add(stream, adapter.a_parameter, 1.0f, reduced(du, i), saved.input, rows);
  }
  if (dx.defined()) kernels::matmul(stream, 1.0f, du, all_a_product_, true, dx);
}

}  // namespace trib::models
