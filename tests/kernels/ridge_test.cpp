#include "kernels/ridge.h"

#include <gmock/gmock.h>

#include <Eigen/Dense>
#include <numeric>

#include "common/random.h"
#include "kernels/cpu/packed_triangle.h"
#include "kernels/per_sample.h"
#include "tests/kernels/reference.h"

namespace trib::kernels {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Exact = Eigen::Matrix<long double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

double difference(const Matrix& actual, const Exact& expected) {
  const double size = static_cast<double>(expected.norm());
  return static_cast<double>((actual.cast<long double>() - expected).norm()) / (size > 0 ? size : 1.0);
}

// Records with their classes, in host memory.
struct Records {
  std::int64_t d = 0, classes = 0;
  std::vector<float> features;
  std::vector<std::int32_t> labels;

  std::int64_t count() const { return static_cast<std::int64_t>(labels.size()); }
  Exact x() const {
    Exact matrix(count(), d);
    for (Eigen::Index i = 0; i < matrix.size(); ++i) matrix.data()[i] = features[static_cast<std::size_t>(i)];
    return matrix;
  }
  Exact y() const {
    Exact matrix = Exact::Zero(count(), classes);
    for (Eigen::Index i = 0; i < matrix.rows(); ++i) matrix(i, labels[static_cast<std::size_t>(i)]) = 1;
    return matrix;
  }
  // In this order.
  Records chosen(const std::vector<std::int64_t>& indices) const {
    Records some{d, classes, {}, {}};
    for (const std::int64_t i : indices) {
      some.features.insert(some.features.end(), features.begin() + i * d, features.begin() + (i + 1) * d);
      some.labels.push_back(labels[static_cast<std::size_t>(i)]);
    }
    return some;
  }
};

// As a buffer layer gives them: no feature is negative.
Records random_records(std::int64_t n, std::int64_t d, std::int64_t classes, unsigned seed) {
  Records records{d, classes, random_floats(n * d, seed), {}};
  for (float& value : records.features) value = std::max(0.0f, value);
  std::mt19937 random(seed);
  for (std::int64_t i = 0; i < n; ++i)
    records.labels.push_back(static_cast<std::int32_t>(random() % static_cast<unsigned>(classes)));
  return records;
}

class Ridge : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    trib::Result<Device*> opened = open_device(GetParam());
    if (!opened) GTEST_SKIP() << opened.error().message;
    device = *opened;
    stream = device->make_stream();
  }
  void add(const Records& records, const RidgeSums& sums, const std::vector<float>& weights = {}) {
    add_ridge_sums(*stream, matrix(*stream, records.count(), records.d, records.features),
                   indices(*stream, records.labels), sums,
                   weights.empty() ? Tensor() : Tensor::from_host(*stream, std::span<const float>(weights)));
  }
  RidgeSums sums_of(const Records& records, const std::vector<float>& weights = {}) {
    const RidgeSums sums = RidgeSums::zeros(*stream, records.d, records.classes);
    add(records, sums, weights);
    return sums;
  }
  Matrix eigen(const Tensor& from) {
    const HostTensor host = from.to_host(*stream);
    return Eigen::Map<const Matrix>(host.as<double>().data(), from.dim(0), from.element_count() / from.dim(0));
  }
  Matrix full(const Tensor& packed, std::int64_t d) {
    const HostTensor host = packed.to_host(*stream);
    Matrix matrix(d, d);
    for (std::int64_t i = 0; i < d; ++i)
      for (std::int64_t j = i; j < d; ++j)
        matrix(i, j) = matrix(j, i) = host.as<double>()[static_cast<std::size_t>(cpu::packed_row(i, d) + j)];
    return matrix;
  }
  Tensor packed(const Matrix& from) {
    HostTensor host(DType::f64, {packed_triangle_size(from.rows())});
    auto to = host.as<double>().begin();
    for (Eigen::Index i = 0; i < from.rows(); ++i)
      for (Eigen::Index j = i; j < from.cols(); ++j) *to++ = from(i, j);
    return Tensor::from_host(*stream, host);
  }
  Tensor tensor(const Matrix& from) {
    return Tensor::from_host(*stream, HostTensor::from_f64({from.rows(), from.cols()},
                                                           {from.data(), static_cast<std::size_t>(from.size())}));
  }
  Matrix solved(const RidgeSums& sums, double gamma) {
    return eigen(solve_ridge(*stream, sums.gram, sums.class_sums, gamma).value().weights);
  }

  Device* device = nullptr;
  std::unique_ptr<Stream> stream;
};

