// What a GPU and its driver must be for this build, and what to say where they are not. Plain C++, without CUDA's
// headers, so that it is tested on every machine. Versions as CUDA counts them: 13000 is 13.0.
#pragma once

#include <string>

#include "common/result.h"

namespace trib::kernels::cuda {

// The oldest compute capability that the kernels are written for (Ampere: bfloat16 products).
inline constexpr int oldest_capability = 80;  // 10·major + minor

// How asking the driver for its GPUs ended.
enum class DriverAnswer { gpus, no_gpu, too_old, no_answer };

// Ok for `gpus`. Otherwise Errc::not_found where there is no driver (`driver_version` 0) or no GPU, and
// Errc::unsupported where there is something that cannot be used; `what` is the driver's own message, for no_answer.
Status check_driver(DriverAnswer answer, int driver_version, int needed_version, const std::string& what);

// A GPU with its name and compute capability. `kernels_load`: whether the driver takes the kernels of this build, which
// are of `built_for` (CMake's TRIBUTARY_CUDA_ARCHITECTURES). Errc::unsupported.
Status check_gpu(int index, const std::string& name, int major, int minor, bool kernels_load,
                 const std::string& built_for);

}  // namespace trib::kernels::cuda
