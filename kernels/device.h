// The compute seam. Everything above kernels/ speaks of devices, streams and tensors; only kernels/ knows what memory
// they live in. The CPU is a device like any other.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "common/tensor_map.h"

namespace trib::kernels {

enum class DeviceKind { cpu, cuda };

class Stream;

// A compute device. Devices live as long as the process; compare them by address. Where a device fails while it
// computes, operations throw FatalError with Errc::unavailable, or std::bad_alloc for want of memory.
class Device {
 public:
  virtual ~Device() = default;
  virtual DeviceKind kind() const = 0;
  virtual std::string name() const = 0;         // "cpu (AVX-512 bf16, 2 threads)"
  virtual std::size_t free_memory() const = 0;  // bytes, an estimate
  virtual std::unique_ptr<Stream> make_stream() = 0;

  // Raw memory on this device, 64-byte aligned. Throws std::bad_alloc. Called by Buffer alone.
  virtual void* allocate(std::size_t bytes) = 0;
  virtual void deallocate(void* pointer, std::size_t bytes) = 0;
  virtual void copy_from_host(Stream& stream, void* to, const void* from, std::size_t bytes) = 0;
  virtual void copy_to_host(Stream& stream, void* to, const void* from, std::size_t bytes) = 0;  // synchronizes
  virtual void copy(Stream& stream, void* to, const void* from, std::size_t bytes) = 0;
  virtual void fill_zero(Stream& stream, void* to, std::size_t bytes) = 0;

  // Ok, or why the device cannot compute any more: a GPU that was lost stays lost for this process. Waits for it.
  virtual Status check() { return {}; }
  // The most bytes that were allocated at once since trim(); 0 where the device does not count.
  virtual std::size_t peak_memory() const { return 0; }
  // Gives memory that is kept for reuse back to the system.
  virtual void trim() {}
};

// Work on one device in the order it was submitted. On the CPU work is done when the call returns; on other devices
// results may be read only after synchronize() or a copy to the host. Not thread-safe.
class Stream {
 public:
  virtual ~Stream() = default;
  virtual Device& device() = 0;
  virtual void synchronize() = 0;
};

Device& cpu_device();
// "auto" (a GPU that can be used, or the CPU with one log line that says why: a warning where there is a GPU that
// cannot be used), "cpu", "cuda", "cuda:1". Errc::unsupported names what this build or machine lacks, what it has, and
// the remedy.
Result<Device*> open_device(std::string_view name);
// The same, and several GPUs that share one client's work: "cuda:0,1", "cuda:all". The first is the one that does what
// is not shared.
Result<std::vector<Device*>> open_devices(std::string_view name);
// "cuda:0 (…)" of one; "2 devices: cuda:0 (…), cuda:1 (…)" of several.
std::string describe(const std::vector<Device*>& devices);

// The types in which a device holds a model's activations when its frozen products take `compute`.
struct ActivationTypes {
  DType products;         // what products give, attention and adapters read: `compute` where products can give it
  DType states;           // the states between the layers
  DType state_gradients;  // the gradients at them, which additions accumulate in
};
ActivationTypes activation_types(Device& device, DType compute);

}  // namespace trib::kernels
