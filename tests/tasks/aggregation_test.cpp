#include "tasks/lora_text/aggregation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <Eigen/Dense>
#include <cmath>

#include "common/random.h"

namespace trib::tasks::lora_text {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Layer = models::TextClassifier::AdaptedLayer;

Matrix to_matrix(const HostTensor& tensor) {
  Matrix matrix(tensor.shape()[0], tensor.shape()[1]);
  for (Eigen::Index i = 0; i < matrix.size(); ++i) {
    const auto at = static_cast<std::size_t>(i);
    matrix.data()[i] = tensor.dtype() == DType::f64 ? tensor.as<double>()[at] : tensor.as<float>()[at];
  }
  return matrix;
}

HostTensor to_tensor(const Matrix& matrix) {
  return HostTensor::from_f64({matrix.rows(), matrix.cols()}, {matrix.data(), static_cast<std::size_t>(matrix.size())});
}

// Every entry within 1e-6 of the largest entry of `expected`.
testing::AssertionResult nearly_equal(const Matrix& actual, const Matrix& expected, double tolerance = 1e-6) {
  const double difference = (actual - expected).cwiseAbs().maxCoeff();
  const double scale = std::max(1e-12, expected.cwiseAbs().maxCoeff());
  if (difference <= tolerance * scale) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "differs by " << difference << " at scale " << scale;
}

testing::AssertionResult has_orthonormal_rows(const Matrix& a) {
  return nearly_equal(a * a.transpose(), Matrix::Identity(a.rows(), a.rows()));
}

class AggregationTest : public testing::Test {
 protected:
  AggregationTest() : stream_(kernels::cpu_device().make_stream()), random_(RandomKey::from_seed(11)) {
    // m > n, m < n and m = n.
    layout_.layers = {{"tall", 40, 24}, {"wide", 24, 56}, {"square", 32, 32}};
    layout_.rank = 4;
  }

  Matrix gaussian(Eigen::Index rows, Eigen::Index columns) {
    return Matrix::NullaryExpr(rows, columns, [&] {
      return std::sqrt(-2.0 * std::log(random_.uniform())) * std::cos(2.0 * M_PI * random_.uniform());
    });
  }

  // What sites might have sent on average: B near the state's, A (for fedavg) too.
  TensorMap drifted_mean(const TensorMap& state, double size) {
    TensorMap mean;
    for (const Layer& layer : layout_.layers) {
      for (const std::string& name : {a_name(layer), b_name(layer)}) {
        if (!state.contains(name)) continue;
        const Matrix now = to_matrix(state.at(name));
        mean[name] = to_tensor(now + size * gaussian(now.rows(), now.cols()));
      }
    }
    return mean;
  }

  TensorMap explicit_state(const TensorMap& initial_a, const TensorMap& state) {
    return explicit_adapters(*stream_, layout_, initial_a, state).value();
  }

  static Matrix a_of(const TensorMap& adapters, const Layer& layer) { return to_matrix(adapters.at(a_name(layer))); }
  static Matrix b_of(const TensorMap& adapters, const Layer& layer) { return to_matrix(adapters.at(b_name(layer))); }
  static Matrix product_of(const TensorMap& adapters, const Layer& layer) {
    return b_of(adapters, layer) * a_of(adapters, layer);
  }

