// CUDA devices: memory that is kept and reused, one stream each, and copies from the host that do not wait.
#include "kernels/cuda/cuda_device.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <vector>

#include "kernels/cuda/requirements.h"
#include "kernels/cuda/runtime.h"

namespace trib::kernels::cuda {

void fail(cudaError_t status, const char* what) {
  static_cast<void>(cudaGetLastError());
  if (status == cudaErrorMemoryAllocation) throw std::bad_alloc();
  throw FatalError(Error{Errc::unavailable, std::string("CUDA: ") + what + ": " + cudaGetErrorString(status)});
}

namespace {

// Freed blocks by size, given out again. All work of a device is on one stream, so a block that is reused is written
// only after everything that was submitted before it was freed. Blocks serve requests of at least three quarters of
// their size. The largest go back to the driver at once: they are workspaces that grew, and waiting for the device
// costs less than memory that nobody can use.
class BlockCache {
 public:
  void* take(std::size_t bytes, std::size_t& block_bytes) {
    const auto found = free_.lower_bound(bytes);
    if (found == free_.end() || found->first / 4 * 3 > bytes) return nullptr;
    void* pointer = found->second;
    block_bytes = found->first;
    held_ -= found->first;
    free_.erase(found);
    return pointer;
  }
  void give(void* pointer, std::size_t bytes) {
    if (bytes >= largest_kept) {
      cudaFree(pointer);  // waits until the device is done with it
      return;
    }
    free_.emplace(bytes, pointer);
    held_ += bytes;
  }
  void clear() {
    for (const auto& [bytes, pointer] : free_) cudaFree(pointer);
    free_.clear();
    held_ = 0;
  }
  std::size_t held() const { return held_; }

 private:
  static constexpr std::size_t largest_kept = std::size_t{256} << 20;
  std::multimap<std::size_t, void*> free_;
  std::size_t held_ = 0;
};

// Pinned memory through which small host arrays travel without a wait. It is a ring of slots; a slot is written again
// once the copies from it are done.
class StagingRing {
 public:
  static constexpr std::size_t slot_bytes = std::size_t{1} << 20;

  void copy(cudaStream_t stream, void* to, const void* from, std::size_t bytes) {
    if (memory_ == nullptr) {
      check(cudaHostAlloc(&memory_, slot_bytes * slots, cudaHostAllocDefault), "pinned memory");
      for (cudaEvent_t& event : events_) check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "an event");
    }
    const std::size_t room = (bytes + 255) / 256 * 256;
    if (used_ + room > slot_bytes) {
      check(cudaEventRecord(events_[slot_], stream), "an event");
      recorded_[slot_] = true;
      slot_ = (slot_ + 1) % slots;
      used_ = 0;
      if (recorded_[slot_]) check(cudaEventSynchronize(events_[slot_]), "a wait for a copy");
    }
    std::byte* place = static_cast<std::byte*>(memory_) + slot_ * slot_bytes + used_;
    std::memcpy(place, from, bytes);
    used_ += room;
    check(cudaMemcpyAsync(to, place, bytes, cudaMemcpyHostToDevice, stream), "a copy to the device");
  }

 private:
  static constexpr std::size_t slots = 8;
  void* memory_ = nullptr;
  std::array<cudaEvent_t, slots> events_{};
  std::array<bool, slots> recorded_{};
  std::size_t slot_ = 0, used_ = 0;
};

class CudaStream final : public Stream {
 public:
  CudaStream(Device& device, cudaStream_t stream, int index) : device_(device), stream_(stream), index_(index) {}
  Device& device() override { return device_; }
  void synchronize() override {
    check(cudaSetDevice(index_), "the device");
    check(cudaStreamSynchronize(stream_), "a wait for the device");
  }

 private:
  Device& device_;
  cudaStream_t stream_;
  int index_;
};

class CudaDevice final : public Device {
 public:
  CudaDevice(int index, const cudaDeviceProp& properties) : index_(index), properties_(properties) {
    use();
    cuda::check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream");
  }

  DeviceKind kind() const override { return DeviceKind::cuda; }
  std::string name() const override {
    return "cuda:" + std::to_string(index_) + " (" + properties_.name + ", compute capability " +
           std::to_string(properties_.major) + "." + std::to_string(properties_.minor) + ")";
  }
  std::size_t free_memory() const override {
    use();
    std::size_t free = 0, total = 0;
    cuda::check(cudaMemGetInfo(&free, &total), "the free memory");
    const std::lock_guard lock(mutex_);
    return free + cache_.held();
  }
  std::unique_ptr<Stream> make_stream() override { return std::make_unique<CudaStream>(*this, stream_, index_); }

