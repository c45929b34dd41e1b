// The model's gradient against central differences in float64, part by part.
#include "tasks/cold_start/recommender.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "tasks/cold_start/split.h"

namespace trib::tasks::cold_start {
namespace {

class RecommenderGradient : public ::testing::Test {
 protected:
  RecommenderGradient() {
    dataset_ = make_synthetic({.users = 12, .items = 40, .interactions_per_user = 10, .seed = 3});
    split_.emplace(Split::make(dataset_, {.cold_items = 0.2}).value());
    catalogue_ = Catalogue::from(dataset_, split_->available(), 1);
    users_ = user_records(dataset_, split_->training());
  }

  static ModelConfig small() {
    ModelConfig config;
    config.size = 5;
    config.hidden = 4;
    config.contrast_weight = 0.7;
    config.contrast_items = 3;
    config.contrast_negatives = 6;
    return config;
  }

  // Largest difference between gradient and central differences over the whole of the parameters, over its largest
  // entry.
  double error_of(const ModelConfig& config) {
    const Recommender<double> model(config, catalogue_);
    ChaCha20Random random(RandomKey::from_seed(1));
    std::vector<double> parameters = model.initial_parameters(random);
    // Away from the zeros that biases start with.
    for (double& value : parameters) value += 0.2 * (random.uniform() - 0.5);
    const StepDraw step = model.draw_step(9, 1);
    std::vector<UserDraw> draws;
    for (std::size_t u = 0; u < 6; ++u) draws.push_back(model.draw_user(users_[u], 9, 1));
    std::vector<double> gradient(parameters.size()), unused(parameters.size()), own;
    model.add_gradient(parameters, step, draws, gradient, nullptr, &own);
    const auto loss = [&] {
      double sum = 0.0;
      for (const double one : model.add_gradient(parameters, step, draws, unused, own.empty() ? nullptr : &own))
        sum += one;
      return sum;
    };
    double largest = 0.0, error = 0.0;
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const double before = parameters[i], h = 1e-5;
      parameters[i] = before + h;
      const double up = loss();
      parameters[i] = before - h;
      const double down = loss();
      parameters[i] = before;
      error = std::max(error, std::abs(gradient[i] - (up - down) / (2.0 * h)));
      largest = std::max(largest, std::abs(gradient[i]));
    }
    EXPECT_GT(largest, 1e-3);
    return error / largest;
  }