// (XᵀX + gamma·I)⁻¹XᵀY, turned, in long double.
Exact joint_weights(const Records& records, long double gamma) {
  const Exact x = records.x(), y = records.y();
  return (x.transpose() * x + gamma * Exact::Identity(records.d, records.d))
      .ldlt()
      .solve(x.transpose() * y)
      .transpose();
}

TEST_P(Ridge, SumsAreThoseOfLongDoubles) {
  for (const auto& [n, d] : {std::pair{1, 1}, {2, 3}, {7, 8}, {100, 24}, {385, 53}, {900, 130}, {31, 301}}) {
    const Records records = random_records(n, d, 7, static_cast<unsigned>(n + d));
    const Exact x = records.x(), y = records.y();
    const RidgeSums sums = sums_of(records);
    EXPECT_LT(difference(full(sums.gram, d), x.transpose() * x), 1e-15 * std::sqrt(n) + 1e-16) << n << ", " << d;
    EXPECT_LT(difference(eigen(sums.class_sums), y.transpose() * x), 1e-15 * std::sqrt(n) + 1e-16);
    EXPECT_EQ(eigen(sums.counts).cast<long double>(), Exact(y.colwise().sum().transpose()));
  }
}

TEST_P(Ridge, WeightsCountARecordThatManyTimes) {
  const Records records = random_records(500, 77, 5, 1);
  std::vector<float> weights = random_floats(500, 2);
  for (float& weight : weights) weight = std::abs(weight);
  weights[3] = 0.0f;
  Exact scale(500, 1);
  for (Eigen::Index i = 0; i < 500; ++i) scale(i) = weights[static_cast<std::size_t>(i)];
  const Exact x = records.x(), y = records.y(), scaled = scale.asDiagonal() * x;
  const RidgeSums sums = sums_of(records, weights);
  EXPECT_LT(difference(full(sums.gram, 77), x.transpose() * scaled), 1e-14);
  EXPECT_LT(difference(eigen(sums.class_sums), y.transpose() * scaled), 1e-14);
  EXPECT_LT(difference(eigen(sums.counts), y.transpose() * scale), 1e-14);
}

TEST_P(Ridge, AnyPartsInAnyOrderGiveTheWeightsOfJointTraining) {
  std::mt19937 random(4);
  for (const auto& [n, d, sites] : {std::tuple{300, 40, 3}, {200, 90, 17}, {500, 64, 100}}) {
    const Records records = random_records(n, d, 6, static_cast<unsigned>(d));
    const Exact expected = joint_weights(records, 0.5L);
    for (int repetition = 0; repetition < 3; ++repetition) {
      // Most sites have fewer records than features, and some have none.
      std::vector<std::vector<std::int64_t>> parts(static_cast<std::size_t>(sites));
      for (std::int64_t i = 0; i < n; ++i) parts[random() % parts.size()].push_back(i);
      std::shuffle(parts.begin(), parts.end(), random);
      const RidgeSums total = RidgeSums::zeros(*stream, d, 6);
      Matrix gram = full(total.gram, d), class_sums = eigen(total.class_sums);
      for (std::vector<std::int64_t>& part : parts) {
        std::shuffle(part.begin(), part.end(), random);
        const RidgeSums sums = sums_of(records.chosen(part));
        gram += full(sums.gram, d);
        class_sums += eigen(sums.class_sums);
        add(records.chosen(part), total);
      }
      EXPECT_LT(difference(solved(total, 0.5), expected), 1e-11);
      EXPECT_LT(difference(solved({packed(gram), tensor(class_sums), {}}, 0.5), expected), 1e-11);
    }
  }
}

TEST_P(Ridge, NewClassesExtendTheSumsAndLeaveTheOldOnesAsTheyAre) {
  const Records records = random_records(400, 50, 9, 5);
  std::vector<std::int64_t> old_classes, all_classes;
  for (std::int64_t i = 0; i < 400; ++i)
    (records.labels[static_cast<std::size_t>(i)] < 4 && i < 250 ? old_classes : all_classes).push_back(i);
  Records first = records.chosen(old_classes);
  first.classes = 4;
  const RidgeSums before = sums_of(first), after = before.with_classes(*stream, 9);
  EXPECT_EQ(eigen(after.class_sums).topRows(4), eigen(before.class_sums));
  EXPECT_EQ(eigen(after.counts).topRows(4), eigen(before.counts));
  add(records.chosen(all_classes), after);
  EXPECT_LT(difference(solved(after, 1.0), joint_weights(records, 1.0L)), 1e-12);
  EXPECT_EQ(eigen(after.counts).sum(), 400.0);
}

