#include "tasks/lora_text/aggregation.h"

#include <algorithm>
#include <cmath>

#include "common/random.h"
#include "kernels/linalg.h"

namespace trib::tasks::lora_text {
namespace {

using kernels::Stream;
using kernels::Tensor;
using Layer = models::TextClassifier::AdaptedLayer;

constexpr std::uint64_t initial_a_stream = 1;  // of the job's seed

HostTensor to_f64(const HostTensor& tensor) {
  if (tensor.dtype() == DType::f64) return tensor;
  HostTensor wide(DType::f64, tensor.shape());
  std::ranges::copy(tensor.as<float>(), wide.as<double>().begin());
  return wide;
}

HostTensor identity(std::int64_t rank) {
  HostTensor result(DType::f64, {rank, rank});
  for (std::int64_t i = 0; i < rank; ++i) result.as<double>()[static_cast<std::size_t>(i * rank + i)] = 1.0;
  return result;
}

// a·b in float64, for host tensors of either type.
HostTensor product(Stream& stream, const HostTensor& a, const HostTensor& b) {
  const Tensor left = Tensor::from_host(stream, to_f64(a)), right = Tensor::from_host(stream, to_f64(b));
  const Tensor result(stream.device(), DType::f64, {left.dim(0), right.dim(1)});
  kernels::multiply(stream, left, right, result);
  return result.to_host(stream);
}

// sum ← decay·sum + (1 − decay)·value, elementwise; `sum` is undefined (no elements) before the first call.
void blend(HostTensor& sum, const HostTensor& value, double decay) {
  const HostTensor wide = to_f64(value);
  if (sum.element_count() == 0) {
    sum = wide;
    return;
  }
  const std::span<double> total = sum.as<double>();
  const std::span<const double> added = wide.as<double>();
  for (std::size_t i = 0; i < total.size(); ++i) total[i] = decay * total[i] + (1.0 - decay) * added[i];
}

TensorMap zero_b(const AdapterLayout& layout) {
  TensorMap state;
  for (const Layer& layer : layout.layers) {
    state[b_name(layer)] = HostTensor(DType::f32, {layer.out_features, layout.rank});
  }
  return state;
}

// FFA-LoRA: A never changes, and the mean of B is the next B.
class FixedA final : public Aggregation {
 public:
  explicit FixedA(AdapterLayout layout) : layout_(std::move(layout)) {}

  bool has_fixed_a() const override { return true; }

  TensorMap initial_state(const TensorMap&) const override { return zero_b(layout_); }

  Result<TensorMap> next_state(Stream&, const TensorMap&, const TensorMap&, const TensorMap& mean) const override {
    TensorMap next;
    for (const Layer& layer : layout_.layers) {
      TRIB_ASSIGN(const HostTensor* b, mean.find(b_name(layer)));
      TRIB_ASSIGN(next[b_name(layer)], b->to_f32());
    }
    return next;
  }

  Status add_to_average(Stream&, TensorMap& average, const TensorMap& state, double decay) const override {
    for (const Layer& layer : layout_.layers) {
      TRIB_ASSIGN(const HostTensor* b, state.find(b_name(layer)));
      blend(average[b_name(layer)], *b, decay);
    }
    return {};
  }

 private:
  AdapterLayout layout_;
};

// FedSVD (arXiv 2505.12805, Algorithm 1) on the thin factors. With A's rows orthonormal, B·A = U·S·(Wᵀ·A) is the
// product's own SVD. The rows of the new A span what the old ones did, so that A_t = Q_t·A_0 with Q_t (rank, rank)
// orthogonal, and Q_t is all that has to travel.
class FedSvd final : public Aggregation {
 public:
  explicit FedSvd(AdapterLayout layout) : layout_(std::move(layout)) {}

  bool has_fixed_a() const override { return true; }

  TensorMap initial_state(const TensorMap&) const override {
    TensorMap state = zero_b(layout_);
    for (const Layer& layer : layout_.layers) state[rotation_name(layer)] = identity(layout_.rank);
    return state;
  }

