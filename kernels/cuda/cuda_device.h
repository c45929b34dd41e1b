// Opening CUDA devices. Plain C++: kernels/device.cpp includes it.
#pragma once

#include "kernels/device.h"

namespace trib::kernels::cuda {

// How many GPUs the driver shows, at least one. Errors as cuda/requirements.h has them.
Result<int> device_count();

// The index-th GPU, the same object on every call. Errc::not_found: there is no driver or GPU; Errc::unsupported says
// what is wrong with what there is: the driver's age, the compute capability, cuBLAS.
Result<Device*> open_cuda_device(int index);

// Of a stream of a GPU: N of "cuda:N".
int device_index(Stream& stream);

// Whether the driver takes this build's kernels on the current device.
bool kernels_load();

// Loads cuBLAS and cuBLASLt, once. They are not linked, so that one binary also starts where they are missing.
Status load_blas();

}  // namespace trib::kernels::cuda
