// The compute seam. Everything above kernels/ speaks of devices, streams and tensors; only kernels/ knows what memory
// they live in. The CPU is a device like any other.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "common/tensor_map.h"

namespace trib::kernels {

enum class DeviceKind { cpu, cuda };

class Stream;

// Bytes on their way to the host: the copy was submitted, and what is submitted after it does not hold it up.
class HostRead {
 public:
  virtual ~HostRead() = default;
  virtual bool ready() = 0;  // whether bytes() gives them at once
  // Waits for the copy, and for nothing behind it.
  virtual std::span<const std::byte> bytes() = 0;
};

// Work that a stream recorded (Stream::record), for submitting it again at the cost of one submission.
class Recording {
 public:
  virtual ~Recording() = default;
  virtual void submit() = 0;
};

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
  virtual std::unique_ptr<HostRead> read(Stream& stream, const void* from, std::size_t bytes);   // does not wait
  virtual void copy(Stream& stream, void* to, const void* from, std::size_t bytes) = 0;
  virtual void fill_zero(Stream& stream, void* to, std::size_t bytes) = 0;

  // The number of rows that a batch of `rows` is best padded to, at most 3 % more: batches of nearly one size then have
  // one shape, and one recording serves them all. `rows` itself where shapes cost nothing.
  virtual std::int64_t row_class(std::int64_t rows) const { return rows; }

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

  // Whether record() may give a recording.
  virtual bool records() const { return false; }
  // Calls work(), which submits operations to this stream, and instead of carrying them out remembers them with the
  // addresses and numbers that they were given. Null where that is not possible: then nothing was done. `work` makes
  // no copy to or from the host and waits for nothing (std::logic_error); what it allocates it also frees. Its
  // operations ran before, so that what they prepare once is there. Use kernels/recorded_work.h.
  virtual std::unique_ptr<Recording> record(const std::function<void()>& work);
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
