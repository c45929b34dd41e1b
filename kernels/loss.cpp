#include "kernels/loss.h"

#include <algorithm>
#include <cmath>

#include "kernels/cuda/operations.h"
#include "kernels/detail/dispatch.h"
#include "kernels/detail/raw_access.h"

namespace trib::kernels {

void cross_entropy(Stream& stream, const Tensor& logits, const Tensor& labels, const Tensor& losses,
                   const Tensor& d_logits) {
  const std::int64_t count = logits.dim(0), classes = logits.dim(1);
  detail::require(labels.dtype() == DType::i32 && labels.element_count() == count && losses.element_count() == count &&
                      d_logits.element_count() == logits.element_count(),
                  "cross_entropy: shapes do not fit");
  detail::dispatch(
      stream,
      [&] {
        for (std::int64_t i = 0; i < count; ++i) {
          const float* x = RawAccess::data<float>(logits) + i * classes;
          float* dx = RawAccess::data<float>(d_logits) + i * classes;
          const std::int32_t label = RawAccess::data<std::int32_t>(labels)[i];
          if (label < 0) {
            RawAccess::data<float>(losses)[i] = 0;
            std::fill_n(dx, classes, 0.0f);
            continue;
          }
          const double peak = *std::max_element(x, x + classes);
          double total = 0;
          for (std::int64_t j = 0; j < classes; ++j) total += std::exp(x[j] - peak);
          RawAccess::data<float>(losses)[i] = static_cast<float>(std::log(total) + peak - x[label]);
          for (std::int64_t j = 0; j < classes; ++j)
            dx[j] = static_cast<float>(std::exp(x[j] - peak) / total - (j == label ? 1.0 : 0.0));
        }
      },
      [&] { cuda::cross_entropy(stream, logits, labels, losses, d_logits); });
}

}  // namespace trib::kernels
