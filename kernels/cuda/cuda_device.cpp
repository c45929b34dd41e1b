// CUDA devices: memory that is kept and reused, one stream each, copies that do not wait, and CUDA graphs.
#include "kernels/cuda/cuda_device.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <exception>
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

// Pinned memory that small results are copied into. A slot that is taken again may still await the copy of a read that
// nobody waited for; the new copy comes after it on the one stream.
class ReadSlots {
 public:
  static constexpr std::size_t slot_bytes = 64;
  struct Slot {
    std::byte* memory = nullptr;
    cudaEvent_t copied = nullptr;
  };

  Slot take() {
    if (free_.empty()) {
      constexpr std::size_t more = 64;
      void* memory = nullptr;
      check(cudaHostAlloc(&memory, slot_bytes * more, cudaHostAllocDefault), "pinned memory");
      for (std::size_t i = 0; i < more; ++i) {
        free_.push_back({static_cast<std::byte*>(memory) + i * slot_bytes});
        check(cudaEventCreateWithFlags(&free_.back().copied, cudaEventDisableTiming), "an event");
      }
    }
    const Slot slot = free_.back();
    free_.pop_back();
    return slot;
  }
  void give(const Slot& slot) { free_.push_back(slot); }

 private:
  std::vector<Slot> free_;
};

class CudaDevice;

// What a thread records. Its operations go to a stream of their own, so that those of other threads are carried out
// meanwhile. Memory that it takes and gives back stays with the recording, which writes it on every submission.
struct Capture {
  CudaDevice* device;
  cudaStream_t stream;
  std::multimap<std::size_t, void*> free;
  std::map<void*, std::size_t> live;
};
thread_local Capture* this_thread_captures = nullptr;

class CudaStream final : public Stream {
 public:
  explicit CudaStream(CudaDevice& device) : device_(device) {}
  Device& device() override;
  void synchronize() override;
  bool records() const override { return true; }
  std::unique_ptr<Recording> record(const std::function<void()>& work) override;

 private:
  CudaDevice& device_;
};

