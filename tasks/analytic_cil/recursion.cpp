#include "tasks/analytic_cil/recursion.h"

#include <Eigen/Dense>
#include <stdexcept>

namespace trib::tasks::analytic_cil {
namespace {

using Eigen::Index;
using Eigen::MatrixXd;
using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

struct Batch {
  MatrixXd x, y;  // (n, d), (n, classes) one-hot
};

Batch batch_of(const LabelledFeatures& records, std::int64_t d, std::int64_t classes) {
  const auto n = static_cast<Index>(records.labels.size());
  if (static_cast<std::int64_t>(records.features.size()) != n * d)
    throw std::invalid_argument("features and labels are not of the same records");
  Batch batch{Eigen::Map<const Rows>(records.features.data(), n, d).cast<double>(), MatrixXd::Zero(n, classes)};
  for (Index i = 0; i < n; ++i) {
    const std::int32_t label = records.labels[static_cast<std::size_t>(i)];
    if (label < 0 || label >= classes) throw std::invalid_argument("a label is not one of the classes");
    batch.y(i, label) = 1.0;
  }
  return batch;
}

std::vector<double> values_of(const MatrixXd& matrix) {
  return {matrix.data(), matrix.data() + matrix.size()};
}

Eigen::Map<const MatrixXd> matrix_of(const std::vector<double>& values, std::int64_t rows, std::int64_t columns) {
  return {values.data(), rows, columns};
}

}  // namespace

RecursiveRidge::RecursiveRidge(std::int64_t d, double gamma) : d_(d) {
  if (!(gamma > 0.0)) throw std::invalid_argument("the recursion needs a gamma above 0");
  r_ = values_of(MatrixXd::Identity(d, d) / gamma);
}

void RecursiveRidge::learn(const LabelledFeatures& records, std::int64_t classes) {
  if (classes < classes_) throw std::invalid_argument("classes are added, not taken away");
  const Batch batch = batch_of(records, d_, classes);
  const MatrixXd r = matrix_of(r_, d_, d_), w = matrix_of(w_, d_, classes_), rx = r * batch.x.transpose();
  const Index n = batch.x.rows();
  const MatrixXd inner = MatrixXd::Identity(n, n) + batch.x * rx;
  const MatrixXd updated = r - rx * inner.llt().solve(rx.transpose());
  const MatrixXd gain = updated * batch.x.transpose();
  MatrixXd next(d_, classes);
  next.leftCols(classes_) = w - gain * (batch.x * w) + gain * batch.y.leftCols(classes_);
  next.rightCols(classes - classes_) = gain * batch.y.rightCols(classes - classes_);
  r_ = values_of((updated + updated.transpose()) / 2.0);  // rounding would make it ever less symmetric
  w_ = values_of(next);
  classes_ = classes;
}

std::vector<double> RecursiveRidge::weights() const {
  return w_;
}

AbsoluteShare AbsoluteShare::of(const LabelledFeatures& site, std::int64_t d, std::int64_t classes, double gamma) {
  const Batch batch = batch_of(site, d, classes);
  const MatrixXd c = batch.x.transpose() * batch.x + gamma * MatrixXd::Identity(d, d);
  return {d, classes, values_of(c), values_of(c.llt().solve(batch.x.transpose() * batch.y))};
}

AbsoluteShare AbsoluteShare::joined_with(const AbsoluteShare& other) const {
  if (d != other.d || classes != other.classes) throw std::invalid_argument("shares of different sizes");
  const MatrixXd cu = matrix_of(c, d, d), cv = matrix_of(other.c, d, d), total = cu + cv;
  const Eigen::LLT<MatrixXd> solve_u(cu), solve_v(cv), solve_total(total);
  const auto part = [&](const Eigen::LLT<MatrixXd>& own, const MatrixXd& others, const MatrixXd& weights) -> MatrixXd {
    return weights - own.solve(others * (weights - solve_total.solve(others * weights)));
  };
  const MatrixXd joined =
      part(solve_u, cv, matrix_of(w, d, classes)) + part(solve_v, cu, matrix_of(other.w, d, classes));
  return {d, classes, values_of(total), values_of(joined)};
}

std::vector<double> AbsoluteShare::weights_without(double excess) const {
  const MatrixXd total = matrix_of(c, d, d);
  return values_of((total - excess * MatrixXd::Identity(d, d)).ldlt().solve(total * matrix_of(w, d, classes)));
}

}  // namespace trib::tasks::analytic_cil