  Dataset dataset_;
  std::optional<Split> split_;
  Catalogue catalogue_;
  std::vector<UserRecord> users_;
};

TEST_F(RecommenderGradient, OfTheWholeModelIsThatOfCentralDifferences) {
  EXPECT_LT(error_of(small()), 1e-7);
}

TEST_F(RecommenderGradient, OfASoftmaxOverASampleIsThatOfCentralDifferences) {
  ModelConfig config = small();
  config.negatives = 7;
  EXPECT_LT(error_of(config), 1e-7);
}

TEST_F(RecommenderGradient, OfBprIsThatOfCentralDifferences) {
  ModelConfig config = small();
  config.loss = RecommendationLoss::bpr;
  config.negatives = 7;
  EXPECT_LT(error_of(config), 1e-7);
}

TEST_F(RecommenderGradient, WithPrivateParametersIsThatOfCentralDifferencesAtThoseParameters) {
  ModelConfig config = small();
  config.private_steps = 3;
  config.private_rate = 0.5;
  EXPECT_LT(error_of(config), 1e-7);
}

TEST_F(RecommenderGradient, OfEachAblationIsThatOfCentralDifferences) {
  const std::vector<std::pair<const char*, std::function<void(ModelConfig&)>>> ablations = {
      {"gates", [](ModelConfig& c) { c.gates = false; }},
      {"fusion", [](ModelConfig& c) { c.fusion = false; }},
      {"item_content", [](ModelConfig& c) { c.item_content = false; }},
      {"item_embedding", [](ModelConfig& c) { c.item_embedding = false, c.contrast_weight = 0.0; }},
      {"user_attributes", [](ModelConfig& c) { c.user_attributes = false; }},
      {"user_history", [](ModelConfig& c) { c.user_history = false; }},
      {"contrast", [](ModelConfig& c) { c.contrast_weight = 0.0; }},
      {"item_dropout", [](ModelConfig& c) { c.item_dropout = 0.0; }}};
  for (const auto& [name, change] : ablations) {
    ModelConfig config = small();
    change(config);
    EXPECT_LT(error_of(config), 1e-7) << name;
  }
}

TEST_F(RecommenderGradient, OfUsersTogetherIsTheSumOfThatOfEach) {
  ModelConfig config = small();
  config.negatives = 7;
  const Recommender<double> model(config, catalogue_);
  ChaCha20Random random(RandomKey::from_seed(2));
  const std::vector<double> parameters = model.initial_parameters(random);
  const StepDraw step = model.draw_step(4, 1);
  std::vector<UserDraw> draws;
  for (std::size_t u = 0; u < 6; ++u) draws.push_back(model.draw_user(users_[u], 4, 1));
  std::vector<double> together(parameters.size()), alone(parameters.size());
  model.add_gradient(parameters, step, draws, together);
  for (const UserDraw& draw : draws) model.add_gradient(parameters, step, std::span(&draw, 1), alone);
  for (std::size_t i = 0; i < together.size(); ++i) ASSERT_NEAR(together[i], alone[i], 1e-12);
}

TEST_F(RecommenderGradient, OfAUserDoesNotDependOnWhoElseIsThere) {
  // What is drawn for a user follows from the user's name and the step.
  const Recommender<double> model(small(), catalogue_);
  const UserDraw first = model.draw_user(users_[3], 11, 5), again = model.draw_user(users_[3], 11, 5);
  EXPECT_EQ(first.input, again.input);
  EXPECT_EQ(first.targets, again.targets);
  EXPECT_NE(first.targets, model.draw_user(users_[3], 11, 6).targets);
}

TEST_F(RecommenderGradient, OfAUserWithoutInteractionsIsZero) {
  const Recommender<double> model(small(), catalogue_);
  ChaCha20Random random(RandomKey::from_seed(2));
  const std::vector<double> parameters = model.initial_parameters(random);
  const UserRecord nobody = make_user("nobody", {}, {}, {});
  const UserDraw draw = model.draw_user(nobody, 1, 1);
  std::vector<double> gradient(parameters.size());
  const auto losses = model.add_gradient(parameters, model.draw_step(1, 1), std::span(&draw, 1), gradient);
  EXPECT_EQ(losses, std::vector<double>{0.0});
  for (const double value : gradient) ASSERT_EQ(value, 0.0);
}

TEST_F(RecommenderGradient, OfABatchWhereAllIsColdIsFiniteAndMovesNoEmbedding) {
  ModelConfig config = small();
  config.item_dropout = 1.0;
  config.user_dropout = 1.0;
  config.contrast_weight = 0.0;
  const Recommender<double> model(config, catalogue_);
  ChaCha20Random random(RandomKey::from_seed(2));
  const std::vector<double> parameters = model.initial_parameters(random);
  std::vector<UserDraw> draws;
  for (std::size_t u = 0; u < 6; ++u) draws.push_back(model.draw_user(users_[u], 4, 1));
  std::vector<double> gradient(parameters.size());
  for (const double loss : model.add_gradient(parameters, model.draw_step(4, 1), draws, gradient))
    EXPECT_TRUE(std::isfinite(loss) && loss > 0.0);
  const auto& blocks = model.layout().blocks();
  double moved = 0.0;
  for (const auto& block : blocks) {
    for (std::size_t i = block.offset; i < block.offset + block.size; ++i) {
      ASSERT_TRUE(std::isfinite(gradient[i]));
      if (block.name == "item.embedding") {
        ASSERT_EQ(gradient[i], 0.0);
      } else {
        moved = std::max(moved, std::abs(gradient[i]));
      }
    }
  }
  EXPECT_GT(moved, 0.0);
}

TEST_F(RecommenderGradient, NeverTouchesTheEmbeddingOfAnItemThatWasNotThereYet) {
  const Recommender<double> model(small(), catalogue_);
  ChaCha20Random random(RandomKey::from_seed(2));
  const std::vector<double> parameters = model.initial_parameters(random);
  std::vector<UserDraw> draws;
  for (std::size_t u = 0; u < 6; ++u) draws.push_back(model.draw_user(users_[u], 4, 1));
  std::vector<double> gradient(parameters.size());
  model.add_gradient(parameters, model.draw_step(4, 1), draws, gradient);
  ASSERT_EQ(model.layout().blocks()[0].name, "item.embedding");
  std::int64_t cold = 0;
  for (std::int32_t item = 0; item < catalogue_.item_count(); ++item) {
    if (catalogue_.is_available(item)) continue;
    ++cold;
    for (std::size_t j = 0; j < 5; ++j) ASSERT_EQ(gradient[static_cast<std::size_t>(item) * 5 + j], 0.0);
  }
  EXPECT_GT(cold, 0);
}

}  // namespace
}  // namespace trib::tasks::cold_start
