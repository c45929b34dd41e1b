// Ridge regression in closed form: the sums that sites send, and what is solved from them.
//
//   minimize ‖Y − X·Wᵀ‖² + gamma·‖W‖²,   (XᵀX + gamma·I)·Wᵀ = XᵀY,
//
// with features X (n, d), one-hot classes Y (n, classes) and W (classes, d), as a linear layer has its weights. XᵀX,
// YᵀX and the counts of the classes are sums over records: over sites, over time and in any order they add up, and a
// new class is a new row of YᵀX and of W.
//
// A packed triangle is the upper one of a symmetric (d, d) matrix, row by row without gaps: row i holds the columns i
// to d − 1. The rows from r on are the packed triangle of the last d − r rows and columns.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/tensor.h"

namespace trib::kernels {

inline std::int64_t packed_triangle_size(std::int64_t d) {
  return d * (d + 1) / 2;
}
// d of a packed triangle of `size` elements. Throws std::invalid_argument where there is none.
std::int64_t packed_triangle_order(std::int64_t size);

// What a set of records comes to. All float64; the tensors of two sets are added to join them.
struct RidgeSums {
  Tensor gram;        // XᵀX, packed: (d(d + 1)/2)
  Tensor class_sums;  // YᵀX (classes, d): row c is the sum of the features of class c
  Tensor counts;      // (classes): the number of records of each class
  static RidgeSums zeros(Stream& stream, std::int64_t d, std::int64_t classes);
  std::int64_t feature_size() const { return class_sums.dim(1); }
  std::int64_t class_count() const { return class_sums.dim(0); }
  // The same sums with room for more classes: old rows first, zeros below. `classes` is at least class_count().
  RidgeSums with_classes(Stream& stream, std::int64_t classes) const;
};

// Adds records: features (n, d) float32, labels (n) int32, each in [0, classes). With `weights` (n) float32 record i
// counts weights[i] times in every sum: Xᵀ·diag(weights)·X and so on. sums.counts may be undefined. Without weights
// every product is exact in float64, and on a CPU the sums are the same bits on every instruction set and with any
// number of threads; another order of the records, or another device, moves them by rounding alone (about 1e−16·√n).
// Throws std::invalid_argument on shapes that do not fit and on a label out of range. Features that are not finite give
// sums that are not.
void add_ridge_sums(Stream& stream, const Tensor& features, const Tensor& labels, const RidgeSums& sums,
                    const Tensor& weights = {});

struct RidgeSolution {
  Tensor weights;         // W (classes, d) float64
  std::int64_t rank = 0;  // of XᵀX + gamma·I; below d, W has the smallest norm of all that minimize
};

// Solves (XᵀX + gamma·I)·Wᵀ = (YᵀX)ᵀ from the packed triangle: Cholesky in blocks and, where a pivot is not above
// d·2⁻⁵²·(the largest diagonal element), Cholesky with complete pivoting, which tells the rank: then W is the solution
// of least norm, for class sums in the range of XᵀX, as sums of records are. `gram` is not changed.
// Errc::invalid_argument: gamma is negative, a sum is not finite, or the matrix has a negative eigenvalue (noise larger
// than gamma).
Result<RidgeSolution> solve_ridge(Stream& stream, const Tensor& gram, const Tensor& class_sums, double gamma);

// One orthogonal decomposition of XᵀX = Q·T·Qᵀ with a tridiagonal T, from which every gamma costs O(d·classes): scores
// of generalized cross-validation, degrees of freedom, and all eigenvalues. (Golub, Heath & Wahba 1979; Eldén 1984.)
class RidgeSweep {
 public:
  // (4/3)·d³ operations. Errc::invalid_argument where a sum is not finite. The decomposition is on the CPU.
  static Result<RidgeSweep> decompose(Stream& stream, const Tensor& gram, const Tensor& class_sums);

  std::int64_t feature_size() const { return order_; }
  // Of XᵀX, ascending.
  const std::vector<double>& eigenvalues() const { return eigenvalues_; }

  struct Score {
    double gamma = 0;
    double gcv = 0;                 // (residual/n)/(1 − degrees_of_freedom/n)²; infinite where nothing is left over
    double residual = 0;            // ‖Y − X·Wᵀ‖²
    double degrees_of_freedom = 0;  // trace of the hat matrix X·(XᵀX + gamma·I)⁻¹·Xᵀ
    double squared_norm = 0;        // ‖W‖²
  };
  // `records` is n and `squared_labels` ‖Y‖², which for one-hot classes is n as well. Errc::invalid_argument unless
  // XᵀX + gamma·I is positive definite by more than rounding: the message names the smallest eigenvalue.
  Result<Score> score(double gamma, double records, double squared_labels) const;
  // W (classes, d) float64 at `gamma`, on the CPU device. Errors as score().
  Result<Tensor> weights(double gamma) const;

 private:
  RidgeSweep() = default;
  Status check(double gamma) const;
  std::vector<double> solve(double gamma) const;  // (T + gamma·I)⁻¹·Qᵀ·XᵀY, a row a class

  std::int64_t order_ = 0, classes_ = 0;
  std::vector<double> reflectors_;         // row k from column k + 1 on: the vector of the k-th reflection
  std::vector<double> betas_;              // H_k = I − betas_[k]·v·vᵀ
  std::vector<double> diagonal_, beside_;  // of T
  std::vector<double> turned_;             // (classes, d): rows of YᵀX·Q
  std::vector<double> eigenvalues_;
};

// What ‖E‖₂ of a symmetric (d, d) matrix E with independent N(0, stddev²) in its triangle exceeds with at most that
// probability: stddev·(2·√d + 2·√(log(1/probability))). A gamma above it keeps XᵀX + E + gamma·I positive definite.
double symmetric_noise_norm(double stddev, std::int64_t d, double probability);

// The buffer layer: max(0, x·W_b) with a random W_b (d_in, width) that nothing trains.
class RandomFeatures {
 public:
  // W_b is float32, standard deviation 1/√(3·d_in): what the published code's uniform numbers in ±1/√d_in have, so that
  // its gamma means the same here, and E‖features‖² = width·‖x‖²/(6·d_in). Normals of the ChaCha20 stream
  // (key, stream_id): the same bits on every machine.
  RandomFeatures(Stream& stream, std::span<const std::uint8_t, 32> key, std::uint64_t stream_id, std::int64_t d_in,
                 std::int64_t width);
  std::int64_t input_size() const { return weights_.dim(0); }
  std::int64_t width() const { return weights_.dim(1); }
  const Tensor& weights() const { return weights_; }  // W_b
  // features (n, width) float32 from x (n, d_in) float32. Sums in float64, in one order, rounded once: a record's
  // features are the same bits in any batch and on every device. A NaN stays one.
  void apply(Stream& stream, const Tensor& x, const Tensor& features) const;

 private:
  Tensor weights_;
  Tensor panels_;  // on a CPU: float64, in the order in which the product reads them
};

// Operations a second (a multiplication and an addition are two) that no float64 product on this device passes: on a
// CPU of fused multiply-adds in registers on all threads, on a GPU of a large product in the vendor's library. The mean
// over about `seconds`, so that what else the machine does slows it as it slows other work.
double float64_product_limit(Stream& stream, double seconds);

}  // namespace trib::kernels
