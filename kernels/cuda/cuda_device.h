// Opening CUDA devices. Plain C++: kernels/device.cpp includes it.
#pragma once

#include "kernels/device.h"

namespace trib::kernels::cuda {

// The index-th GPU, the same object on every call. Errc::unsupported says what is missing: a GPU, a driver that is new
// enough, a compute capability, cuBLAS.
Result<Device*> open_cuda_device(int index);

// Loads cuBLAS and cuBLASLt, once. They are not linked, so that one binary also starts where they are missing.
Status load_blas();

}  // namespace trib::kernels::cuda
