// NCCL for the devices of one process: one thread, a communicator a device, calls in groups. Its library is loaded when
// it is first needed: a program that uses one GPU also runs where it is missing.
#include "kernels/cuda/nccl.h"

#include <dlfcn.h>
#include <nccl.h>

#include <stdexcept>
#include <string>

#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/runtime.h"

namespace trib::kernels::cuda {
namespace {

#define TRIB_NCCL_FUNCTIONS(X) \
  X(ncclGetVersion)            \
  X(ncclGetErrorString)        \
  X(ncclCommInitAll)           \
  X(ncclCommDestroy)           \
  X(ncclGroupStart)            \
  X(ncclGroupEnd)              \
  X(ncclReduce)                \
  X(ncclBroadcast)

struct Nccl {
#define TRIB_DECLARE(name) decltype(&::name) name = nullptr;
  TRIB_NCCL_FUNCTIONS(TRIB_DECLARE)
#undef TRIB_DECLARE
  int version = 0;  // 22809 is 2.28.9
};

Result<Nccl> load() {
  void* library = nullptr;
  for (const char* path : {"libnccl.so.2", "/usr/local/cuda/lib64/libnccl.so.2", "/usr/local/cuda/lib/libnccl.so.2"})
    if (library == nullptr) library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr)
    return Error{Errc::unsupported, std::string("cannot load libnccl.so.2 (") + dlerror() +
                                        "): install NCCL 2 or name its folder in "
                                        "LD_LIBRARY_PATH"};
  Nccl nccl;
#define TRIB_LOAD(name)                                                     \
  nccl.name = reinterpret_cast<decltype(nccl.name)>(dlsym(library, #name)); \
  if (nccl.name == nullptr) return Error{Errc::unsupported, "libnccl.so.2 lacks " #name};
  TRIB_NCCL_FUNCTIONS(TRIB_LOAD)
#undef TRIB_LOAD
  nccl.ncclGetVersion(&nccl.version);
  return nccl;
}

const Result<Nccl>& loaded() {
  static const Result<Nccl> nccl = load();
  return nccl;
}

ncclDataType_t type_of(const Tensor& tensor) {
  switch (tensor.dtype()) {
    case DType::i64:
      return ncclInt64;
    case DType::f32:
      return ncclFloat32;
    case DType::f64:
      return ncclFloat64;
    default:
      throw std::invalid_argument("Collective: takes int64, float32 and float64");
  }
}

class NcclCollective final : public Collective {
 public:
  NcclCollective(const Nccl& nccl, std::vector<Stream*> streams, std::vector<ncclComm_t> communicators)
      : nccl_(nccl), streams_(std::move(streams)), communicators_(std::move(communicators)) {}
  ~NcclCollective() override {
    for (ncclComm_t communicator : communicators_) nccl_.ncclCommDestroy(communicator);
  }

  std::string name() const override {
    return "NCCL " + std::to_string(nccl_.version / 10000) + "." + std::to_string(nccl_.version / 100 % 100) + "." +
           std::to_string(nccl_.version % 100);
  }

  void add_to_first(const std::vector<std::vector<Tensor>>& tensors) override {
    for_each(tensors, [&](std::size_t d, const Tensor& tensor, cudaStream_t stream) {
      void* const data = RawAccess::address(tensor);
      return nccl_.ncclReduce(data, data, static_cast<std::size_t>(tensor.element_count()), type_of(tensor), ncclSum, 0,
                              communicators_[d], stream);
    });
  }

  void copy_from_first(const std::vector<std::vector<Tensor>>& tensors) override {
    for_each(tensors, [&](std::size_t d, const Tensor& tensor, cudaStream_t stream) {
      void* const data = RawAccess::address(tensor);
      return nccl_.ncclBroadcast(data, data, static_cast<std::size_t>(tensor.element_count()), type_of(tensor), 0,
                                 communicators_[d], stream);
    });
  }

 private:
  // One group: every device enqueues every call before any of them has to move.
  template <typename Call>
  void for_each(const std::vector<std::vector<Tensor>>& tensors, const Call& call) {
    detail::require(tensors.size() == streams_.size(), "Collective: one list of tensors a device is needed");
    check_nccl(nccl_.ncclGroupStart());
    ncclResult_t failed = ncclSuccess;
    for (std::size_t d = 0; d < tensors.size(); ++d) {
      detail::require(tensors[d].size() == tensors[0].size(), "Collective: the devices' tensors differ");
      const cudaStream_t stream = handle(*streams_[d]);
      for (const Tensor& tensor : tensors[d])
        if (const ncclResult_t result = call(d, tensor, stream); result != ncclSuccess) failed = result;
    }
    check_nccl(nccl_.ncclGroupEnd());
    check_nccl(failed);
  }
  void check_nccl(ncclResult_t result) const {
    if (result == ncclSuccess) return;
    throw FatalError(Error{Errc::unavailable, std::string("NCCL: ") + nccl_.ncclGetErrorString(result)});
  }

  const Nccl& nccl_;
  std::vector<Stream*> streams_;
  std::vector<ncclComm_t> communicators_;
};

}  // namespace

Result<std::unique_ptr<Collective>> make_nccl_collective(const std::vector<Stream*>& streams) {
  if (!loaded()) return loaded().error();
  const Nccl& nccl = *loaded();
  std::vector<int> indices;
  for (Stream* stream : streams) indices.push_back(device_index(*stream));
  std::vector<ncclComm_t> communicators(streams.size());
  const ncclResult_t result =
      nccl.ncclCommInitAll(communicators.data(), static_cast<int>(streams.size()), indices.data());
  if (result != ncclSuccess)
    return Error{Errc::unavailable, std::string("NCCL does not start on the GPUs named: ") +
                                        nccl.ncclGetErrorString(result) +
                                        "; NCCL_DEBUG=INFO in the environment says why, and one GPU works without it"};
  return std::unique_ptr<Collective>(std::make_unique<NcclCollective>(nccl, streams, std::move(communicators)));
}

}  // namespace trib::kernels::cuda
