// Tensors of several devices in one process, added up and handed round: what data parallelism needs of the machine.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/result.h"
#include "kernels/tensor.h"

namespace trib::kernels {

// Joins one stream on each of several devices. tensors[d] are device d's, the same number, types and shapes on each;
// int64, float32 and float64. Calls are ordered after what was submitted to the streams before, and what is submitted
// later comes after them. Integers are added exactly, so in any order; floats in an order that is the same from run to
// run. Where a device fails: FatalError with Errc::unavailable.
class Collective {
 public:
  virtual ~Collective() = default;
  virtual std::string name() const = 0;  // "NCCL 2.28.9", "host memory"
  // tensors[0][i] += Σ_{d > 0} tensors[d][i].
  virtual void add_to_first(const std::vector<std::vector<Tensor>>& tensors) = 0;
  // tensors[d][i] = tensors[0][i] for every d.
  virtual void copy_from_first(const std::vector<std::vector<Tensor>>& tensors) = 0;
};

// Over NCCL where all streams are of NVIDIA GPUs and its library can be loaded, otherwise over host memory, with one
// log line that says why. The streams, at least two on devices that differ, outlive it. Errc::unavailable where NCCL is
// there and does not start.
Result<std::unique_ptr<Collective>> make_collective(std::vector<Stream*> streams);

// Over host memory, whatever the devices are.
std::unique_ptr<Collective> make_host_collective(std::vector<Stream*> streams);

}  // namespace trib::kernels
