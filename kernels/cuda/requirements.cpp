#include "kernels/cuda/requirements.h"

#include <algorithm>

namespace trib::kernels::cuda {
namespace {

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// The first driver that serves every minor version of a major one (NVIDIA's table of minor version compatibility).
std::string driver_for(int version) {
  return version >= 13000 ? "580" : "525";
}

}  // namespace

Status check_driver(DriverAnswer answer, int driver_version, int needed_version, const std::string& what) {
  const std::string remedy = "install driver " + driver_for(needed_version) + " or newer";
  switch (answer) {
    case DriverAnswer::gpus:
      return {};
    case DriverAnswer::no_gpu:
      return Error{Errc::not_found,
                   "no NVIDIA GPU is visible on this machine (CUDA_VISIBLE_DEVICES, a container's settings, or a "
                   "driver that does not match its kernel module may hide one)"};
    case DriverAnswer::too_old:
      if (driver_version == 0)
        return Error{Errc::not_found, "no NVIDIA driver on this machine; this build needs one that serves CUDA " +
                                          version_text(needed_version) + ": for a GPU, " + remedy};
      return Error{Errc::unsupported, "the NVIDIA driver serves CUDA " + version_text(driver_version) +
                                          " and this build needs " + version_text(needed_version) + ": " + remedy +
                                          ", or build with a CUDA toolkit that this driver serves (12.4 or newer)"};
    case DriverAnswer::no_answer:
      break;
  }
  return Error{Errc::unsupported, "the NVIDIA driver does not answer: " + what};
}

Status check_gpu(int index, const std::string& name, int major, int minor, bool kernels_load,
                 const std::string& built_for) {
  const std::string gpu = "cuda:" + std::to_string(index) + " (" + name + ") has compute capability " +
                          std::to_string(major) + "." + std::to_string(minor);
  if (10 * major + minor < oldest_capability)
    return Error{Errc::unsupported, gpu + " and at least " + std::to_string(oldest_capability / 10) + "." +
                                        std::to_string(oldest_capability % 10) +
                                        " is needed (A100, RTX 30 or later): use another GPU"};
  if (!kernels_load) {
    std::string list = built_for;
    std::replace(list.begin(), list.end(), ';', ',');
    return Error{Errc::unsupported, gpu + ", and this build has kernels for " + list +
                                        " only: build with -DTRIBUTARY_CUDA_ARCHITECTURES=" + std::to_string(major) +
                                        std::to_string(minor)};
  }
  return {};
}

}  // namespace trib::kernels::cuda