class CudaDevice final : public Device {
 public:
  CudaDevice(int index, const cudaDeviceProp& properties) : index_(index), properties_(properties) {
    use();
    cuda::check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream");
    cuda::check(cudaStreamCreateWithFlags(&capture_stream_, cudaStreamNonBlocking), "a stream");
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
  std::unique_ptr<Stream> make_stream() override { return std::make_unique<CudaStream>(*this); }

  // The largest power of two that is at most 3 % of the rows divides the result.
  std::int64_t row_class(std::int64_t rows) const override {
    std::int64_t step = 1;
    while (2 * step * 100 <= 3 * rows) step *= 2;
    return (rows + step - 1) / step * step;
  }

  void* allocate(std::size_t bytes) override {
    use();
    // Sizes that differ little share blocks.
    const std::size_t step = bytes < (std::size_t{1} << 20) ? 512 : std::size_t{1} << 20;
    std::size_t block_bytes = (bytes + step - 1) / step * step;
    const std::lock_guard lock(mutex_);
    Capture* const capture = captured();
    if (capture != nullptr) {
      if (const auto found = capture->free.lower_bound(block_bytes); found != capture->free.end()) {
        void* const pointer = found->second;
        capture->live.emplace(pointer, found->first);
        capture->free.erase(found);
        return pointer;
      }
    }
    void* pointer = cache_.take(block_bytes, block_bytes);
    if (pointer == nullptr && cudaMalloc(&pointer, block_bytes) != cudaSuccess) {
      static_cast<void>(cudaGetLastError());
      cuda::check(cudaStreamSynchronize(stream_), "a wait for the device");
      cache_.clear();
      cuda::check(cudaMalloc(&pointer, block_bytes), "memory");
    }
    (capture != nullptr ? capture->live : sizes_)[pointer] = block_bytes;
    in_use_ += block_bytes;
    peak_ = std::max(peak_, in_use_);
    return pointer;
  }
  void deallocate(void* pointer, std::size_t) override {
    const std::lock_guard lock(mutex_);
    if (Capture* const capture = captured()) {
      if (const auto found = capture->live.find(pointer); found != capture->live.end()) {
        capture->free.emplace(found->second, pointer);
        capture->live.erase(found);
        return;
      }
    }
    const auto found = sizes_.find(pointer);
    in_use_ -= found->second;
    cache_.give(pointer, found->second);
    sizes_.erase(found);
  }
  void copy_from_host(Stream&, void* to, const void* from, std::size_t bytes) override {
    if (bytes == 0) return;
    not_while_recording();
    use();
    const std::lock_guard lock(mutex_);
    if (bytes <= StagingRing::slot_bytes) return staging_.copy(stream_, to, from, bytes);
    cuda::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_), "a copy to the device");
    cuda::check(cudaStreamSynchronize(stream_), "a copy to the device");
  }
  void copy_to_host(Stream&, void* to, const void* from, std::size_t bytes) override {
    not_while_recording();
    use();
    if (bytes > 0) cuda::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_), "a copy to the host");
    cuda::check(cudaStreamSynchronize(stream_), "a copy to the host");
  }
  std::unique_ptr<HostRead> read(Stream& stream, const void* from, std::size_t bytes) override;
  void copy(Stream&, void* to, const void* from, std::size_t bytes) override {
    use();
    if (bytes > 0)
      cuda::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream()), "a copy on the device");
  }
  void fill_zero(Stream&, void* to, std::size_t bytes) override {
    use();
    if (bytes > 0) cuda::check(cudaMemsetAsync(to, 0, bytes, stream()), "zeros");
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

  // The stream that this thread's operations go to.
  cudaStream_t stream() const {
    const Capture* const capture = captured();
    return capture != nullptr ? capture->stream : stream_;
  }
  cudaStream_t main_stream() const { return stream_; }
  cudaStream_t capture_stream() const { return capture_stream_; }
  std::mutex& capture_mutex() { return capture_mutex_; }
  void not_while_recording() const {
    if (captured() != nullptr)
      throw std::logic_error("work that is recorded must not copy to or from the host or wait");
  }
  // Memory of a recording that is no more, or of one that was not made.
  void release(const std::multimap<std::size_t, void*>& blocks) {
    const std::lock_guard lock(mutex_);
    for (const auto& [bytes, pointer] : blocks) {
      in_use_ -= bytes;
      cache_.give(pointer, bytes);
    }
  }
  // Blocks that outlived the work that was recorded belong to their tensors.
  void adopt(const std::map<void*, std::size_t>& blocks) {
    const std::lock_guard lock(mutex_);
    sizes_.insert(blocks.begin(), blocks.end());
  }
  void give_slot(const ReadSlots::Slot& slot) {
    const std::lock_guard lock(mutex_);
    slots_.give(slot);
  }
  int index() const { return index_; }
  int multiprocessors() const { return properties_.multiProcessorCount; }
  int compute_capability() const { return 10 * properties_.major + properties_.minor; }
  int dynamic_shared_memory() const { return static_cast<int>(properties_.sharedMemPerBlockOptin); }
  // CUDA keeps the current device a thread.
  void use() const { cuda::check(cudaSetDevice(index_), "the device"); }

 private:
  Capture* captured() const {
    return this_thread_captures != nullptr && this_thread_captures->device == this ? this_thread_captures : nullptr;
  }

  int index_;
  cudaDeviceProp properties_;
  cudaStream_t stream_ = nullptr, capture_stream_ = nullptr;
  std::mutex capture_mutex_;  // one thread records at a time
  mutable std::mutex mutex_;
  BlockCache cache_;
  StagingRing staging_;
  ReadSlots slots_;
  std::map<void*, std::size_t> sizes_;
  std::size_t in_use_ = 0, peak_ = 0;
};

class CudaRead final : public HostRead {
 public:
  CudaRead(CudaDevice& device, const ReadSlots::Slot& slot, std::size_t bytes)
      : device_(device), slot_(slot), bytes_(bytes) {}
  CudaRead(const CudaRead&) = delete;
  CudaRead& operator=(const CudaRead&) = delete;
  ~CudaRead() override { device_.give_slot(slot_); }
  bool ready() override {
    device_.use();
    const cudaError_t status = cudaEventQuery(slot_.copied);
    if (status == cudaErrorNotReady) return false;
    check(status, "a copy to the host");
    return true;
  }
  std::span<const std::byte> bytes() override {
    device_.use();
    check(cudaEventSynchronize(slot_.copied), "a wait for a copy");
    return {slot_.memory, bytes_};
  }