TEST_P(Ridge, SolvesAsLongDoublesDo) {
  for (const auto& [d, classes] : {std::pair{1, 1}, {2, 3}, {23, 150}, {192, 2}, {193, 10}, {421, 5}, {600, 151}}) {
    const Records records = random_records(2 * d, d, classes, static_cast<unsigned>(d));
    const RidgeSums sums = sums_of(records);
    for (const double gamma : {1e-3, 100.0})
      EXPECT_LT(difference(solved(sums, gamma), joint_weights(records, gamma)), 1e-11) << d << ", gamma " << gamma;
    EXPECT_EQ(solve_ridge(*stream, sums.gram, sums.class_sums, 1.0).value().rank, d);
  }
}

TEST_P(Ridge, ASingularSumGivesItsRankAndTheSolutionOfLeastNorm) {
  for (const auto& [n, d] : {std::pair{5, 30}, {150, 400}, {1, 3}, {260, 450}}) {
    Records records = random_records(n, d, 4, static_cast<unsigned>(n));
    if (n == 150)  // one feature is a copy of another and one is zero: rank-deficient in a second way
      for (std::int64_t i = 0; i < n; ++i) {
        records.features[static_cast<std::size_t>(i * d + 7)] = records.features[static_cast<std::size_t>(i * d + 3)];
        records.features[static_cast<std::size_t>(i * d + 9)] = 0.0f;
      }
    const RidgeSums sums = sums_of(records);
    const Result<RidgeSolution> solution = solve_ridge(*stream, sums.gram, sums.class_sums, 0.0);
    ASSERT_TRUE(solution.ok()) << solution.error().message;
    EXPECT_EQ(solution->rank, n);
    const Exact least_norm = records.x().completeOrthogonalDecomposition().solve(records.y()).transpose();
    EXPECT_LT(difference(eigen(solution->weights), least_norm), 1e-9) << n << ", " << d;
  }
}

TEST_P(Ridge, SaysWhatCannotBeSolved) {
  const auto message = [&](const Matrix& gram, double gamma) {
    const Result<RidgeSolution> solution =
        solve_ridge(*stream, packed(gram), tensor(Matrix::Ones(2, gram.rows())), gamma);
    EXPECT_FALSE(solution.ok());
    return solution.ok() ? "" : solution.error().message;
  };
  Matrix negative = Matrix::Identity(5, 5);
  negative(2, 2) = -0.5;
  EXPECT_THAT(message(negative, 0.25), AllOf(HasSubstr("negative eigenvalue"), HasSubstr("0.25")));
  EXPECT_TRUE(solve_ridge(*stream, packed(negative), tensor(Matrix::Ones(2, 5)), 0.75).ok());
  Matrix indefinite = Matrix::Identity(2, 2);  // with no negative element
  indefinite(0, 1) = indefinite(1, 0) = 2.0;
  EXPECT_THAT(message(indefinite, 0.0), HasSubstr("negative eigenvalue"));
  EXPECT_THAT(message(Matrix::Identity(3, 3), -1.0), HasSubstr("gamma = -1"));
  Matrix nan = Matrix::Identity(3, 3);
  nan(0, 2) = NAN;
  EXPECT_THAT(message(nan, 1.0), HasSubstr("not finite"));
}

TEST_P(Ridge, NoRecordsAtAllGiveNoWeights) {
  const RidgeSums none = RidgeSums::zeros(*stream, 30, 2);
  const RidgeSolution solution = solve_ridge(*stream, none.gram, none.class_sums, 0.0).value();
  EXPECT_EQ(solution.rank, 0);
  EXPECT_EQ(eigen(solution.weights), Matrix::Zero(2, 30));
}

