// A frozen linear layer, or several that share their input as one product, with LoRA adapters on any of them:
// y = x·W0ᵀ + bias + (alpha/rank)·(x·Aᵀ)·Bᵀ.
#pragma once

#include <string>
#include <vector>

#include "kernels/fp8.h"

namespace trib::models {

// The types that a model's device computes in (kernels::activation_types).
struct ComputeTypes {
  DType compute = DType::f32;   // what frozen products take
  DType products = DType::f32;  // what they give, and what adapters read: float32 or `compute`
  DType states = DType::f32;    // the states between the layers: float32 or `compute`
  DType state_gradients = DType::f32;
  kernels::WeightFormat weights = kernels::WeightFormat::dense;
  kernels::Float32Products float32_products = kernels::Float32Products::exact;
  // Whether frozen products take FP8 rows. Then `compute` is the type of what they are made from.
  bool fp8() const { return weights == kernels::WeightFormat::fp8; }
  // Whether one tensor serves frozen products and adapters alike.
  bool shared() const { return compute == products; }
};

// A row-per-token value: in float32, in the compute type, and in FP8 where frozen products take that. In fp32 the first
// two are one tensor; each may be undefined where it is not needed.
struct Activation {
  kernels::Tensor value, compute;
  kernels::Fp8Rows fp8;
};

// Which rows belong to which record of a micro-batch, and where the record's gradients go.
struct RecordRows {
  kernels::Tensor offsets;  // (records + 1) int32: rows offsets[i] … offsets[i+1] are record i's
  kernels::Tensor targets;  // (records) int32: record i is row targets[i] of a per-sample tensor
};

// Where one lane's gradients go: per sample, or added up. Indexed by parameter.
struct GradientTargets {
  bool per_sample = false;
  std::vector<kernels::Tensor> tensors;  // per sample: (N, d) each; otherwise the parameter's shape

  // Records alpha·aᵀ·b, summed over the tokens of each record or over all of them.
  void add(kernels::Stream& stream, std::size_t parameter, float alpha, const kernels::MatrixView& a,
           const kernels::MatrixView& b, const RecordRows& rows) const;
};

struct Adapter {
  std::string name;      // the layer's path, "roberta.encoder.layer.0.attention.self.query"
  kernels::Tensor a, b;  // (rank, in), (out, rank)
  std::size_t b_parameter = 0, a_parameter = 0;
  bool trains_a = false;
};

class LoraLinear {
 public:
  struct Part {
    std::string name;
    std::int64_t outputs = 0;
    bool adapted = false;
  };

  LoraLinear() = default;
  // `weights` (out, in) and `bias` (out) of all parts, one below the other. Adapters start as A = 0, B = 0.
  LoraLinear(kernels::Stream& stream, const kernels::Tensor& weights, const kernels::Tensor& bias,
             const std::vector<Part>& parts, std::int64_t rank, double alpha, ComputeTypes types);

  std::vector<Adapter>& adapters() { return adapters_; }
  bool adapted() const { return !adapters_.empty(); }
  bool trains_a() const { return adapted() && adapters_.front().trains_a; }
  std::int64_t input_size() const { return forward_.input_size(); }
  std::int64_t output_size() const { return forward_.output_size(); }

  // The adapters' factors and their forms in the products below, which must be made (kernels::make_forms) before every
  // micro-batch, as the factors may have changed.
  void add_forms(std::vector<kernels::MatrixForms>& to) const;

  // What the backward pass needs besides dy.
  struct Saved {
    kernels::Tensor reduced;  // u = x·Aᵀ of all adapters, (rows, adapters·rank)
    kernels::Tensor input;    // x in the products' type, where A trains
  };
  // Room for `rows` rows. The input is not allocated: set it to the caller's tensor, which must live as long.
  Saved make_saved(kernels::Workspace& workspace, std::int64_t rows) const;

  // y (rows, out) in the products' type. `saved.reduced` is scratch where no backward pass follows.
  void forward(kernels::Stream& stream, const Activation& x, const Saved& saved, const kernels::Tensor& y) const;

  // For a layer without adapters: the layer and the gelu behind it, and the way back through the gelu
  // before it. See kernels::packed_product_gelu for the tensors.
  void forward_gelu(kernels::Stream& stream, const Activation& x, const kernels::Tensor& before,
                    const kernels::Tensor& y, const kernels::Tensor& kept) const;
  void backward_gelu(kernels::Stream& stream, const Activation& dy, const kernels::Tensor& kept,
                     const kernels::Tensor& before, const kernels::Tensor& dx) const;
  // The same in FP8: see kernels::fp8_product_gelu.
  void forward_gelu(kernels::Stream& stream, const Activation& x, const kernels::Tensor& before,
                    const kernels::Fp8Rows& rows, const kernels::Tensor& kept) const;
  void backward_gelu(kernels::Stream& stream, const Activation& dy, const kernels::Tensor& kept,
                     const kernels::Tensor& before, const kernels::Fp8Rows& rows) const;

  // Gradients of the trained factors for dy (rows, out), and dx += (or, without `accumulate`, =) dy·W unless dx is
  // undefined.
  void backward(kernels::Stream& stream, kernels::Workspace& workspace, const Activation& dy, const Saved& saved,
                const RecordRows& rows, const GradientTargets& targets, const kernels::Tensor& dx,
                bool accumulate) const;

 private:
  std::int64_t reduced_size() const { return static_cast<std::int64_t>(adapters_.size()) * rank_; }
  kernels::MatrixView reduced(const kernels::Tensor& u, std::size_t adapter) const {
    return {u, static_cast<std::int64_t>(adapter) * rank_, rank_};
  }

  // y = x·w + bias, or y += x·w.
  void frozen_product(kernels::Stream& stream, const Activation& x, const kernels::PackedMatrix& w,
                      const kernels::Tensor& bias, bool accumulate, const kernels::Tensor& y) const;
  // What adapters read of an input or of a gradient.
  const kernels::Tensor& for_adapters(const Activation& x) const { return types_.shared() ? x.compute : x.value; }

  kernels::PackedMatrix forward_, backward_;
  kernels::Tensor bias_;
  ComputeTypes types_;
  std::int64_t rank_ = 0;
  float scale_ = 0;
  std::vector<Adapter> adapters_;
  std::vector<std::int64_t> first_columns_;  // of each adapter's part in y
  kernels::Tensor all_a_;                    // (adapters·rank, in): the adapters' A, one below the other
  // The factors in the products' type; all_a_product_ and b_product_ are the factors themselves where that is float32.
  kernels::Tensor all_a_product_, all_a_transposed_;       // (in, adapters·rank)
  std::vector<kernels::Tensor> b_product_, b_transposed_;  // (rank, out) each
};

}  // namespace trib::models
