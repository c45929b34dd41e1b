// The one place where an operation chooses its implementation. A further backend adds an alternative beside `cpu`.
#pragma once

#include <stdexcept>
#include <string>

#include "kernels/device.h"

namespace trib::kernels::detail {

#ifdef TRIB_HAS_CUDA
inline constexpr bool has_cuda = true;
#else
inline constexpr bool has_cuda = false;
#endif

// Without CUDA the second implementation is compiled but never emitted, so nothing of it is needed to link.
template <typename CpuImplementation, typename CudaImplementation>
void dispatch(Stream& stream, CpuImplementation&& cpu, [[maybe_unused]] CudaImplementation&& cuda) {
  switch (stream.device().kind()) {
    case DeviceKind::cpu:
      return cpu();
    case DeviceKind::cuda:
      if constexpr (has_cuda) return cuda();
  }
  throw std::logic_error("this operation has no implementation for " + stream.device().name());
}

// For an operation that has only its CPU form yet.
template <typename CpuImplementation>
void dispatch(Stream& stream, CpuImplementation&& cpu) {
  if (stream.device().kind() == DeviceKind::cpu) return cpu();
  throw std::logic_error("this operation has no implementation for " + stream.device().name());
}

// Contracts of operations: a violation is a bug of the caller.
inline void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

}  // namespace trib::kernels::detail
