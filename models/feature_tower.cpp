#include "models/feature_tower.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/host_matrix.h"

namespace trib::models {
namespace {

using kernels::HostMatrix;

template <typename T>
std::span<T> block(std::span<T> parameters, const ParameterLayout& layout, std::size_t index) {
  const auto& entry = layout.blocks()[index];
  return parameters.subspan(entry.offset, entry.size);
}

// rows of x += bias
template <typename T>
void add_bias(HostMatrix<T> x, std::span<const T> bias) {
  for (std::int64_t i = 0; i < x.rows; ++i) {
    const std::span<T> row = x.row(i);
    for (std::size_t j = 0; j < row.size(); ++j) row[j] += bias[j];
  }
}

// sum += the rows of x
template <typename T>
void add_rows(HostMatrix<const T> x, std::span<T> sum) {
  for (std::int64_t i = 0; i < x.rows; ++i) {
    const std::span<const T> row = x.row(i);
    for (std::size_t j = 0; j < row.size(); ++j) sum[j] += row[j];
  }
}

}  // namespace

std::size_t ParameterLayout::add(std::string name, Shape shape, bool is_table) {
  const auto size = static_cast<std::size_t>(element_count(shape));
  blocks_.push_back({std::move(name), std::move(shape), size_, size, is_table});
  size_ += size;
  return blocks_.size() - 1;
}

std::vector<BlockGradient> take_gradient(const ParameterLayout& layout, std::span<float> gradients) {
  std::vector<BlockGradient> taken;
  for (const auto& block : layout.blocks()) {
    BlockGradient& gradient = taken.emplace_back();
    const std::span<float> values = gradients.subspan(block.offset, block.size);
    if (!block.is_table) {
      gradient.values.assign(values.begin(), values.end());
      std::ranges::fill(values, 0.0f);
      continue;
    }
    const auto columns = static_cast<std::size_t>(block.shape[1]);
    for (std::size_t row = 0; row * columns < values.size(); ++row) {
      const std::span<float> part = values.subspan(row * columns, columns);
      // What is not a number is not zero either.
      if (std::ranges::all_of(part, [](float value) { return value == 0.0f; })) continue;
      gradient.rows.push_back(static_cast<std::int32_t>(row));
      gradient.values.insert(gradient.values.end(), part.begin(), part.end());
      std::ranges::fill(part, 0.0f);
    }
  }
  return taken;
}

template <typename T>
void fill_normal(std::span<T> values, double deviation, RandomSource& random) {
  for (T& value : values) {
    const double radius = std::sqrt(-2.0 * std::log(random.uniform()));
    value = static_cast<T>(deviation * radius * std::cos(2.0 * std::numbers::pi * random.uniform()));
  }
}

template <typename T>
FeatureTower<T>::FeatureTower(FeatureTowerConfig config, ParameterLayout& layout) : config_(std::move(config)) {
  const auto groups = static_cast<std::int64_t>(config_.groups.size());
  const std::int64_t d = config_.size, wide = groups * d;
  const std::string& prefix = config_.prefix;
  for (const auto& group : config_.groups)
    tables_.push_back(layout.add(prefix + "." + group.name, {group.vocabulary, d}, /*is_table=*/true));
  gate_weight_ = layout.add(prefix + ".gate.weight", {groups, wide});
  gate_bias_ = layout.add(prefix + ".gate.bias", {groups});
  weight_1_ = layout.add(prefix + ".fusion.weight_1", {config_.hidden, wide});
  bias_1_ = layout.add(prefix + ".fusion.bias_1", {config_.hidden});
  weight_2_ = layout.add(prefix + ".fusion.weight_2", {d, config_.hidden});
  bias_2_ = layout.add(prefix + ".fusion.bias_2", {d});
}

template <typename T>
void FeatureTower<T>::initialize(std::span<T> parameters, const ParameterLayout& layout, RandomSource& random) const {
  const double wide = static_cast<double>(config_.groups.size()) * static_cast<double>(config_.size);
  for (const std::size_t table : tables_) fill_normal(block(parameters, layout, table), 0.1, random);
  fill_normal(block(parameters, layout, gate_weight_), 1.0 / std::sqrt(wide), random);
  fill_normal(block(parameters, layout, weight_1_), 1.0 / std::sqrt(wide), random);
  fill_normal(block(parameters, layout, weight_2_), 1.0 / std::sqrt(static_cast<double>(config_.hidden)), random);
  for (const std::size_t bias : {gate_bias_, bias_1_, bias_2_})
    for (T& value : block(parameters, layout, bias)) value = T(0);
}

template <typename T>
void FeatureTower<T>::forward(std::span<const T> parameters, const ParameterLayout& layout,
                              FeatureTowerPass<T>& pass) const {
  const std::size_t groups = config_.groups.size();
  const auto d = static_cast<std::size_t>(config_.size);
  const std::int64_t rows = pass.rows, wide = static_cast<std::int64_t>(groups * d);
  pass.means.assign(static_cast<std::size_t>(rows * wide), T(0));
  for (std::size_t row = 0; row < static_cast<std::size_t>(rows); ++row) {
    for (std::size_t g = 0; g < groups; ++g) {
      const auto set = pass.features[row * groups + g];
      if (set.empty() || !config_.groups[g].enabled) continue;
      const std::span<const T> table = block(parameters, layout, tables_[g]);
      T* mean = pass.means.data() + (row * groups + g) * d;
      const T share = T(1) / static_cast<T>(set.size());
      for (const std::int32_t feature : set) {
        const T* embedding = table.data() + static_cast<std::size_t>(feature) * d;
        for (std::size_t j = 0; j < d; ++j) mean[j] += share * embedding[j];
      }
    }
  }
  const HostMatrix<const T> means{pass.means, rows, wide};
  pass.gates.assign(static_cast<std::size_t>(rows) * groups, T(1));
  if (config_.gates) {
    const HostMatrix<T> gates{pass.gates, rows, static_cast<std::int64_t>(groups)};
    kernels::host_product_bt<T>(means, {block(parameters, layout, gate_weight_), gates.columns, wide}, false, gates);
    add_bias(gates, block(parameters, layout, gate_bias_));
    for (T& gate : pass.gates) gate = T(1) / (T(1) + std::exp(-gate));
  }
  pass.gated.resize(pass.means.size());
  for (std::size_t i = 0; i < pass.means.size(); ++i) pass.gated[i] = pass.gates[i / d] * pass.means[i];

  pass.output.assign(static_cast<std::size_t>(rows) * d, T(0));
  const HostMatrix<T> output{pass.output, rows, config_.size};
  if (config_.fusion) {
    pass.hidden.resize(static_cast<std::size_t>(rows * config_.hidden));
    const HostMatrix<T> hidden{pass.hidden, rows, config_.hidden};
    kernels::host_product_bt<T>({pass.gated, rows, wide}, {block(parameters, layout, weight_1_), config_.hidden, wide},
                                false, hidden);
    add_bias(hidden, block(parameters, layout, bias_1_));
    for (T& value : pass.hidden) value = std::tanh(value);
    kernels::host_product_bt<T>(hidden, {block(parameters, layout, weight_2_), config_.size, config_.hidden}, false,
                                output);
  }
  add_bias(output, block(parameters, layout, bias_2_));
  for (std::size_t row = 0; row < static_cast<std::size_t>(rows); ++row) {
    for (std::size_t i = 0; i < groups * d; ++i) pass.output[row * d + i % d] += pass.gated[row * groups * d + i];
  }
}

template <typename T>
void FeatureTower<T>::backward(std::span<const T> parameters, const ParameterLayout& layout,
                               const FeatureTowerPass<T>& pass, std::span<const T> d_output,
                               std::span<T> gradients) const {
  const std::size_t groups = config_.groups.size();
  const auto d = static_cast<std::size_t>(config_.size);
  const std::int64_t rows = pass.rows, wide = static_cast<std::int64_t>(groups * d);
  const HostMatrix<const T> dy{d_output, rows, config_.size};
  add_rows(dy, block(gradients, layout, bias_2_));

  std::vector<T> d_gated(pass.gated.size());
  if (config_.fusion) {
    const HostMatrix<const T> hidden{pass.hidden, rows, config_.hidden};
    const std::span<const T> weight_1 = block(parameters, layout, weight_1_);
    const std::span<const T> weight_2 = block(parameters, layout, weight_2_);
    kernels::host_product_at<T>(dy, hidden, true, {block(gradients, layout, weight_2_), config_.size, config_.hidden});
    std::vector<T> d_hidden(pass.hidden.size());
    kernels::host_product<T>(dy, {weight_2, config_.size, config_.hidden}, false, {d_hidden, rows, config_.hidden});
    for (std::size_t i = 0; i < d_hidden.size(); ++i) d_hidden[i] *= T(1) - pass.hidden[i] * pass.hidden[i];
    const HostMatrix<const T> dh{d_hidden, rows, config_.hidden};
    add_rows(dh, block(gradients, layout, bias_1_));
    kernels::host_product_at<T>(dh, {pass.gated, rows, wide}, true,
                                {block(gradients, layout, weight_1_), config_.hidden, wide});
    kernels::host_product<T>(dh, {weight_1, config_.hidden, wide}, false, {d_gated, rows, wide});
  }
  for (std::size_t row = 0; row < static_cast<std::size_t>(rows); ++row) {
    for (std::size_t i = 0; i < groups * d; ++i) d_gated[row * groups * d + i] += d_output[row * d + i % d];
  }

  std::vector<T> d_means(pass.means.size());
  for (std::size_t i = 0; i < d_means.size(); ++i) d_means[i] = d_gated[i] * pass.gates[i / d];
  if (config_.gates) {
    std::vector<T> d_gates(pass.gates.size(), T(0));
    for (std::size_t i = 0; i < d_means.size(); ++i) d_gates[i / d] += d_gated[i] * pass.means[i];
    for (std::size_t i = 0; i < d_gates.size(); ++i) d_gates[i] *= pass.gates[i] * (T(1) - pass.gates[i]);
    const HostMatrix<const T> dg{d_gates, rows, static_cast<std::int64_t>(groups)};
    add_rows(dg, block(gradients, layout, gate_bias_));
    kernels::host_product_at<T>(dg, {pass.means, rows, wide}, true,
                                {block(gradients, layout, gate_weight_), dg.columns, wide});
    kernels::host_product<T>(dg, {block(parameters, layout, gate_weight_), dg.columns, wide}, true,
                             {d_means, rows, wide});
  }
  for (std::size_t row = 0; row < static_cast<std::size_t>(rows); ++row) {
    for (std::size_t g = 0; g < groups; ++g) {
      const auto set = pass.features[row * groups + g];
      if (set.empty() || !config_.groups[g].enabled) continue;
      const std::span<T> table = block(gradients, layout, tables_[g]);
      const T* d_mean = d_means.data() + (row * groups + g) * d;
      const T share = T(1) / static_cast<T>(set.size());
      for (const std::int32_t feature : set) {
        T* d_embedding = table.data() + static_cast<std::size_t>(feature) * d;
        for (std::size_t j = 0; j < d; ++j) d_embedding[j] += share * d_mean[j];
      }
    }
  }
}

template void fill_normal(std::span<float>, double, RandomSource&);
template void fill_normal(std::span<double>, double, RandomSource&);
template class FeatureTower<float>;
template class FeatureTower<double>;

}  // namespace trib::models