  Result<TensorMap> next_state(Stream& stream, const TensorMap& initial_a, const TensorMap& state,
                               const TensorMap& mean) const override {
    std::vector<kernels::Refactorization> adapters;
    for (const Layer& layer : layout_.layers) {
      TRIB_ASSIGN(const HostTensor* b, mean.find(b_name(layer)));
      TRIB_ASSIGN(const HostTensor* rotation, state.find(rotation_name(layer)));
      TRIB_ASSIGN(const HostTensor* a, initial_a.find(a_name(layer)));
      adapters.push_back({.b = Tensor::from_host(stream, to_f64(*b)),
                          .a = Tensor::from_host(stream, product(stream, *rotation, *a)),
                          .rotation = Tensor(stream.device(), DType::f64, {layout_.rank, layout_.rank})});
    }
    kernels::refactorize(stream, adapters);

    TensorMap next;
    for (std::size_t i = 0; i < adapters.size(); ++i) {
      const Layer& layer = layout_.layers[i];
      TRIB_ASSIGN(next[b_name(layer)], adapters[i].b.to_host(stream).to_f32());
      // Q ← R·Q, and back onto the orthogonal matrices, so that rounding does not add up over rounds.
      const Tensor old_rotation = Tensor::from_host(stream, state.at(rotation_name(layer)));
      const Tensor rotation(stream.device(), DType::f64, {layout_.rank, layout_.rank});
      kernels::multiply(stream, adapters[i].rotation, old_rotation, rotation);
      kernels::orthonormalize_rows(stream, rotation);
      next[rotation_name(layer)] = rotation.to_host(stream);
    }
    return next;
  }

  // ΔW_t = B_t·A_t = (B_t·Q_t)·A_0: against the one A_0 the products average as their left factors do.
  Status add_to_average(Stream& stream, TensorMap& average, const TensorMap& state, double decay) const override {
    for (const Layer& layer : layout_.layers) {
      TRIB_ASSIGN(const HostTensor* b, state.find(b_name(layer)));
      TRIB_ASSIGN(const HostTensor* rotation, state.find(rotation_name(layer)));
      blend(average[b_name(layer)], product(stream, *b, *rotation), decay);
    }
    return {};
  }

 private:
  AdapterLayout layout_;
};

// FedAvg on both factors (FedIT): the mean of B times the mean of A, which is not the mean of the products.
class FedAvg final : public Aggregation {
 public:
  explicit FedAvg(AdapterLayout layout) : layout_(std::move(layout)) {}

  bool has_fixed_a() const override { return false; }

  TensorMap initial_state(const TensorMap& initial_a) const override {
    TensorMap state = zero_b(layout_);
    for (const Layer& layer : layout_.layers) state[a_name(layer)] = initial_a.at(a_name(layer));
    return state;
  }

  Result<TensorMap> next_state(Stream&, const TensorMap&, const TensorMap&, const TensorMap& mean) const override {
    TensorMap next;
    for (const Layer& layer : layout_.layers) {
      for (const std::string& name : {a_name(layer), b_name(layer)}) {
        TRIB_ASSIGN(const HostTensor* factor, mean.find(name));
        TRIB_ASSIGN(next[name], factor->to_f32());
      }
    }
    return next;
  }

  // The average of products B_t·A_t has a rank that grows with t. What is kept is the best approximation of rank r of
  // decay·(what was kept) + (1 − decay)·B·A, by stacking the factors: [d·B̄, (1−d)·B]·[Ā; A] has rank 2r, its
  // refactorization lists singular values in descending order, and the first r of them stay.
  Status add_to_average(Stream& stream, TensorMap& average, const TensorMap& state, double decay) const override {
    const bool first = average.empty();
    std::vector<kernels::Refactorization> stacked;
    for (const Layer& layer : layout_.layers) {
      TRIB_ASSIGN(const HostTensor* b, state.find(b_name(layer)));
      TRIB_ASSIGN(const HostTensor* a, state.find(a_name(layer)));
      if (first) {
        average[b_name(layer)] = to_f64(*b);
        average[a_name(layer)] = to_f64(*a);
        continue;
      }
      const HostTensor wide_b = stack_columns(average.at(b_name(layer)), decay, to_f64(*b), 1.0 - decay);
      const HostTensor tall_a = stack_rows(average.at(a_name(layer)), to_f64(*a));
      stacked.push_back(
          {.b = Tensor::from_host(stream, wide_b), .a = Tensor::from_host(stream, tall_a), .rotation = {}});
    }
    kernels::refactorize(stream, stacked);
    for (std::size_t i = 0; i < stacked.size(); ++i) {
      const Layer& layer = layout_.layers[i];
      average[a_name(layer)] = stacked[i].a.rows(0, layout_.rank).to_host(stream);
      average[b_name(layer)] = first_columns(stacked[i].b.to_host(stream));
    }
    return {};
  }