  void* allocate(std::size_t bytes) override {
    use();
    // Sizes that differ little share blocks.
    const std::size_t step = bytes < (std::size_t{1} << 20) ? 512 : std::size_t{1} << 20;
    std::size_t block_bytes = (bytes + step - 1) / step * step;
    const std::lock_guard lock(mutex_);
    void* pointer = cache_.take(block_bytes, block_bytes);
    if (pointer == nullptr && cudaMalloc(&pointer, block_bytes) != cudaSuccess) {
      static_cast<void>(cudaGetLastError());
      cuda::check(cudaStreamSynchronize(stream_), "a wait for the device");
      cache_.clear();
      cuda::check(cudaMalloc(&pointer, block_bytes), "memory");
    }
    sizes_[pointer] = block_bytes;
    in_use_ += block_bytes;
    peak_ = std::max(peak_, in_use_);
    return pointer;
  }
  void deallocate(void* pointer, std::size_t) override {
    const std::lock_guard lock(mutex_);
    const auto found = sizes_.find(pointer);
    in_use_ -= found->second;
    cache_.give(pointer, found->second);
    sizes_.erase(found);
  }
  void copy_from_host(Stream&, void* to, const void* from, std::size_t bytes) override {
    if (bytes == 0) return;
    use();
    const std::lock_guard lock(mutex_);
    if (bytes <= StagingRing::slot_bytes) return staging_.copy(stream_, to, from, bytes);
    cuda::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_), "a copy to the device");
    cuda::check(cudaStreamSynchronize(stream_), "a copy to the device");
  }
  void copy_to_host(Stream&, void* to, const void* from, std::size_t bytes) override {
    use();
    if (bytes > 0) cuda::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_), "a copy to the host");
    cuda::check(cudaStreamSynchronize(stream_), "a copy to the host");
  }
  void copy(Stream&, void* to, const void* from, std::size_t bytes) override {
    use();
    if (bytes > 0)
      cuda::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_), "a copy on the device");
  }
  void fill_zero(Stream&, void* to, std::size_t bytes) override {
    use();
    if (bytes > 0) cuda::check(cudaMemsetAsync(to, 0, bytes, stream_), "zeros");
  }

  Status check() override {
    cudaError_t status = cudaSetDevice(index_);
    if (status == cudaSuccess) status = cudaStreamSynchronize(stream_);
    if (status == cudaSuccess) return {};
    return Error{Errc::unavailable, name() + " cannot be used any more: " + cudaGetErrorString(status)};
  }
  std::size_t peak_memory() const override {
    const std::lock_guard lock(mutex_);
    return peak_;
  }
  void trim() override {
    use();
    const std::lock_guard lock(mutex_);
    cuda::check(cudaStreamSynchronize(stream_), "a wait for the device");
    cache_.clear();
    peak_ = in_use_;
  }

  cudaStream_t stream() const { return stream_; }
  int index() const { return index_; }
  int multiprocessors() const { return properties_.multiProcessorCount; }
  // CUDA keeps the current device a thread.
  void use() const { cuda::check(cudaSetDevice(index_), "the device"); }

 private:
  int index_;
  cudaDeviceProp properties_;
  cudaStream_t stream_ = nullptr;
  mutable std::mutex mutex_;
  BlockCache cache_;
  StagingRing staging_;
  std::map<void*, std::size_t> sizes_;
  std::size_t in_use_ = 0, peak_ = 0;
};

Error unsupported(std::string message) {
  return {Errc::unsupported, std::move(message)};
}

}  // namespace

Result<int> device_count() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return count;
  static_cast<void>(cudaGetLastError());
  DriverAnswer answer = DriverAnswer::no_answer;
  int driver = 0;
  if (status == cudaErrorInsufficientDriver) {
    answer = DriverAnswer::too_old;
    static_cast<void>(cudaDriverGetVersion(&driver));
  } else if (status == cudaSuccess || status == cudaErrorNoDevice) {
    answer = DriverAnswer::no_gpu;
  }
  TRIB_TRY(check_driver(answer, driver, CUDART_VERSION, cudaGetErrorString(status)));
  return unsupported("the NVIDIA driver shows no GPU");
}

Result<Device*> open_cuda_device(int index) {
  TRIB_ASSIGN(const int count, device_count());
  if (index < 0 || index >= count)
    return unsupported("there is no cuda:" + std::to_string(index) + ": this machine has " + std::to_string(count) +
                       (count == 1 ? " GPU, cuda:0" : " GPUs, the last is cuda:" + std::to_string(count - 1)));
  static std::mutex mutex;
  static std::map<int, std::unique_ptr<CudaDevice>>& devices = *new std::map<int, std::unique_ptr<CudaDevice>>();
  const std::lock_guard lock(mutex);
  std::unique_ptr<CudaDevice>& device = devices[index];
  if (device) return device.get();
  cudaDeviceProp properties{};
  if (const cudaError_t status = cudaGetDeviceProperties(&properties, index); status != cudaSuccess)
    return unsupported("cuda:" + std::to_string(index) + ": " + cudaGetErrorString(status));
  bool loads = cudaSetDevice(index) == cudaSuccess;
  loads = loads && kernels_load();
  TRIB_TRY(check_gpu(index, properties.name, properties.major, properties.minor, loads, TRIBUTARY_CUDA_ARCHITECTURES));
  TRIB_TRY(load_blas());
  try {
    device = std::make_unique<CudaDevice>(index, properties);
  } catch (const FatalError& error) {
    return unsupported("cuda:" + std::to_string(index) + " (" + properties.name + "): " + error.error().message);
  } catch (const std::bad_alloc&) {
    return unsupported("cuda:" + std::to_string(index) + " (" + properties.name + ") has no free memory");
  }
  return device.get();
}

cudaStream_t handle(Stream& stream) {
  const auto& device = static_cast<CudaDevice&>(stream.device());
  device.use();
  return device.stream();
}

int device_index(Stream& stream) {
  return static_cast<CudaDevice&>(stream.device()).index();
}

int multiprocessors(Stream& stream) {
  return static_cast<CudaDevice&>(stream.device()).multiprocessors();
}

}  // namespace trib::kernels::cuda
