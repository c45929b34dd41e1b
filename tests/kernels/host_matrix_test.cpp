// Products in host memory against Eigen.
#include "kernels/host_matrix.h"

#include <gtest/gtest.h>

#include <Eigen/Dense>
#include <array>
#include <random>
#include <stdexcept>
#include <type_traits>
#include <vector>

namespace trib::kernels {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <typename T>
struct Case {
  std::vector<T> values;
  std::int64_t rows, columns;
  HostMatrix<const T> view() const { return {values, rows, columns}; }
  HostMatrix<T> view() { return {values, rows, columns}; }
  Matrix eigen() const {
    Matrix matrix(rows, columns);
    for (std::int64_t i = 0; i < rows * columns; ++i) matrix.data()[i] = static_cast<double>(values[i]);
    return matrix;
  }
};

template <typename T>
class HostProduct : public ::testing::Test {
 protected:
  Case<T> draw(std::int64_t rows, std::int64_t columns) {
    Case<T> made{std::vector<T>(static_cast<std::size_t>(rows * columns)), rows, columns};
    for (T& value : made.values) value = static_cast<T>(normal_(random_));
    return made;
  }
  static void expect_equal(const Case<T>& found, const Matrix& expected, std::int64_t terms) {
    const double tolerance = (std::is_same_v<T, float> ? 1e-6 : 1e-14) * (10.0 + static_cast<double>(terms));
    EXPECT_LT((found.eigen() - expected).cwiseAbs().maxCoeff(), tolerance);
  }
  std::mt19937 random_{3};
  std::normal_distribution<double> normal_;
};
using Scalars = ::testing::Types<float, double>;
TYPED_TEST_SUITE(HostProduct, Scalars);

TYPED_TEST(HostProduct, OfAllThreeFormsIsEigensWithAndWithoutWhatWasThere) {
  const std::vector<std::array<std::int64_t, 3>> shapes = {
      {1, 1, 1}, {3, 5, 2}, {17, 33, 9}, {256, 301, 64}, {5, 1, 40}};
  for (const auto& [m, n, k] : shapes) {
    for (const bool accumulate : {false, true}) {
      const auto a = this->draw(m, k), b = this->draw(k, n), bt = this->draw(n, k), at = this->draw(k, m);
      const auto before = this->draw(m, n);
      const Matrix start = accumulate ? before.eigen() : Matrix(Matrix::Zero(m, n));
      auto c = before;
      host_product<TypeParam>(a.view(), b.view(), accumulate, c.view());
      this->expect_equal(c, start + a.eigen() * b.eigen(), k);
      c = before;
      host_product_bt<TypeParam>(a.view(), bt.view(), accumulate, c.view());
      this->expect_equal(c, start + a.eigen() * bt.eigen().transpose(), k);
      c = before;
      host_product_at<TypeParam>(at.view(), b.view(), accumulate, c.view());
      this->expect_equal(c, start + at.eigen().transpose() * b.eigen(), k);
    }
  }
}

TYPED_TEST(HostProduct, OverNothingIsZeroOrWhatWasThere) {
  const auto a = this->draw(3, 0), b = this->draw(0, 4);
  auto c = this->draw(3, 4);
  const auto before = c;
  host_product<TypeParam>(a.view(), b.view(), true, c.view());
  EXPECT_EQ(c.values, before.values);
  host_product<TypeParam>(a.view(), b.view(), false, c.view());
  EXPECT_EQ(c.values, std::vector<TypeParam>(12, TypeParam(0)));
}

TYPED_TEST(HostProduct, RefusesShapesThatDoNotFit) {
  const auto a = this->draw(3, 2), b = this->draw(3, 4);
  auto c = this->draw(3, 4);
  EXPECT_THROW(host_product<TypeParam>(a.view(), b.view(), false, c.view()), std::invalid_argument);
}

}  // namespace
}  // namespace trib::kernels
