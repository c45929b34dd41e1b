#include "kernels/device.h"

#include <algorithm>
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
  return Error{Errc::not_found, "this build has no CUDA"};
#endif
}

Result<int> gpu_count() {
#ifdef TRIB_HAS_CUDA
  return cuda::device_count();
#else
  return Error{Errc::not_found, "this build has no CUDA"};
#endif
}

// The best device, found once: later calls neither look nor log again.
Device& best_device() {
  static Device& device = []() -> Device& {
    Result<Device*> gpu = open_gpu(0);
    if (gpu) return **gpu;
    // A GPU that is there and stays idle is worth more than a line of information.
    const auto level = gpu.error().code == Errc::not_found ? spdlog::level::info : spdlog::level::warn;
    spdlog::log(level, "computing on {}: {}", cpu_device().name(), gpu.error().message);
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

Error unknown(std::string_view name) {
  return {Errc::invalid_argument,
          "unknown device \"" + std::string(name) +
              "\": accepted are \"auto\", \"cpu\", \"cuda\", \"cuda:N\" and, for several GPUs of one client, "
              "\"cuda:0,1\" and \"cuda:all\""};
}

Error cannot_open(std::string_view name, const Error& error) {
  return {Errc::unsupported, "device \"" + std::string(name) + "\": " + error.message + "; use \"cpu\" or \"auto\""};
}

// The numbers in "0,1,3", which differ; empty if that is not what it is.
std::vector<int> parse_indices(std::string_view list) {
  std::vector<int> indices;
  for (;;) {
    const std::size_t comma = std::min(list.find(','), list.size());
    int index = -1;
    const auto [end, error] = std::from_chars(list.data(), list.data() + comma, index);
    if (error != std::errc() || end != list.data() + comma || index < 0 || std::ranges::count(indices, index) > 0)
      return {};
    indices.push_back(index);
    if (comma == list.size()) return indices;
    list.remove_prefix(comma + 1);
  }
}

}  // namespace

std::unique_ptr<HostRead> Device::read(Stream& stream, const void* from, std::size_t bytes) {
  auto read = std::make_unique<FinishedRead>(bytes);
  copy_to_host(stream, read->data(), from, bytes);
  return read;
}

std::unique_ptr<Recording> Stream::record(const std::function<void()>&) {
  return nullptr;
}

Result<std::vector<Device*>> open_devices(std::string_view name) {
  if (name == "cpu") return std::vector<Device*>{&cpu_device()};
  if (name == "auto") return std::vector<Device*>{&best_device()};
  std::vector<int> indices;
  if (name == "cuda") indices = {0};
  if (name == "cuda:all") {
    const Result<int> count = gpu_count();
    if (!count) return cannot_open(name, count.error());
    for (int index = 0; index < *count; ++index) indices.push_back(index);
  } else if (name.starts_with("cuda:")) {
    indices = parse_indices(name.substr(5));
  }
  if (indices.empty()) return unknown(name);
  std::vector<Device*> devices;
  for (const int index : indices) {
    Result<Device*> gpu = open_gpu(index);
    if (!gpu) return cannot_open(name, gpu.error());
    devices.push_back(*gpu);
  }
  return devices;
}

Result<Device*> open_device(std::string_view name) {
  if (name == "cuda:all" || name.find(',') != std::string_view::npos)
    return Error{Errc::invalid_argument,
                 "device \"" + std::string(name) + "\" names several, and one is used here: name it, as \"cuda:0\""};
  TRIB_ASSIGN(const std::vector<Device*> devices, open_devices(name));
  return devices.front();
}

std::string describe(const std::vector<Device*>& devices) {
  if (devices.size() == 1) return devices.front()->name();
  std::string names;
  for (const Device* device : devices) names += (names.empty() ? "" : ", ") + device->name();
  return std::to_string(devices.size()) + " devices: " + names;
}

ActivationTypes activation_types(Device& device, DType compute) {
  if (device.kind() == DeviceKind::cpu) return {DType::f32, DType::f32, DType::f32};
  // Measured on a 6-layer model (docs/performance.md): states in bfloat16 would put per-sample gradients further from
  // fp32 than PyTorch's autocast does; their gradients in bfloat16 do not.
  return {compute, DType::f32, compute};
}

}  // namespace trib::kernels
