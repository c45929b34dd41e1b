// What the CUDA sources share: error checks, the stream behind a Stream, and tensors as kernel arguments.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>

#include "kernels/detail/dispatch.h"
#include "kernels/detail/raw_access.h"
#include "kernels/matrix_view.h"

namespace trib::kernels::cuda {

// Throws: std::bad_alloc where memory ran out, FatalError (Errc::unavailable) for everything else, after which the
// device cannot be used by this process any more.
[[noreturn]] void fail(cudaError_t status, const char* what);
inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) fail(status, what);
}
// After a launch: whether it was accepted. Failures inside a kernel show at the next synchronization.
inline void check_launch(const char* kernel) {
  check(cudaGetLastError(), kernel);
}

// Where this thread's operations go: the device's one stream, or the one that a thread's work is recorded from.
cudaStream_t handle(Stream& stream);
cudaStream_t main_stream(Stream& stream);
cudaStream_t capture_stream(Stream& stream);
int multiprocessors(Stream& stream);
int compute_capability(Stream& stream);     // 90 is 9.0
int dynamic_shared_memory(Stream& stream);  // the most bytes of a block, static ones included

// float32 or bfloat16 elements on the device, or none.
struct Values {
  void* data = nullptr;
  bool is_bf16 = false;
};
inline Values values(const Tensor& tensor) {
  if (!tensor.defined()) return {};
  detail::require(tensor.dtype() == DType::f32 || tensor.dtype() == DType::bf16,
                  "this operation takes float32 and bfloat16");
  return {RawAccess::address(tensor), tensor.dtype() == DType::bf16};
}

// Some columns of a row-major matrix.
struct Matrix {
  Values values;
  std::int64_t stride = 0;  // elements from row to row
};
inline Matrix matrix(const MatrixView& view) {
  if (!view.defined()) return {};
  Values whole = values(view.tensor);
  const std::size_t offset = static_cast<std::size_t>(view.first_column) * (whole.is_bf16 ? 2 : 4);
  return {{static_cast<std::byte*>(whole.data) + offset, whole.is_bf16}, view.row_stride()};
}

inline unsigned blocks_for(std::int64_t count, std::int64_t per_block) {
  return static_cast<unsigned>((count + per_block - 1) / per_block);
}

}  // namespace trib::kernels::cuda
