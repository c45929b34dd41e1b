#include <unistd.h>

#include <cstring>
#include <fstream>
#include <limits>
#include <new>

#include "kernels/cpu/simd.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/device.h"

namespace trib::kernels {
namespace {

constexpr std::align_val_t alignment{64};

class CpuStream final : public Stream {
 public:
  explicit CpuStream(Device& device) : device_(device) {}
  Device& device() override { return device_; }
  void synchronize() override {}

 private:
  Device& device_;
};

class CpuDevice final : public Device {
 public:
  DeviceKind kind() const override { return DeviceKind::cpu; }
  std::string name() const override {
    int threads = cpu::ThreadPool::instance().size();
    return std::string("cpu (") + cpu::simd().name + ", " + std::to_string(threads) +
           (threads == 1 ? " thread)" : " threads)");
  }
  // What the kernel says it could hand out without swapping.
  std::size_t free_memory() const override {
    std::ifstream info("/proc/meminfo");
    std::string key, unit;
    std::size_t kibibytes = 0;
    while (info >> key >> kibibytes) {
      if (key == "MemAvailable:") return kibibytes * 1024;
      info.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    }
    return static_cast<std::size_t>(sysconf(_SC_AVPHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGE_SIZE));
  }
  std::unique_ptr<Stream> make_stream() override { return std::make_unique<CpuStream>(*this); }

  void* allocate(std::size_t bytes) override { return ::operator new(bytes, alignment); }
  void deallocate(void* pointer, std::size_t) override { ::operator delete(pointer, alignment); }
  // Empty tensors have no address, and <cstring> takes no null pointer, not even for 0 bytes.
  void copy_from_host(Stream&, void* to, const void* from, std::size_t bytes) override {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
  void copy_to_host(Stream&, void* to, const void* from, std::size_t bytes) override {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
  void copy(Stream&, void* to, const void* from, std::size_t bytes) override {
    if (bytes > 0) std::memmove(to, from, bytes);
  }
  void fill_zero(Stream&, void* to, std::size_t bytes) override {
    if (bytes > 0) std::memset(to, 0, bytes);
  }
};

}  // namespace

Device& cpu_device() {
  static CpuDevice device;
  return device;
}

}  // namespace trib::kernels
