// The little that the baselines train: matrices with Adam, and an encoder of sparse features.
#pragma once

#include <cmath>
#include <span>
#include <vector>

#include "common/random.h"
#include "kernels/host_matrix.h"
#include "models/feature_tower.h"

namespace trib::experiments {

// A matrix that Adam trains (arXiv 1412.6980), with decoupled weight decay.
struct Weights {
  std::int64_t rows = 0, columns = 0;
  std::vector<float> values, gradient, m, v;
  std::int64_t step = 0;

  Weights() = default;
  Weights(std::int64_t r, std::int64_t c, double deviation, RandomSource& random) : rows(r), columns(c) {
    const auto size = static_cast<std::size_t>(r * c);
    values.resize(size);
    gradient.assign(size, 0.0f);
    m.assign(size, 0.0f);
    v.assign(size, 0.0f);
    models::fill_normal(std::span<float>(values), deviation, random);
  }
  float* row(std::int64_t i) { return values.data() + i * columns; }
  const float* row(std::int64_t i) const { return values.data() + i * columns; }
  float* d_row(std::int64_t i) { return gradient.data() + i * columns; }
  kernels::HostMatrix<const float> matrix() const { return {values, rows, columns}; }
  kernels::HostMatrix<float> d_matrix() { return {gradient, rows, columns}; }

  void update(double rate, double decay) {
    ++step;
    const double c1 = 1.0 - std::pow(0.9, static_cast<double>(step)),
                 c2 = 1.0 - std::pow(0.999, static_cast<double>(step));
    const auto scale = static_cast<float>(rate / c1), keep = static_cast<float>(1.0 - rate * decay);
    const auto correction = static_cast<float>(1.0 / std::sqrt(c2));
    for (std::size_t i = 0; i < values.size(); ++i) {
      const float g = gradient[i];
      m[i] = 0.9f * m[i] + 0.1f * g;
      v[i] = 0.999f * v[i] + 0.001f * g * g;
      values[i] = keep * values[i] - scale * m[i] / (std::sqrt(v[i]) * correction + 1e-8f);
      gradient[i] = 0.0f;
    }
  }
};

// y = W_2 act(W_1 [dense; Σ_f E_f/√n] + b_1) + b_2 over a dense part (may have no columns) and a set of features; act
// is LeakyReLU(0.01), or tanh.
class Encoder {
 public:
  Encoder(std::int64_t features, std::int64_t dense, std::int64_t hidden, std::int64_t size, bool use_tanh,
          RandomSource& random)
      : sparse_(features, hidden, 0.1, random),
        dense_(hidden, dense, 1.0 / std::sqrt(static_cast<double>(std::max<std::int64_t>(1, dense))), random),
        bias_1_(1, hidden, 0.0, random),
        weight_2_(size, hidden, 1.0 / std::sqrt(static_cast<double>(hidden)), random),
        bias_2_(1, size, 0.0, random),
        tanh_(use_tanh) {}

  // dense: (rows, dense). Keeps what backward() needs. The result is (rows, size).
  const std::vector<float>& forward(const std::vector<std::span<const std::int32_t>>& sets,
                                    const std::vector<float>& dense) {
    sets_ = sets;
    input_ = dense;
    const std::int64_t rows = std::ssize(sets), hidden = sparse_.columns;
    hidden_.assign(static_cast<std::size_t>(rows * hidden), 0.0f);
    if (dense_.columns > 0)
      kernels::host_product_bt<float>({input_, rows, dense_.columns}, dense_.matrix(), false, {hidden_, rows, hidden});
    for (std::int64_t r = 0; r < rows; ++r) {
      float* h = hidden_.data() + r * hidden;
      const auto& set = sets[static_cast<std::size_t>(r)];
      const float share = set.empty() ? 0.0f : 1.0f / std::sqrt(static_cast<float>(set.size()));
      for (const std::int32_t feature : set)
        for (std::int64_t j = 0; j < hidden; ++j) h[j] += share * sparse_.row(feature)[j];
      for (std::int64_t j = 0; j < hidden; ++j) {
        h[j] += bias_1_.values[static_cast<std::size_t>(j)];
        h[j] = tanh_ ? std::tanh(h[j]) : h[j] > 0.0f ? h[j] : 0.01f * h[j];
      }
    }
    output_.assign(static_cast<std::size_t>(rows * weight_2_.rows), 0.0f);
    kernels::host_product_bt<float>({hidden_, rows, hidden}, weight_2_.matrix(), false,
                                    {output_, rows, weight_2_.rows});
    for (std::size_t i = 0; i < output_.size(); ++i)
      output_[i] += bias_2_.values[i % static_cast<std::size_t>(weight_2_.rows)];
    return output_;
  }

  void backward(const std::vector<float>& d_output) {
    const std::int64_t rows = std::ssize(sets_), hidden = sparse_.columns, size = weight_2_.rows;
    kernels::host_product_at<float>({d_output, rows, size}, {hidden_, rows, hidden}, true, weight_2_.d_matrix());
    for (std::size_t i = 0; i < d_output.size(); ++i)
      bias_2_.gradient[i % static_cast<std::size_t>(size)] += d_output[i];
    std::vector<float> d_hidden(hidden_.size());
    kernels::host_product<float>({d_output, rows, size}, weight_2_.matrix(), false, {d_hidden, rows, hidden});
    for (std::size_t i = 0; i < d_hidden.size(); ++i) {
      d_hidden[i] *= tanh_ ? 1.0f - hidden_[i] * hidden_[i] : hidden_[i] > 0.0f ? 1.0f : 0.01f;
      bias_1_.gradient[i % static_cast<std::size_t>(hidden)] += d_hidden[i];
    }
    if (dense_.columns > 0)
      kernels::host_product_at<float>({d_hidden, rows, hidden}, {input_, rows, dense_.columns}, true,
                                      dense_.d_matrix());
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto& set = sets_[static_cast<std::size_t>(r)];
      const float share = set.empty() ? 0.0f : 1.0f / std::sqrt(static_cast<float>(set.size()));
      for (const std::int32_t feature : set)
        for (std::int64_t j = 0; j < hidden; ++j)
          sparse_.d_row(feature)[j] += share * d_hidden[static_cast<std::size_t>(r * hidden + j)];
    }
  }

  void update(double rate, double decay) {
    for (Weights* weights : {&sparse_, &dense_, &bias_1_, &weight_2_, &bias_2_}) weights->update(rate, decay);
  }

 private:
  Weights sparse_, dense_, bias_1_, weight_2_, bias_2_;
  bool tanh_;
  std::vector<std::span<const std::int32_t>> sets_;
  std::vector<float> input_, hidden_, output_;
};

}  // namespace trib::experiments
