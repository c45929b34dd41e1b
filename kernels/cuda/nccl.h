// Collectives over NCCL. Plain C++: kernels/collective.cpp includes it.
#pragma once

#include <memory>
#include <vector>

#include "kernels/collective.h"

namespace trib::kernels::cuda {

// Errc::unsupported where NCCL's library cannot be loaded, Errc::unavailable where it does not start.
Result<std::unique_ptr<Collective>> make_nccl_collective(const std::vector<Stream*>& streams);

}  // namespace trib::kernels::cuda