  std::unique_ptr<kernels::Stream> stream_;
  ChaCha20Random random_;
  AdapterLayout layout_;
};

TEST_F(AggregationTest, DrawsOrthonormalRowsWhereTheAlgorithmWantsThem) {
  for (const Algorithm algorithm : {Algorithm::fedsvd, Algorithm::ffa_orthonormal}) {
    const TensorMap drawn = draw_initial_a(*stream_, algorithm, layout_, 3);
    for (const Layer& layer : layout_.layers) EXPECT_TRUE(has_orthonormal_rows(a_of(drawn, layer))) << layer.name;
    EXPECT_EQ(drawn, draw_initial_a(*stream_, algorithm, layout_, 3));
    EXPECT_NE(drawn, draw_initial_a(*stream_, algorithm, layout_, 4));
  }
}

TEST_F(AggregationTest, DrawsPeftsKaimingUniformOtherwise) {
  layout_.layers = {{"large", 64, 4096}};
  for (const Algorithm algorithm : {Algorithm::ffa, Algorithm::fedavg}) {
    const Matrix a = a_of(draw_initial_a(*stream_, algorithm, layout_, 3), layout_.layers[0]);
    const double bound = 1.0 / std::sqrt(4096.0);
    EXPECT_LE(a.cwiseAbs().maxCoeff(), bound);
    EXPECT_NEAR(a.cwiseAbs().maxCoeff(), bound, 0.01 * bound);
    EXPECT_NEAR(a.mean(), 0.0, 0.02 * bound);
    EXPECT_NEAR(a.squaredNorm() / static_cast<double>(a.size()), bound * bound / 3.0, 0.03 * bound * bound);
  }
}

TEST_F(AggregationTest, StartsFromAZeroUpdateForEveryAlgorithm) {
  for (const Algorithm algorithm : {Algorithm::fedsvd, Algorithm::ffa, Algorithm::ffa_orthonormal, Algorithm::fedavg}) {
    const TensorMap initial_a = draw_initial_a(*stream_, algorithm, layout_, 3);
    const TensorMap adapters =
        explicit_state(initial_a, make_aggregation(algorithm, layout_)->initial_state(initial_a));
    for (const Layer& layer : layout_.layers) {
      EXPECT_TRUE(product_of(adapters, layer).isZero(0.0)) << to_string(algorithm);
      EXPECT_EQ(adapters.at(a_name(layer)).as<float>()[5], initial_a.at(a_name(layer)).as<float>()[5]);
    }
  }
}

class FedSvdTest : public AggregationTest {
 protected:
  FedSvdTest()
      : aggregation_(make_aggregation(Algorithm::fedsvd, layout_)),
        initial_a_(draw_initial_a(*stream_, Algorithm::fedsvd, layout_, 5)),
        state_(aggregation_->initial_state(initial_a_)) {}

  void advance(const TensorMap& mean) { state_ = aggregation_->next_state(*stream_, initial_a_, state_, mean).value(); }

