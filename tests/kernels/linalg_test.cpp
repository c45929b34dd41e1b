#include "kernels/linalg.h"

#include <Eigen/Dense>

#include "common/random.h"
#include "tests/kernels/reference.h"

namespace trib::kernels {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// The aggregator computes on the CPU or on a GPU.
class Linalg : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    trib::Result<Device*> opened = open_device(GetParam());
    if (!opened) GTEST_SKIP() << opened.error().message;
    device = *opened;
    stream = device->make_stream();
  }
  Tensor tensor(const Matrix& from, DType dtype = DType::f64) {
    HostTensor host(dtype, {from.rows(), from.cols()});
    for (Eigen::Index i = 0; i < from.size(); ++i) {
      const auto at = static_cast<std::size_t>(i);
      if (dtype == DType::f64) host.as<double>()[at] = from.data()[i];
      if (dtype == DType::f32) host.as<float>()[at] = static_cast<float>(from.data()[i]);
    }
    return Tensor::from_host(*stream, host);
  }
  Matrix eigen(const Tensor& from) {
    const HostTensor host = from.to_host(*stream);
    Matrix to(from.dim(0), from.dim(1));
    for (Eigen::Index i = 0; i < to.size(); ++i) {
      const auto at = static_cast<std::size_t>(i);
      to.data()[i] = from.dtype() == DType::f64 ? host.as<double>()[at] : static_cast<double>(host.as<float>()[at]);
    }
    return to;
  }
  Matrix gaussian(Eigen::Index rows, Eigen::Index columns, unsigned seed) {
    const auto values = random_floats(rows * columns, seed);
    Matrix m(rows, columns);
    for (Eigen::Index i = 0; i < m.size(); ++i) m.data()[i] = values[static_cast<std::size_t>(i)];
    return m;
  }
  Matrix orthonormal(Eigen::Index rows, Eigen::Index columns, unsigned seed) {
    const Tensor a(*device, DType::f64, {rows, columns});
    random_orthonormal_rows(*stream, RandomKey::from_seed(seed).bytes(), 0, a);
    return eigen(a);
  }
  // Refactorizes B·A and checks everything that must hold whatever B and A are; returns B, A and the rotation.
  struct Result {
    Matrix b, a, rotation;
  };
  Result refactorized(const Matrix& b, const Matrix& a, double tolerance = 1e-12, DType dtype = DType::f64) {
    const Refactorization adapter{tensor(b, dtype), tensor(a, dtype),
                                  Tensor(*device, DType::f64, {a.rows(), a.rows()})};
    refactorize(*stream, {{adapter}});
    Result result{eigen(adapter.b), eigen(adapter.a), eigen(adapter.rotation)};
    const double size = std::max(1.0, (b * a).norm());
    EXPECT_LT((result.b * result.a - b * a).norm() / size, tolerance) << "the product changed";
    const Matrix identity = Matrix::Identity(a.rows(), a.rows());
    EXPECT_LT((result.a * result.a.transpose() - identity).norm(), tolerance * 10) << "A's rows are not orthonormal";
    EXPECT_LT((result.rotation * result.rotation.transpose() - identity).norm(), 1e-12);
    const Matrix gram = result.b.transpose() * result.b;
    EXPECT_LT((gram - Matrix(gram.diagonal().asDiagonal())).norm(), tolerance * std::max(1.0, gram.norm()))
        << "B's columns are not orthogonal";
    for (Eigen::Index i = 0; i + 1 < a.rows(); ++i)
      EXPECT_GE(gram(i, i), gram(i + 1, i + 1) - tolerance * std::max(1.0, gram.norm()))
          << "singular values do not descend";
    for (Eigen::Index i = 0; i < a.rows(); ++i) {
      Eigen::Index at = 0;
      result.a.row(i).cwiseAbs().maxCoeff(&at);
      EXPECT_GT(result.a(i, at), 0.0) << "sign rule, row " << i;
    }
    return result;
  }

  Device* device = nullptr;
  std::unique_ptr<Stream> stream;
};

INSTANTIATE_TEST_SUITE_P(On, Linalg, testing::Values("cpu", "cuda"), [](const auto& info) { return info.param; });

