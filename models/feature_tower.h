// A tower over sparse features: per-feature embeddings, gates that select groups instance by instance, and their
// fusion. Small enough for host memory; float for training, double for checks of its gradient.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/random.h"
#include "common/tensor_map.h"

namespace trib::models {

// Named tensors one behind the other in one vector.
class ParameterLayout {
 public:
  struct Block {
    std::string name;
    Shape shape;
    std::size_t offset = 0, size = 0;
    bool is_table = false;  // rows that are looked up: those that a record does not ask for have no gradient
  };
  // The new block's index.
  std::size_t add(std::string name, Shape shape, bool is_table = false);
  const std::vector<Block>& blocks() const { return blocks_; }
  std::size_t size() const { return size_; }

 private:
  std::vector<Block> blocks_;
  std::size_t size_ = 0;
};

// The gradient of one block, row by row where it is a table.
struct BlockGradient {
  std::vector<float> values;       // of a table the rows in which it is not zero, else all of it
  std::vector<std::int32_t> rows;  // which rows of a table those are, ascending
};
// Takes what stands in `gradients`, which are zero afterwards: one a block. A record looks up few rows, and what is
// done with its gradient then costs as little.
std::vector<BlockGradient> take_gradient(const ParameterLayout& layout, std::span<float> gradients);

// With c_g the mean of the embeddings of a group's features (0 if none is set):
//   a = σ(W_a [c_1; …; c_G] + b_a),  x = [a_1 c_1; …; a_G c_G],  f = Σ_g x_g + W_2 tanh(W_1 x + b_1) + b_2
// Blocks: PREFIX.GROUP (vocabulary, d), PREFIX.gate.weight (G, G·d), .gate.bias (G), PREFIX.fusion.weight_1 (hidden,
// G·d), .bias_1, .weight_2 (d, hidden), .bias_2.
struct FeatureTowerConfig {
  struct Group {
    std::string name;
    std::int64_t vocabulary = 0;
    bool enabled = true;  // false: as if no feature of it were set
  };
  std::string prefix;
  std::vector<Group> groups;
  std::int64_t size = 64, hidden = 64;  // d, and of the fusion's layer
  bool gates = true;                    // false: a = 1
  bool fusion = true;                   // false: without W_2 tanh(…)
};

// Features of some rows, and what a forward pass keeps of them for the backward pass.
template <typename T>
struct FeatureTowerPass {
  std::vector<std::span<const std::int32_t>> features;  // (rows, G)
  std::int64_t rows = 0;
  std::vector<T> output;                       // (rows, d)
  std::vector<T> means, gates, gated, hidden;  // (rows, G·d), (rows, G), (rows, G·d), (rows, hidden)
};

template <typename T>
class FeatureTower {
 public:
  // Adds its blocks to `layout`.
  FeatureTower(FeatureTowerConfig config, ParameterLayout& layout);
  // Embeddings from N(0, 0.1²), weights from N(0, 1/inputs), gates half open.
  void initialize(std::span<T> parameters, const ParameterLayout& layout, RandomSource& random) const;
  void forward(std::span<const T> parameters, const ParameterLayout& layout, FeatureTowerPass<T>& pass) const;
  // gradients += those of a loss whose gradient at the output (rows, d) is `d_output`.
  void backward(std::span<const T> parameters, const ParameterLayout& layout, const FeatureTowerPass<T>& pass,
                std::span<const T> d_output, std::span<T> gradients) const;
  std::size_t group_count() const { return config_.groups.size(); }

 private:
  FeatureTowerConfig config_;
  std::vector<std::size_t> tables_;
  std::size_t gate_weight_, gate_bias_, weight_1_, bias_1_, weight_2_, bias_2_;
};

// From N(0, deviation²).
template <typename T>
void fill_normal(std::span<T> values, double deviation, RandomSource& random);

}  // namespace trib::models
