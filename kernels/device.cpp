#include "kernels/device.h"

namespace trib::kernels {

Result<Device*> open_device(std::string_view name) {
  if (name == "auto" || name == "cpu") return &cpu_device();
  if (name == "cuda" || name.starts_with("cuda:")) {
    return Error{Errc::unsupported,
                 "device \"" + std::string(name) + "\": this build has no CUDA; use \"cpu\" or \"auto\""};
  }
  return Error{Errc::invalid_argument,
               "unknown device \"" + std::string(name) + "\": accepted are \"auto\", \"cpu\", \"cuda\" and \"cuda:N\""};
}

}  // namespace trib::kernels
