// The two-tower model of README.md: its loss on some users, its gradient, and what it says of users and items. In host
// memory; float for training, double for checks of the gradient.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/random.h"
#include "models/feature_tower.h"
#include "tasks/cold_start/catalogue.h"

namespace trib::tasks::cold_start {

enum class RecommendationLoss { softmax, bpr };

struct ModelConfig {
  std::int64_t size = 64, hidden = 64;
  RecommendationLoss loss = RecommendationLoss::softmax;
  std::int64_t negatives = 0;    // sampled for a step, from the available items; 0: all of them (softmax)
  double input_share = 0.5;      // of a user's interactions that are the input, the others being targets
  double item_dropout = 0.5;     // ρ: content in place of an item's embedding
  double user_dropout = 0.2;     // ρ_u: a user without interactions
  double contrast_weight = 1.0;  // λ
  double contrast_temperature = 0.1;
  std::int64_t contrast_items = 8, contrast_negatives = 32;  // targets of a user, and sampled items
  std::int64_t private_steps = 0;                            // k, of the user's private parameters
  double private_rate = 0.1;
  // For the ablation.
  bool gates = true, fusion = true;
  bool item_content = true, item_embedding = true;   // the views of an item
  bool user_attributes = true, user_history = true;  // the views of a user
  bool operator==(const ModelConfig&) const = default;
};

// What one step draws at random before it sees a record: every user of the step meets the same.
struct StepDraw {
  std::vector<std::int32_t> negatives;           // ascending
  std::vector<std::int32_t> contrast_negatives;  // ascending
  std::vector<std::uint8_t> content_only;        // by item: f_i stands for q_i
};

// What is drawn for one user: a function of the step and the user's name alone, so that nothing of one record depends
// on which others there are.
struct UserDraw {
  const UserRecord* user = nullptr;
  std::vector<std::int32_t> input, targets;  // items; the input may have been dropped
};

template <typename T>
class Recommender {
 public:
  // `catalogue` outlives the model.
  Recommender(const ModelConfig& config, const Catalogue& catalogue);

  const models::ParameterLayout& layout() const { return layout_; }
  std::vector<T> initial_parameters(RandomSource& random) const;

  StepDraw draw_step(std::uint64_t seed, std::uint64_t step) const;
  UserDraw draw_user(const UserRecord& user, std::uint64_t seed, std::uint64_t step) const;

  // The losses of `users` (0 for those without targets), and gradients += the gradient of their sum.
  // With `fixed_private` (users, d) the private parameters are these and are not fitted; they come back in
  // `fitted_private` where that is given.
  std::vector<double> add_gradient(std::span<const T> parameters, const StepDraw& step, std::span<const UserDraw> users,
                                   std::span<T> gradients, const std::vector<T>* fixed_private = nullptr,
                                   std::vector<T>* fitted_private = nullptr) const;

  // (items, d): q of an item that was available, f of the others.
  std::vector<T> item_vectors(std::span<const T> parameters) const;
  // (users, d) from everything that the users did. `items` from item_vectors().
  std::vector<T> user_vectors(std::span<const T> parameters, std::span<const T> items,
                              std::span<const UserRecord* const> users) const;

 private:
  struct Forward;
  void embed_users(std::span<const T> parameters, std::span<const UserDraw> users, Forward& pass) const;
  void fit_private(const Forward& pass, std::span<const UserDraw> users, std::vector<T>& fitted) const;
  double recommendation_loss(const UserDraw& user, const Forward& pass, std::span<T> scores) const;
  // Of the user's targets, how many are contrasted.
  std::size_t anchor_count(const UserDraw& user) const {
    return std::min(user.targets.size(), static_cast<std::size_t>(config_.contrast_items));
  }
  double contrast_loss(const UserDraw& user, const StepDraw& step, Forward& pass) const;
  std::span<const T> block(std::span<const T> parameters, std::size_t index) const {
    return parameters.subspan(layout_.blocks()[index].offset, layout_.blocks()[index].size);
  }
  std::span<T> block(std::span<T> parameters, std::size_t index) const {
    return parameters.subspan(layout_.blocks()[index].offset, layout_.blocks()[index].size);
  }

  ModelConfig config_;
  const Catalogue& catalogue_;
  std::vector<std::int32_t> available_;
  models::ParameterLayout layout_;
  std::size_t embedding_, history_;
  std::unique_ptr<models::FeatureTower<T>> item_tower_, user_tower_;
};

}  // namespace trib::tasks::cold_start