 private:
  // [left_scale·left, right_scale·right] for (out, r) factors.
  HostTensor stack_columns(const HostTensor& left, double left_scale, const HostTensor& right,
                           double right_scale) const {
    const auto rank = static_cast<std::size_t>(layout_.rank);
    HostTensor stacked(DType::f64, {left.shape()[0], 2 * layout_.rank});
    const std::span<double> out = stacked.as<double>();
    for (std::size_t i = 0; i < left.as<double>().size(); ++i) {
      const std::size_t row = i / rank, column = i % rank;
      out[row * 2 * rank + column] = left_scale * left.as<double>()[i];
      out[row * 2 * rank + rank + column] = right_scale * right.as<double>()[i];
    }
    return stacked;
  }

  // [top; bottom] for (r, in) factors.
  HostTensor stack_rows(const HostTensor& top, const HostTensor& bottom) const {
    HostTensor stacked(DType::f64, {2 * layout_.rank, top.shape()[1]});
    const auto middle = std::ranges::copy(top.as<double>(), stacked.as<double>().begin()).out;
    std::ranges::copy(bottom.as<double>(), middle);
    return stacked;
  }

  // The left half of an (out, 2r) factor.
  HostTensor first_columns(const HostTensor& wide) const {
    const auto rank = static_cast<std::size_t>(layout_.rank);
    HostTensor narrow(DType::f64, {wide.shape()[0], layout_.rank});
    const std::span<double> out = narrow.as<double>();
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = wide.as<double>()[i / rank * 2 * rank + i % rank];
    return narrow;
  }

  AdapterLayout layout_;
};

}  // namespace

std::string a_name(const Layer& layer) {
  return layer.name + ".lora_A";
}
std::string b_name(const Layer& layer) {
  return layer.name + ".lora_B";
}
std::string rotation_name(const Layer& layer) {
  return layer.name + ".rotation";
}

TensorMap draw_initial_a(Stream& stream, Algorithm algorithm, const AdapterLayout& layout, std::uint64_t seed) {
  const RandomKey key = RandomKey::from_seed(seed, initial_a_stream);
  const bool orthonormal = algorithm == Algorithm::fedsvd || algorithm == Algorithm::ffa_orthonormal;
  ChaCha20Random uniform(key);
  TensorMap drawn;
  for (std::size_t i = 0; i < layout.layers.size(); ++i) {
    const Layer& layer = layout.layers[i];
    HostTensor& a = drawn[a_name(layer)] = HostTensor(DType::f32, {layout.rank, layer.in_features});
    if (orthonormal) {
      const Tensor rows(stream.device(), DType::f32, a.shape());
      kernels::random_orthonormal_rows(stream, key.bytes(), i, rows);
      a = rows.to_host(stream);
    } else {
      const double bound = 1.0 / std::sqrt(static_cast<double>(layer.in_features));
      for (float& value : a.as<float>()) value = static_cast<float>(bound * (2.0 * uniform.uniform() - 1.0));
    }
  }
  return drawn;
}

Result<TensorMap> explicit_adapters(Stream& stream, const AdapterLayout& layout, const TensorMap& constants,
                                    const TensorMap& state) {
  TensorMap adapters;
  for (const Layer& layer : layout.layers) {
    TRIB_ASSIGN(const HostTensor* b, state.find(b_name(layer)));
    TRIB_ASSIGN(adapters[b_name(layer)], b->to_f32());
    if (state.contains(a_name(layer))) {
      TRIB_ASSIGN(adapters[a_name(layer)], state.at(a_name(layer)).to_f32());
      continue;
    }
    TRIB_ASSIGN(const HostTensor* initial_a, constants.find(a_name(layer)));
    if (state.contains(rotation_name(layer))) {
      TRIB_ASSIGN(adapters[a_name(layer)], product(stream, state.at(rotation_name(layer)), *initial_a).to_f32());
    } else {
      adapters[a_name(layer)] = *initial_a;
    }
  }
  return adapters;
}

std::unique_ptr<Aggregation> make_aggregation(Algorithm algorithm, AdapterLayout layout) {
  switch (algorithm) {
    case Algorithm::fedsvd:
      return std::make_unique<FedSvd>(std::move(layout));
    case Algorithm::fedavg:
      return std::make_unique<FedAvg>(std::move(layout));
    case Algorithm::ffa:
    case Algorithm::ffa_orthonormal:
      break;
  }
  return std::make_unique<FixedA>(std::move(layout));
}

}  // namespace trib::tasks::lora_text