  std::unique_ptr<Aggregation> aggregation_;
  TensorMap initial_a_, state_;
};

TEST_F(FedSvdTest, LeavesTheProductUnchangedAndARowsOrthonormalOverManyRounds) {
  for (int round = 0; round < 30; ++round) {
    const TensorMap before = explicit_state(initial_a_, state_);
    const TensorMap mean = drifted_mean(state_, 0.1);
    advance(mean);
    const TensorMap after = explicit_state(initial_a_, state_);
    for (const Layer& layer : layout_.layers) {
      const Matrix expected = to_matrix(mean.at(b_name(layer))) * a_of(before, layer);
      ASSERT_TRUE(nearly_equal(product_of(after, layer), expected)) << layer.name << " in round " << round;
      ASSERT_TRUE(has_orthonormal_rows(a_of(after, layer))) << layer.name << " in round " << round;
    }
  }
}

TEST_F(FedSvdTest, BringsTheProductIntoItsSingularValueDecomposition) {
  advance(drifted_mean(state_, 1.0));
  const TensorMap adapters = explicit_state(initial_a_, state_);
  for (const Layer& layer : layout_.layers) {
    const Matrix b = b_of(adapters, layer);
    const Eigen::VectorXd expected =
        Eigen::JacobiSVD<Eigen::MatrixXd>(product_of(adapters, layer)).singularValues().head(layout_.rank);
    const Matrix gram = b.transpose() * b;  // U·S has orthogonal columns of length S
    const Matrix squared = expected.cwiseAbs2().asDiagonal();
    EXPECT_TRUE(nearly_equal(gram, squared, 1e-5)) << layer.name;
  }
}

TEST_F(FedSvdTest, KeepsTheRowsOfAInTheOldRowSpace) {
  for (int round = 0; round < 10; ++round) advance(drifted_mean(state_, 0.5));
  const TensorMap adapters = explicit_state(initial_a_, state_);
  for (const Layer& layer : layout_.layers) {
    const Matrix a0 = a_of(initial_a_, layer), a = a_of(adapters, layer);
    EXPECT_TRUE(nearly_equal(a * a0.transpose() * a0, a)) << layer.name;
    EXPECT_GT((a - a0).cwiseAbs().maxCoeff(), 0.01) << layer.name << ": the rows did turn inside it";
  }
}

// The paper's own form: a dense SVD of the product, round after round, without any rotation.
TEST_F(FedSvdTest, TheRotationOfA0IsTheDirectlyRefactorizedA) {
  std::vector<Matrix> direct;
  for (const Layer& layer : layout_.layers) direct.push_back(a_of(initial_a_, layer));
  for (int round = 0; round < 8; ++round) {
    const TensorMap mean = drifted_mean(state_, 0.5);
    advance(mean);
    for (std::size_t i = 0; i < direct.size(); ++i) {
      const Eigen::MatrixXd dense = to_matrix(mean.at(b_name(layout_.layers[i]))) * direct[i];
      const Eigen::JacobiSVD<Eigen::MatrixXd> svd(dense, Eigen::ComputeThinU | Eigen::ComputeThinV);
      direct[i] = svd.matrixV().leftCols(layout_.rank).transpose();
      for (Eigen::Index row = 0; row < layout_.rank; ++row) {
        Eigen::Index largest = 0;
        direct[i].row(row).cwiseAbs().maxCoeff(&largest);
        if (direct[i](row, largest) < 0.0) direct[i].row(row) *= -1.0;
      }
    }
  }
  const TensorMap adapters = explicit_state(initial_a_, state_);
  for (std::size_t i = 0; i < direct.size(); ++i) {
    EXPECT_TRUE(nearly_equal(a_of(adapters, layout_.layers[i]), direct[i], 1e-5)) << layout_.layers[i].name;
  }
}

TEST_F(FedSvdTest, KeepsRowsOrthonormalAndTheProductWhenBIsRankDeficient) {
  for (const Eigen::Index rank : {0, 1, 2}) {
    TensorMap mean;
    for (const Layer& layer : layout_.layers) {
      mean[b_name(layer)] = to_tensor(gaussian(layer.out_features, rank) * gaussian(rank, layout_.rank));
    }
    const TensorMap before = explicit_state(initial_a_, state_);
    advance(mean);
    const TensorMap after = explicit_state(initial_a_, state_);
    for (const Layer& layer : layout_.layers) {
      const Matrix expected = to_matrix(mean.at(b_name(layer))) * a_of(before, layer);
      EXPECT_TRUE(nearly_equal(product_of(after, layer), expected)) << layer.name << " at rank " << rank;
      EXPECT_TRUE(has_orthonormal_rows(a_of(after, layer))) << layer.name << " at rank " << rank;
    }
  }
}

TEST_F(FedSvdTest, TheRotationStaysOrthogonalToFloat64OverAThousandRounds) {
  layout_.layers.resize(1);
  aggregation_ = make_aggregation(Algorithm::fedsvd, layout_);
  for (int round = 0; round < 1000; ++round) advance(drifted_mean(state_, 0.2));
  const Matrix rotation = to_matrix(state_.at(rotation_name(layout_.layers[0])));
  EXPECT_TRUE(nearly_equal(rotation * rotation.transpose(), Matrix::Identity(4, 4), 1e-13));
}

TEST_F(FedSvdTest, RemembersNothingThatIsNotInTheState) {
  advance(drifted_mean(state_, 0.5));
  const TensorMap mean = drifted_mean(state_, 0.5);
  const auto fresh = make_aggregation(Algorithm::fedsvd, layout_);
  EXPECT_EQ(aggregation_->next_state(*stream_, initial_a_, state_, mean).value(),
            fresh->next_state(*stream_, initial_a_, state_, mean).value());
}

TEST_F(FedSvdTest, SaysWhichTensorTheMeanLacks) {
  TensorMap mean = drifted_mean(state_, 0.5);
  mean.erase("wide.lora_B");
  const auto next = aggregation_->next_state(*stream_, initial_a_, state_, mean);
  ASSERT_FALSE(next.ok());
  EXPECT_THAT(next.error().message, testing::HasSubstr("wide.lora_B"));
}

// For one algorithm: the average's product against the explicitly averaged products.
TEST_F(AggregationTest, AveragesProductsAndNotFactorsWhereAIsFixed) {
  for (const Algorithm algorithm : {Algorithm::fedsvd, Algorithm::ffa, Algorithm::ffa_orthonormal}) {
    const TensorMap initial_a = draw_initial_a(*stream_, algorithm, layout_, 5);
    const auto aggregation = make_aggregation(algorithm, layout_);
    TensorMap state = aggregation->initial_state(initial_a), average;
    std::vector<Matrix> expected;
    for (int round = 0; round < 20; ++round) {
      state = aggregation->next_state(*stream_, initial_a, state, drifted_mean(state, 0.5)).value();
      const double decay = round == 0 ? 0.0 : 0.9;
      ASSERT_TRUE(aggregation->add_to_average(*stream_, average, state, decay).ok());
      const TensorMap adapters = explicit_state(initial_a, state);
      for (std::size_t i = 0; i < layout_.layers.size(); ++i) {
        const Matrix product = product_of(adapters, layout_.layers[i]);
        if (round == 0) {
          expected.push_back(product);
        } else {
          expected[i] = decay * expected[i] + (1.0 - decay) * product;
        }
      }
    }
    const TensorMap averaged = explicit_state(initial_a, average);
    for (std::size_t i = 0; i < layout_.layers.size(); ++i) {
      EXPECT_TRUE(nearly_equal(product_of(averaged, layout_.layers[i]), expected[i]))
          << to_string(algorithm) << " " << layout_.layers[i].name;
    }
  }
}

TEST_F(AggregationTest, FedAvgTakesTheMeanOfEachFactor) {
  const TensorMap initial_a = draw_initial_a(*stream_, Algorithm::fedavg, layout_, 5);
  const auto aggregation = make_aggregation(Algorithm::fedavg, layout_);
  const TensorMap mean = drifted_mean(aggregation->initial_state(initial_a), 0.5);
  const TensorMap state =
      aggregation->next_state(*stream_, initial_a, aggregation->initial_state(initial_a), mean).value();
  for (const auto& [name, tensor] : mean) EXPECT_TRUE(nearly_equal(to_matrix(state.at(name)), to_matrix(tensor)));
}

TEST_F(AggregationTest, FedAvgKeepsTheBestApproximationOfItsRankOfTheAverageOfProducts) {
  const TensorMap initial_a = draw_initial_a(*stream_, Algorithm::fedavg, layout_, 5);
  const auto aggregation = make_aggregation(Algorithm::fedavg, layout_);
  TensorMap state = aggregation->initial_state(initial_a), average;
  std::vector<Matrix> kept(layout_.layers.size());
  for (int round = 0; round < 12; ++round) {
    state = aggregation->next_state(*stream_, initial_a, state, drifted_mean(state, 0.2)).value();
    const double decay = round == 0 ? 0.0 : 0.7;
    ASSERT_TRUE(aggregation->add_to_average(*stream_, average, state, decay).ok());
    for (std::size_t i = 0; i < layout_.layers.size(); ++i) {
      const Matrix product = product_of(state, layout_.layers[i]);
      const Eigen::MatrixXd sum = round == 0 ? product : Matrix(decay * kept[i] + (1.0 - decay) * product);
      const Eigen::JacobiSVD<Eigen::MatrixXd> svd(sum, Eigen::ComputeThinU | Eigen::ComputeThinV);
      const Eigen::Index r = layout_.rank;
      kept[i] =
          svd.matrixU().leftCols(r) * svd.singularValues().head(r).asDiagonal() * svd.matrixV().leftCols(r).transpose();
    }
  }
  const TensorMap averaged = explicit_state({}, average);
  for (std::size_t i = 0; i < layout_.layers.size(); ++i) {
    EXPECT_TRUE(nearly_equal(product_of(averaged, layout_.layers[i]), kept[i], 1e-5)) << layout_.layers[i].name;
    EXPECT_EQ(a_of(averaged, layout_.layers[i]).rows(), layout_.rank);
  }
}

// What we derived: with noise and steps that do not look at the basis, FedSVD is a fixed orthonormal A. Here the steps
// are made the same in both by giving each algorithm the same change of the product.
TEST_F(AggregationTest, FedSvdAndAFixedOrthonormalAGiveTheSameProductForTheSameSteps) {
  const TensorMap initial_a = draw_initial_a(*stream_, Algorithm::fedsvd, layout_, 5);
  const auto fedsvd = make_aggregation(Algorithm::fedsvd, layout_);
  const auto fixed = make_aggregation(Algorithm::ffa_orthonormal, layout_);
  TensorMap rotating = fedsvd->initial_state(initial_a), still = fixed->initial_state(initial_a);
  for (int round = 0; round < 10; ++round) {
    TensorMap rotating_mean, still_mean;
    for (const Layer& layer : layout_.layers) {
      // −∂L/∂ΔW, the same matrix for both; B's own step is that times Aᵀ.
      const Matrix descent = 0.1 * gaussian(layer.out_features, layer.in_features);
      for (const auto& [state, mean] : {std::pair(&rotating, &rotating_mean), std::pair(&still, &still_mean)}) {
        const TensorMap adapters = explicit_state(initial_a, *state);
        (*mean)[b_name(layer)] = to_tensor(b_of(adapters, layer) + descent * a_of(adapters, layer).transpose());
      }
    }
    rotating = fedsvd->next_state(*stream_, initial_a, rotating, rotating_mean).value();
    still = fixed->next_state(*stream_, initial_a, still, still_mean).value();
  }
  const TensorMap a = explicit_state(initial_a, rotating), b = explicit_state(initial_a, still);
  for (const Layer& layer : layout_.layers) EXPECT_TRUE(nearly_equal(product_of(a, layer), product_of(b, layer), 1e-5));
}

}  // namespace
}  // namespace trib::tasks::lora_text