TEST_P(Ridge, LabelsOutOfRangeAndShapesThatDoNotFitThrow) {
  Records records = random_records(4, 6, 3, 1);
  const RidgeSums sums = RidgeSums::zeros(*stream, 6, 3), other = RidgeSums::zeros(*stream, 5, 3);
  records.labels[2] = 3;
  EXPECT_THROW(add(records, sums), std::invalid_argument);
  records.labels[2] = -1;
  EXPECT_THROW(add(records, sums), std::invalid_argument);
  records.labels[2] = 0;
  EXPECT_THROW(add(records, other), std::invalid_argument);
  EXPECT_THROW(packed_triangle_order(7), std::invalid_argument);
  for (const std::int64_t d : {0, 1, 2, 17, 5000, 100'000})
    EXPECT_EQ(packed_triangle_order(packed_triangle_size(d)), d);
}

TEST_P(Ridge, SweepScoresAsTheHatMatrixDoes) {
  for (const auto& [n, d, classes] : {std::tuple{3, 1, 2}, {5, 2, 2}, {120, 40, 5}, {90, 130, 3}, {400, 300, 4}}) {
    const Records records = random_records(n, d, classes, static_cast<unsigned>(d));
    const RidgeSums sums = sums_of(records);
    const RidgeSweep sweep = RidgeSweep::decompose(*stream, sums.gram, sums.class_sums).value();
    const Matrix x = records.x().cast<double>(), y = records.y().cast<double>(), gram = x.transpose() * x;
    const Eigen::SelfAdjointEigenSolver<Matrix> reference(gram, Eigen::EigenvaluesOnly);
    for (Eigen::Index i = 0; i < d; ++i)
      EXPECT_NEAR(sweep.eigenvalues()[static_cast<std::size_t>(i)], reference.eigenvalues()(i), 1e-12 * gram.norm());
    for (const double gamma : {0.3, 10.0, 1000.0}) {
      const Matrix inverse = (gram + gamma * Matrix::Identity(d, d)).inverse(), hat = x * inverse * x.transpose(),
                   weights = inverse * x.transpose() * y;
      const RidgeSweep::Score score = sweep.score(gamma, n, n).value();
      const double residual = (y - x * weights).squaredNorm(), left = 1.0 - hat.trace() / n;
      EXPECT_NEAR(score.degrees_of_freedom, hat.trace(), 1e-10 * n);
      EXPECT_NEAR(score.residual, residual, 1e-10 * n);
      EXPECT_NEAR(score.gcv, residual / n / (left * left), 1e-8 * score.gcv);
      EXPECT_NEAR(score.squared_norm, weights.squaredNorm(), 1e-10 * weights.squaredNorm());
      const auto host = cpu_device().make_stream();
      const HostTensor at_gamma = sweep.weights(gamma).value().to_host(*host);
      EXPECT_LT(
          difference(Eigen::Map<const Matrix>(at_gamma.as<double>().data(), classes, d), joint_weights(records, gamma)),
          1e-10);
    }
  }
}

TEST_P(Ridge, ASweepRefusesAGammaThatLeavesTheMatrixIndefinite) {
  const Records records = random_records(10, 30, 3, 1);
  const RidgeSums sums = sums_of(records);
  const RidgeSweep sweep = RidgeSweep::decompose(*stream, sums.gram, sums.class_sums).value();
  EXPECT_THAT(sweep.score(0.0, 10, 10).error().message, AllOf(HasSubstr("singular"), HasSubstr("smallest eigenvalue")));
  EXPECT_THAT(sweep.weights(-1.0).error().message, HasSubstr("gamma = -1"));
  EXPECT_TRUE(sweep.score(1e-3, 10, 10).ok());
}

TEST_P(Ridge, FeaturesOfTheBufferLayerAreTheSameInAnyBatch) {
  const RandomKey key = RandomKey::from_seed(7);
  for (const auto& [n, d_in, width] : {std::tuple{1, 1, 1}, {3, 5, 70}, {130, 64, 200}, {65, 257, 49}}) {
    const RandomFeatures layer(*stream, key.bytes(), 3, d_in, width);
    const std::vector<float> x = random_floats(n * d_in, 5);
    const Tensor input = matrix(*stream, n, d_in, x), features(*device, DType::f32, {n, width});
    layer.apply(*stream, input, features);
    Exact factor(n, d_in), weights(d_in, width);
    const std::vector<float> w = host(*stream, layer.weights());
    for (Eigen::Index i = 0; i < factor.size(); ++i) factor.data()[i] = x[static_cast<std::size_t>(i)];
    for (Eigen::Index i = 0; i < weights.size(); ++i) weights.data()[i] = w[static_cast<std::size_t>(i)];
    const Exact expected = (factor * weights).cwiseMax(0.0L);
    const std::vector<float> actual = host(*stream, features);
    for (Eigen::Index i = 0; i < expected.size(); ++i)  // rounded once
      ASSERT_NEAR(actual[static_cast<std::size_t>(i)], static_cast<float>(expected.data()[i]),
                  1e-7 * static_cast<double>(expected.data()[i]) + 1e-14);
    for (std::int64_t i = 0; i < n; i += 7) {
      const Tensor one(*device, DType::f32, {1, width});
      layer.apply(*stream, input.rows(i, 1), one);
      EXPECT_EQ(one.to_host(*stream), features.rows(i, 1).to_host(*stream)) << "row " << i;
    }
    // And on the CPU.
    const auto cpu_stream = cpu_device().make_stream();
    const RandomFeatures on_cpu(*cpu_stream, key.bytes(), 3, d_in, width);
    const Tensor cpu_features(cpu_device(), DType::f32, {n, width});
    on_cpu.apply(*cpu_stream, matrix(*cpu_stream, n, d_in, x), cpu_features);
    EXPECT_EQ(on_cpu.weights().to_host(*cpu_stream), layer.weights().to_host(*stream));
    EXPECT_EQ(cpu_features.to_host(*cpu_stream), features.to_host(*stream));
  }
}

TEST_P(Ridge, TheBufferLayersWeightsAreTheNormalsOfItsKey) {
  const RandomKey key = RandomKey::from_seed(8);
  const RandomFeatures layer(*stream, key.bytes(), 5, 48, 1000);
  // add_gaussian_noise draws the same stream by a path of its own.
  const auto cpu_stream = cpu_device().make_stream();
  const Tensor noise = Tensor::zeros(*cpu_stream, DType::f32, {48, 1000});
  add_gaussian_noise(*cpu_stream, 1.0 / 12.0, key.bytes(), 5, 0, noise);
  EXPECT_EQ(layer.weights().to_host(*stream), noise.to_host(*cpu_stream));
  const RandomFeatures other(*stream, RandomKey::from_seed(9).bytes(), 5, 48, 1000);
  EXPECT_NE(layer.weights().to_host(*stream), other.weights().to_host(*stream));
  // The scale that the header promises.
  const Tensor x = matrix(*stream, 200, 48, random_floats(200 * 48, 1)), features(*device, DType::f32, {200, 1000});
  layer.apply(*stream, x, features);
  double squares = 0;
  for (const float value : host(*stream, features)) squares += static_cast<double>(value) * value;
  EXPECT_NEAR(squares / (200.0 * 1000.0), 48.0 / (6.0 * 48.0), 0.01);
}

TEST_P(Ridge, AFeatureThatIsNoNumberStaysOne) {
  const RandomFeatures layer(*stream, RandomKey::from_seed(1).bytes(), 0, 4, 30);
  const Tensor features(*device, DType::f32, {2, 30});
  layer.apply(*stream, matrix(*stream, 2, 4, {1, 2, 3, 4, 1, NAN, 3, 4}), features);
  EXPECT_TRUE(features.rows(0, 1).to_host(*stream).all_finite());
  for (const float value : host(*stream, features.rows(1, 1))) EXPECT_TRUE(std::isnan(value));
}

INSTANTIATE_TEST_SUITE_P(Devices, Ridge, testing::Values("cpu", "cuda"),
                         [](const auto& info) { return std::string(info.param); });

TEST(SymmetricNoiseNorm, IsExceededAsRarelyAsItSays) {
  std::mt19937 random(3);
  std::normal_distribution<double> normal(0.0, 0.7);
  for (const std::int64_t d : {1, 8, 40}) {
    const double bound = symmetric_noise_norm(0.7, d, 0.05);
    int above = 0;
    for (int repetition = 0; repetition < 400; ++repetition) {
      Matrix noise(d, d);
      for (Eigen::Index i = 0; i < d; ++i)
        for (Eigen::Index j = i; j < d; ++j) noise(i, j) = noise(j, i) = normal(random);
      const Eigen::SelfAdjointEigenSolver<Matrix> solver(noise, Eigen::EigenvaluesOnly);
      above += solver.eigenvalues().cwiseAbs().maxCoeff() > bound;
    }
    EXPECT_LE(above, 400 * 0.05) << d;
  }
  // And no looser than it needs to be: the norm itself is near 2·stddev·√d.
  EXPECT_LT(symmetric_noise_norm(1.0, 5000, 1e-6), 1.06 * 2.0 * std::sqrt(5000.0));
}

TEST(FloatSums, AreTheSameBitsOnEveryInstructionSet) {
  const std::int64_t n = 100, d = 53;
  const std::vector<float> x = random_floats(n * d, 1);
  std::vector<std::vector<double>> results;
  for (const cpu::SimdKernels& level : cpu::simd_levels()) {
    const std::int64_t panels = (d + level.panel_width - 1) / level.panel_width;
    std::vector<double> packed(static_cast<std::size_t>(panels * level.panel_width * n + 8)),
        triangle(static_cast<std::size_t>(packed_triangle_size(d)), 0.0);
    level.pack_panels_f32(x.data(), d, nullptr, n, d, 0, panels, packed.data());
    level.add_panels(1.0, packed.data(), packed.data(), n, triangle.data(), d, 0, panels);
    results.push_back(triangle);
  }
  for (const std::vector<double>& result : results) EXPECT_EQ(result, results.front());
}

}  // namespace
}  // namespace trib::kernels
