// The papers' own ways to the weights that kernels/ridge.h solves for once, for one site that learns alone and as
// oracles: G-ACIL's recursion (Zhuang et al., arXiv 2403.15706) and AFL's law for joining sites (He et al.,
// arXiv 2405.16240). Both cost O(d³) where sums cost an addition, in float64, on one core.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace trib::tasks::analytic_cil {

// Features (n, d) row-major and one class a record.
struct LabelledFeatures {
  std::span<const float> features;
  std::span<const std::int32_t> labels;
};

// W after every record so far, from R = (XᵀX + gamma·I)⁻¹ alone: no record and no sum is kept.
class RecursiveRidge {
 public:
  // R_0 = I/gamma, gamma above 0. (The paper's Algorithm 1 prints gamma·I, which its equation 7 contradicts.)
  RecursiveRidge(std::int64_t d, double gamma);
  // Learns a batch whose labels are in [0, classes); `classes` at least as many as before. By Woodbury's identity
  //   R_k = R − R·Xᵀ·(I + X·R·Xᵀ)⁻¹·X·R,
  // then, with one-hot labels split into exposed classes Ȳ (seen before) and unexposed ones Ỹ,
  //   W_k = [W − R_k·XᵀX·W | R_k·Xᵀ·Ỹ] + [R_k·Xᵀ·Ȳ | 0]
  // whose last term is the exposed class label gain.
  void learn(const LabelledFeatures& batch, std::int64_t classes);
  std::int64_t class_count() const { return classes_; }
  std::vector<double> weights() const;  // (classes, d)

 private:
  std::int64_t d_, classes_ = 0;
  std::vector<double> r_;  // (d, d)
  std::vector<double> w_;  // (d, classes), in columns: a class is d values
};

// What an AFL site sends: C = XᵀX + gamma·I and W = C⁻¹·XᵀY.
struct AbsoluteShare {
  std::int64_t d = 0, classes = 0;
  std::vector<double> c;  // (d, d)
  std::vector<double> w;  // (d, classes), in columns

  static AbsoluteShare of(const LabelledFeatures& site, std::int64_t d, std::int64_t classes, double gamma);
  // The absolute aggregation law, with R = C⁻¹:
  //   W = (I − R_u·C_v + R_u·C_v·(C_u + C_v)⁻¹·C_v)·W_u + (I − R_v·C_u + R_v·C_u·(C_u + C_v)⁻¹·C_u)·W_v.
  // Both have the same classes.
  AbsoluteShare joined_with(const AbsoluteShare& other) const;
  // The weights without the gamma of every site, (C − excess·I)⁻¹·C·W: the joint solution at gamma = (sum of the sites'
  // gammas) − excess. As (classes, d).
  std::vector<double> weights_without(double excess) const;
};

}  // namespace trib::tasks::analytic_cil
