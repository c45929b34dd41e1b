// One table of backward operations for every device: what each gives is compared with finite differences of the
// function itself, written out in float64 (gradient_test.cpp).
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "kernels/tensor.h"

namespace trib::kernels {

// One argument's gradient of a scalar.
struct ComputedGradient {
  std::string argument;
  Tensor computed;                                                 // what the operation gave
  std::vector<double> at;                                          // the argument, as the operation saw it
  std::function<double(std::span<const double> argument)> scalar;  // in float64, the other arguments fixed
};

struct GradientCase {
  std::string name;  // letters, digits and underscores
  bool narrow;       // bfloat16 on a GPU, and the same numbers in float32 on the CPU
  double tolerance;  // largest difference over the largest magnitude
  // Runs the operations on the stream's device.
  std::function<std::vector<ComputedGradient>(Stream&)> run;
};
std::vector<GradientCase> gradient_cases();

}  // namespace trib::kernels
