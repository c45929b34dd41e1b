#include "tasks/sum.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "common/random.h"

namespace trib::tasks {
namespace {

using testing::HasSubstr;

TensorSchema schema() {
  return TensorSchema({{"b", DType::f32, {2}}, {"a", DType::f64, {1}}});
}

TensorMap contribution(std::vector<float> b, double a, double weight) {
  for (float& value : b) value *= static_cast<float>(weight);
  TensorMap tensors;
  tensors["b"] = HostTensor::from_f32({2}, b);
  tensors["a"] = HostTensor::from_f64({1}, std::vector<double>{a * weight});
  return tensors;
}

TEST(Sum, GivesTheWeightedMeanInFloat64) {
  Sum sum(schema());
  ASSERT_TRUE(sum.add(contribution({1.0f, 2.0f}, 10.0, 1.0), 1.0).ok());
  ASSERT_TRUE(sum.add(contribution({5.0f, -2.0f}, 30.0, 3.0), 3.0).ok());
  EXPECT_EQ(sum.contributions(), 2);
  EXPECT_DOUBLE_EQ(sum.weight(), 4.0);
  const TensorMap mean = sum.mean().value();
  EXPECT_THAT(mean.at("b").as<double>(), testing::ElementsAre(4.0, -1.0));
  EXPECT_THAT(mean.at("a").as<double>(), testing::ElementsAre(25.0));
}

TEST(Sum, DoesNotDependOnTheOrderOfContributions) {
  ChaCha20Random random(RandomKey::from_seed(7));
  std::vector<std::pair<TensorMap, double>> contributions;
  for (int i = 0; i < 200; ++i) {
    const double weight = 1.0 + static_cast<double>(random.below(1000));
    const auto value = [&] { return static_cast<float>(random.uniform() - 0.5); };
    contributions.emplace_back(contribution({value(), value()}, value(), weight), weight);
  }
  Sum forwards(schema()), shuffled(schema());
  for (const auto& [tensors, weight] : contributions) ASSERT_TRUE(forwards.add(tensors, weight).ok());
  std::shuffle(contributions.begin(), contributions.end(), random);
  for (const auto& [tensors, weight] : contributions) ASSERT_TRUE(shuffled.add(tensors, weight).ok());
  const TensorMap a = forwards.mean().value(), b = shuffled.mean().value();
  for (const auto& [name, tensor] : a) {
    for (std::size_t i = 0; i < tensor.as<double>().size(); ++i) {
      EXPECT_NEAR(tensor.as<double>()[i], b.at(name).as<double>()[i], 1e-12) << name;
    }
  }
}

TEST(Sum, RefusesAnotherLayoutAndStaysAsItWas) {
  Sum sum(schema());
  ASSERT_TRUE(sum.add(contribution({1.0f, 2.0f}, 3.0, 1.0), 1.0).ok());
  const TensorMap before = sum.total();
  TensorMap wrong_shape = contribution({1.0f, 2.0f}, 3.0, 1.0);
  wrong_shape["b"] = HostTensor(DType::f32, {3});
  EXPECT_THAT(sum.add(wrong_shape, 1.0).error().message, HasSubstr("b"));
  TensorMap missing = contribution({1.0f, 2.0f}, 3.0, 1.0);
  missing.erase("a");
  EXPECT_THAT(sum.add(missing, 1.0).error().message, HasSubstr("a"));
  EXPECT_EQ(sum.total(), before);
  EXPECT_EQ(sum.contributions(), 1);
}

TEST(Sum, RefusesValuesThatAreNotFiniteBeforeAddingAny) {
  Sum sum(schema());
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()};
  for (const float value : bad) {
    const Status added = sum.add(contribution({1.0f, value}, 3.0, 1.0), 1.0);
    ASSERT_FALSE(added.ok());
    EXPECT_EQ(added.error().code, Errc::invalid_argument);
    EXPECT_THAT(added.error().message, HasSubstr("b"));
  }
  EXPECT_THAT(sum.total().at("a").as<double>(), testing::ElementsAre(0.0));
}

TEST(Sum, RefusesAWeightThatIsNotAboveZeroAndFinite) {
  Sum sum(schema());
  for (const double weight :
       {0.0, -1.0, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_FALSE(sum.add(contribution({1.0f, 2.0f}, 3.0, 1.0), weight).ok()) << weight;
  }
  EXPECT_EQ(sum.contributions(), 0);
}

TEST(Sum, HasNoMeanBeforeTheFirstContribution) {
  const auto mean = Sum(schema()).mean();
  ASSERT_FALSE(mean.ok());
  EXPECT_EQ(mean.error().code, Errc::invalid_argument);
}

}  // namespace
}  // namespace trib::tasks
