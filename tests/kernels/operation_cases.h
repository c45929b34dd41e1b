// One table of operations for every backend: operation_test.cpp compares each with its twin on the CPU, operation_bench
// times it. A case prepares its tensors on a stream's device, from seeds, and runs there any number of times.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "kernels/tensor.h"

namespace trib::kernels {

struct PreparedOperation {
  std::function<void()> run;
  std::vector<Tensor> outputs;
};

struct OperationCase {
  std::string name;  // letters, digits and underscores
  double tolerance;  // largest difference from the CPU's result over the largest magnitude of that
  // What a run must at least do and move on the device.
  double operations, bytes;
  std::function<PreparedOperation(Stream&)> prepare;
};

// Small and odd shapes: what the loops and tiles do at their edges.
std::vector<OperationCase> test_cases();
// Shapes of a training step of RoBERTa-large: 128 records of 128 tokens.
std::vector<OperationCase> bench_cases();

}  // namespace trib::kernels
