#include "kernels/device.h"

#include <charconv>
#include <vector>

#include "common/log.h"
#ifdef TRIB_HAS_CUDA
#include "kernels/cuda/cuda_device.h"
#endif

namespace trib::kernels {
namespace {

Result<Device*> open_gpu([[maybe_unused]] int index) {
#ifdef TRIB_HAS_CUDA
  return cuda::open_cuda_device(index);
#else
  return Error{Errc::unsupported, "this build has no CUDA"};
#endif
}

// The best device, found once: later calls neither look nor log again.
Device& best_device() {
  static Device& device = []() -> Device& {
    Result<Device*> gpu = open_gpu(0);
    if (gpu) return **gpu;
    spdlog::info("computing on {}: {}", cpu_device().name(), gpu.error().message);
    return cpu_device();
  }();
  return device;
}

class FinishedRead final : public HostRead {
 public:
  explicit FinishedRead(std::size_t bytes) : bytes_(bytes) {}
  bool ready() override { return true; }
  std::span<const std::byte> bytes() override { return bytes_; }
  std::byte* data() { return bytes_.data(); }

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace

std::unique_ptr<HostRead> Device::read(Stream& stream, const void* from, std::size_t bytes) {
  auto read = std::make_unique<FinishedRead>(bytes);
  copy_to_host(stream, read->data(), from, bytes);
  return read;
}

std::unique_ptr<Recording> Stream::record(const std::function<void()>&) {
  return nullptr;
}

Result<Device*> open_device(std::string_view name) {
  if (name == "cpu") return &cpu_device();
  if (name == "auto") return &best_device();
  int index = 0;
  bool is_gpu = name == "cuda";
  if (name.starts_with("cuda:")) {
    const std::string_view digits = name.substr(5);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
    is_gpu = error == std::errc() && end == digits.data() + digits.size() && index >= 0;
  }
  if (!is_gpu)
    return Error{Errc::invalid_argument, "unknown device \"" + std::string(name) +
                                             "\": accepted are \"auto\", \"cpu\", \"cuda\" and \"cuda:N\""};
  Result<Device*> gpu = open_gpu(index);
  if (gpu) return gpu;
  return Error{gpu.error().code,
               "device \"" + std::string(name) + "\": " + gpu.error().message + "; use \"cpu\" or \"auto\""};
}

ActivationTypes activation_types(Device& device, DType compute) {
  if (device.kind() == DeviceKind::cpu) return {DType::f32, DType::f32, DType::f32};
  // Measured on a 6-layer model (docs/performance.md): states in bfloat16 would put per-sample gradients further from
  // fp32 than PyTorch's autocast does; their gradients in bfloat16 do not.
  return {compute, DType::f32, compute};
}

}  // namespace trib::kernels
