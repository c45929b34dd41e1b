// Every table of loops that this machine can run, so that tests and benchmarks can compare them.
#pragma once

#include <vector>

#include "kernels/cpu/simd.h"

namespace trib::kernels::cpu {

std::vector<SimdKernels> simd_levels();  // the fastest first

}  // namespace trib::kernels::cpu
