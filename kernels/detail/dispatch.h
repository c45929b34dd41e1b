// The one place where an operation chooses its implementation. A further backend adds an alternative beside `cpu`.
#pragma once

#include <stdexcept>
#include <string>

#include "kernels/device.h"

namespace trib::kernels::detail {

template <typename CpuImplementation>
void dispatch(Stream& stream, CpuImplementation&& cpu) {
  switch (stream.device().kind()) {
    case DeviceKind::cpu:
      return cpu();
    case DeviceKind::cuda:
      break;
  }
  throw std::logic_error("this operation has no implementation for " + stream.device().name());
}

// Contracts of operations: a violation is a bug of the caller.
inline void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

}  // namespace trib::kernels::detail