TEST_P(Linalg, RefactorizationHasTheSingularValuesThatEigenFinds) {
  const Matrix b = gaussian(40, 8, 1), a = orthonormal(8, 56, 2);
  const Result result = refactorized(b, a);
  const Eigen::VectorXd expected = Eigen::JacobiSVD<Eigen::MatrixXd>(b * a).singularValues().head(8);
  EXPECT_LT((result.b.colwise().norm().transpose() - expected).norm(), 1e-11);
  EXPECT_LT((result.rotation * a - result.a).norm(), 1e-12) << "A is rotation·A";
}

TEST_P(Linalg, RefactorizationServesTallWideAndRankOneShapes) {
  for (auto [m, n, r] :
       {std::array<Eigen::Index, 3>{8, 8, 8}, {256, 1024, 8}, {1024, 256, 16}, {5, 9, 1}, {30, 4, 3}, {100, 64, 64}})
    refactorized(gaussian(m, r, 1), orthonormal(r, n, 2), 1e-11);
}

TEST_P(Linalg, AnAThatIsNotOrthonormalIsMadeSoFirst) {
  refactorized(gaussian(20, 4, 1), gaussian(4, 30, 2), 1e-11);
}

TEST_P(Linalg, ARankDeficientBKeepsTheRowsOfAOrthonormal) {
  const Matrix a = orthonormal(6, 30, 3);
  Matrix b = gaussian(20, 2, 4) * gaussian(2, 6, 5);
  EXPECT_LT(refactorized(b, a).b.rightCols(4).norm(), 1e-12);
  refactorized(Matrix::Zero(20, 6), a);
  b.setZero();
  b.col(3).setOnes();
  refactorized(b, a);
}

TEST_P(Linalg, DependentRowsOfAAreReplacedByOrthonormalOnes) {
  Matrix a = gaussian(4, 30, 1);
  a.row(2) = 2 * a.row(0);
  a.row(3).setZero();
  refactorized(gaussian(20, 4, 2), a, 1e-11);
}

TEST_P(Linalg, RowsOfTheNewAStayInTheRowSpaceOfTheOld) {
  const Matrix a = orthonormal(8, 64, 1);
  const Result result = refactorized(gaussian(32, 8, 2), a);
  EXPECT_LT((result.a - result.a * a.transpose() * a).norm(), 1e-12);
}

TEST_P(Linalg, ScalesFarApartKeepTheirRelativeAccuracy) {
  Matrix b = orthonormal(4, 50, 1).transpose();
  const double scales[] = {1e6, 1.0, 1e-6, 1e-12};
  for (Eigen::Index j = 0; j < 4; ++j) b.col(j) *= scales[j];
  const Refactorization adapter{tensor(b * orthonormal(4, 4, 2)), tensor(orthonormal(4, 20, 3)), {}};
  refactorize(*stream, {{adapter}});
  const Eigen::VectorXd norms = eigen(adapter.b).colwise().norm();
  // The mixing above already loses what lies below 1e6·2⁻⁵².
  for (Eigen::Index j = 0; j < 3; ++j) EXPECT_NEAR(norms(j) / scales[j], 1.0, 1e-3) << j;
}

TEST_P(Linalg, Float32FactorsArePreservedToTheirPrecision) {
  refactorized(gaussian(64, 8, 1), orthonormal(8, 48, 2), 1e-6, DType::f32);
}

TEST_P(Linalg, RefactorizingTwiceChangesNothingMore) {
  const Result once = refactorized(gaussian(64, 8, 1), orthonormal(8, 48, 2));
  const Result twice = refactorized(once.b, once.a);
  EXPECT_LT((twice.b - once.b).norm(), 1e-11);
  EXPECT_LT((twice.a - once.a).norm(), 1e-12);
}

TEST_P(Linalg, ManyAdaptersGiveWhatEachGivesAlone) {
  std::vector<Refactorization> together;
  for (unsigned i = 0; i < 4; ++i)
    together.push_back({tensor(gaussian(16 + i, 4, i)), tensor(orthonormal(4, 20, i)), {}});
  refactorize(*stream, together);
  for (unsigned i = 0; i < 4; ++i) {
    const Refactorization alone{tensor(gaussian(16 + i, 4, i)), tensor(orthonormal(4, 20, i)), {}};
    refactorize(*stream, {{alone}});
    EXPECT_EQ(eigen(alone.b), eigen(together[i].b));
    EXPECT_EQ(eigen(alone.a), eigen(together[i].a));
  }
}

