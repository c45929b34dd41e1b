#include "kernels/collective.h"

#include <stdexcept>

#include "common/log.h"
#include "kernels/detail/dispatch.h"
#ifdef TRIB_HAS_NCCL
#include "kernels/cuda/nccl.h"
#endif

namespace trib::kernels {
namespace {

template <typename T>
void add(HostTensor& to, const HostTensor& from) {
  const auto target = to.as<T>();
  const auto source = from.as<T>();
  for (std::size_t i = 0; i < target.size(); ++i) target[i] += source[i];
}

class HostCollective final : public Collective {
 public:
  explicit HostCollective(std::vector<Stream*> streams) : streams_(std::move(streams)) {}

  std::string name() const override { return "host memory"; }

  void add_to_first(const std::vector<std::vector<Tensor>>& tensors) override {
    detail::require(tensors.size() == streams_.size(), "Collective: one list of tensors a device is needed");
    for (std::size_t i = 0; i < tensors[0].size(); ++i) {
      HostTensor sum = tensors[0][i].to_host(*streams_[0]);
      for (std::size_t d = 1; d < tensors.size(); ++d) {
        const HostTensor part = tensors[d].at(i).to_host(*streams_[d]);
        detail::require(part.dtype() == sum.dtype() && part.shape() == sum.shape(),
                        "Collective: the devices' tensors differ");
        switch (sum.dtype()) {
          case DType::i64:
            add<std::int64_t>(sum, part);
            break;
          case DType::f32:
            add<float>(sum, part);
            break;
          case DType::f64:
            add<double>(sum, part);
            break;
          default:
            throw std::invalid_argument("Collective: takes int64, float32 and float64");
        }
      }
      tensors[0][i].copy_from_host(*streams_[0], sum);
    }
  }

  void copy_from_first(const std::vector<std::vector<Tensor>>& tensors) override {
    detail::require(tensors.size() == streams_.size(), "Collective: one list of tensors a device is needed");
    for (std::size_t i = 0; i < tensors[0].size(); ++i) {
      const HostTensor host = tensors[0][i].to_host(*streams_[0]);
      for (std::size_t d = 1; d < tensors.size(); ++d) tensors[d].at(i).copy_from_host(*streams_[d], host);
    }
  }

 private:
  std::vector<Stream*> streams_;
};

}  // namespace

std::unique_ptr<Collective> make_host_collective(std::vector<Stream*> streams) {
  return std::make_unique<HostCollective>(std::move(streams));
}

Result<std::unique_ptr<Collective>> make_collective(std::vector<Stream*> streams) {
  bool all_gpus = true;
  for (Stream* stream : streams) all_gpus = all_gpus && stream->device().kind() == DeviceKind::cuda;
  if (!all_gpus) return make_host_collective(std::move(streams));
#ifdef TRIB_HAS_NCCL
  auto made = cuda::make_nccl_collective(streams);
  if (made || made.error().code != Errc::unsupported) return made;
  const std::string reason = made.error().message;
#else
  const std::string reason = "this build has no NCCL";
#endif
  spdlog::info("the GPUs' sums travel over host memory: {}", reason);
  return make_host_collective(std::move(streams));
}

}  // namespace trib::kernels
