// Whether the driver takes the kernels of this build on the current device.
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/runtime.h"

namespace trib::kernels::cuda {
namespace {

__global__ void nothing() {}

}  // namespace

bool kernels_load() {
  cudaFuncAttributes attributes{};
  const bool loads = cudaFuncGetAttributes(&attributes, nothing) == cudaSuccess;
  static_cast<void>(cudaGetLastError());
  return loads;
}

}  // namespace trib::kernels::cuda