TEST_P(Linalg, RefusesWhatIsNotFiniteOrDoesNotFit) {
  Matrix b = gaussian(8, 4, 1);
  b(2, 2) = NAN;
  EXPECT_THROW(refactorize(*stream, {{Refactorization{tensor(b), tensor(orthonormal(4, 8, 1)), {}}}}),
               std::invalid_argument);
  EXPECT_THROW(refactorize(*stream, {{Refactorization{tensor(gaussian(8, 3, 1)), tensor(orthonormal(4, 8, 1)), {}}}}),
               std::invalid_argument);
  EXPECT_THROW(refactorize(*stream, {{Refactorization{tensor(gaussian(3, 4, 1)), tensor(orthonormal(4, 8, 1)), {}}}}),
               std::invalid_argument);
}

TEST_P(Linalg, LqFactorizationGivesBackTheMatrix) {
  const Matrix a = gaussian(5, 17, 1);
  const Tensor q = tensor(a), lower(*device, DType::f64, {5, 5});
  orthonormalize_rows(*stream, q, lower);
  const Matrix l = eigen(lower);
  EXPECT_LT((l * eigen(q) - a).norm(), 1e-12);
  for (Eigen::Index i = 0; i < 5; ++i) {
    EXPECT_GE(l(i, i), 0.0);
    for (Eigen::Index j = i + 1; j < 5; ++j) EXPECT_EQ(l(i, j), 0.0);
  }
}

TEST_P(Linalg, RandomRowsAreOrthonormalAndOrthogonalToTheGivenOnes) {
  const Tensor old(*device, DType::f32, {8, 40}), fresh(*device, DType::f32, {8, 40});
  const RandomKey key = RandomKey::from_seed(1);
  random_orthonormal_rows(*stream, key.bytes(), 0, old);
  random_orthonormal_rows(*stream, key.bytes(), 1, fresh, old);
  EXPECT_LT((eigen(fresh) * eigen(fresh).transpose() - Matrix::Identity(8, 8)).norm(), 1e-6);
  EXPECT_LT((eigen(fresh) * eigen(old).transpose()).norm(), 1e-6);
  EXPECT_THROW(random_orthonormal_rows(*stream, key.bytes(), 2, Tensor(*device, DType::f32, {33, 40}), old),
               std::invalid_argument);
}

// Haar: each entry of a row has mean 0 and variance 1/n, first rows of many draws included.
TEST_P(Linalg, RandomRowsHaveNoPreferredDirection) {
  constexpr Eigen::Index n = 10;
  constexpr int draws = 4000;
  Eigen::VectorXd mean = Eigen::VectorXd::Zero(n), squares = Eigen::VectorXd::Zero(n);
  for (int draw = 0; draw < draws; ++draw) {
    const Tensor a(*device, DType::f64, {2, n});
    random_orthonormal_rows(*stream, RandomKey::from_seed(5).bytes(), static_cast<std::uint64_t>(draw), a);
    const Eigen::VectorXd row = eigen(a).row(0).transpose();
    mean += row / draws;
    squares += row.cwiseAbs2() / draws;
  }
  EXPECT_LT(mean.cwiseAbs().maxCoeff(), 6 * std::sqrt(0.1 / draws));
  EXPECT_LT((squares.array() - 0.1).abs().maxCoeff(), 6 * std::sqrt(2.0 * 0.01 / draws));
}

TEST_P(Linalg, MultiplyIsTheMatrixProduct) {
  const Matrix a = gaussian(7, 5, 1), b = gaussian(5, 11, 2);
  const Tensor c(*device, DType::f64, {7, 11});
  multiply(*stream, tensor(a), tensor(b, DType::f64), c);
  EXPECT_LT((eigen(c) - a * b).norm(), 1e-12);
}

}  // namespace
}  // namespace trib::kernels