 private:
  CudaDevice& device_;
  ReadSlots::Slot slot_;
  std::size_t bytes_;
};

std::unique_ptr<HostRead> CudaDevice::read(Stream& stream, const void* from, std::size_t bytes) {
  if (bytes > ReadSlots::slot_bytes) return Device::read(stream, from, bytes);
  not_while_recording();
  use();
  ReadSlots::Slot slot;
  {
    const std::lock_guard lock(mutex_);
    slot = slots_.take();
  }
  auto made = std::make_unique<CudaRead>(*this, slot, bytes);
  cuda::check(cudaMemcpyAsync(slot.memory, from, bytes, cudaMemcpyDeviceToHost, stream_), "a copy to the host");
  cuda::check(cudaEventRecord(slot.copied, stream_), "an event");
  return made;
}

// A CUDA graph that can be launched, and the memory that it uses beside its tensors.
class CudaGraph final : public Recording {
 public:
  CudaGraph(CudaDevice& device, cudaGraphExec_t graph, std::multimap<std::size_t, void*> memory)
      : device_(device), graph_(graph), memory_(std::move(memory)) {}
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;
  ~CudaGraph() override {
    static_cast<void>(cudaGraphExecDestroy(graph_));
    device_.release(memory_);
  }
  void submit() override {
    device_.use();
    device_.not_while_recording();
    check(cudaGraphLaunch(graph_, device_.main_stream()), "a graph");
  }

 private:
  CudaDevice& device_;
  cudaGraphExec_t graph_;
  std::multimap<std::size_t, void*> memory_;
};

Device& CudaStream::device() {
  return device_;
}

void CudaStream::synchronize() {
  device_.use();
  device_.not_while_recording();
  check(cudaStreamSynchronize(device_.main_stream()), "a wait for the device");
}

std::unique_ptr<Recording> CudaStream::record(const std::function<void()>& work) {
  device_.use();
  device_.not_while_recording();
  const std::lock_guard lock(device_.capture_mutex());
  Capture capture{&device_, device_.capture_stream(), {}, {}};
  // Relaxed: memory may be taken from the driver meanwhile.
  check(cudaStreamBeginCapture(capture.stream, cudaStreamCaptureModeRelaxed), "a recording");
  std::exception_ptr failure;
  this_thread_captures = &capture;
  try {
    work();
  } catch (...) {
    failure = std::current_exception();
  }
  this_thread_captures = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  const bool ended = cudaStreamEndCapture(capture.stream, &graph) == cudaSuccess && graph != nullptr;
  if (ended && failure == nullptr && capture.live.empty() && cudaGraphInstantiate(&executable, graph, 0) != cudaSuccess)
    executable = nullptr;  // for want of memory, say
  static_cast<void>(cudaGetLastError());
  if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
  if (executable != nullptr) return std::make_unique<CudaGraph>(device_, executable, std::move(capture.free));
  device_.adopt(capture.live);
  device_.release(capture.free);
  if (failure != nullptr) std::rethrow_exception(failure);
  return nullptr;
}

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

cudaStream_t main_stream(Stream& stream) {
  return static_cast<CudaDevice&>(stream.device()).main_stream();
}

cudaStream_t capture_stream(Stream& stream) {
  return static_cast<CudaDevice&>(stream.device()).capture_stream();
}

int multiprocessors(Stream& stream) {
  return static_cast<CudaDevice&>(stream.device()).multiprocessors();
}

int compute_capability(Stream& stream) {
  return static_cast<CudaDevice&>(stream.device()).compute_capability();
}

int dynamic_shared_memory(Stream& stream) {
  return static_cast<CudaDevice&>(stream.device()).dynamic_shared_memory();
}

}  // namespace trib::kernels::cuda
