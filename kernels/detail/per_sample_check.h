// What every operation on per-sample gradients demands of them.
#pragma once

#include <algorithm>

#include "kernels/detail/dispatch.h"
#include "kernels/detail/raw_access.h"
#include "kernels/per_sample.h"

namespace trib::kernels::detail {

// Rows of a table in host memory (PerSampleGradient::rows).
struct TableRows {
  const float* values;
  const std::int32_t* rows;
  const std::int64_t* ends;
  std::int64_t columns;

  explicit TableRows(const PerSampleGradient& gradient)
      : values(RawAccess::data<float>(gradient.values)),
        rows(RawAccess::data<std::int32_t>(gradient.rows)),
        ends(RawAccess::data<std::int64_t>(gradient.row_ends)),
        columns(gradient.shape[1]) {}
  std::int64_t begin(std::int64_t sample) const { return sample == 0 ? 0 : ends[sample - 1]; }
  std::int64_t end(std::int64_t sample) const { return ends[sample]; }
  const float* row(std::int64_t place) const { return values + place * columns; }

  // visit(sample, place, row of the table, count) for all that lie in rows [first, last) of the table, sample by
  // sample: `count` rows that follow on each other at a time.
  template <typename Visit>
  void each_between(std::int64_t samples, std::int64_t first, std::int64_t last, const Visit& visit) const {
    for (std::int64_t i = 0; i < samples; ++i) {
      const std::int32_t* from = std::lower_bound(rows + begin(i), rows + end(i), first);
      while (from != rows + end(i) && *from < last) {
        const std::int32_t* to = from + 1;
        while (to != rows + end(i) && *to < last && *to - *from == to - from) ++to;
        visit(i, from - rows, *from, to - from);
        from = to;
      }
    }
  }
};

// Throws std::invalid_argument where rows lie outside of the table or are not in order. In host memory.
inline void check_rows(const PerSampleGradients& gradients) {
  for (const PerSampleGradient& gradient : gradients.tensors) {
    if (!gradient.is_rows()) continue;
    const TableRows table(gradient);
    bool fits = gradients.sample_count == 0 || table.end(gradients.sample_count - 1) == gradient.rows.element_count();
    for (std::int64_t i = 0; fits && i < gradients.sample_count; ++i) {
      fits = table.begin(i) >= 0 && table.begin(i) <= table.end(i) && table.end(i) <= gradient.rows.element_count();
      for (std::int64_t place = table.begin(i); fits && place < table.end(i); ++place)
        fits = table.rows[place] >= (place == table.begin(i) ? 0 : table.rows[place - 1] + 1) &&
               table.rows[place] < gradient.shape[0];
    }
    require(fits, "rows of a table are not in order, or lie outside of it");
  }
}

inline void check(const PerSampleGradients& gradients) {
  for (const PerSampleGradient& gradient : gradients.tensors) {
    const std::int64_t size = element_count(gradient.shape), count = gradients.sample_count;
    bool fits, is_f32;
    if (gradient.is_outer_product()) {
      fits = gradient.output_grads.dim(0) == count && gradient.inputs.dim(0) == count &&
             gradient.output_grads.dim(1) * gradient.inputs.dim(1) == size;
      is_f32 = gradient.output_grads.dtype() == DType::f32 && gradient.inputs.dtype() == DType::f32;
    } else if (gradient.is_rows()) {
      fits = gradient.shape.size() == 2 && gradient.row_ends.element_count() == count &&
             gradient.values.element_count() == gradient.rows.element_count() * gradient.shape[1];
      is_f32 = gradient.values.dtype() == DType::f32;
      require(gradient.rows.dtype() == DType::i32 && gradient.row_ends.dtype() == DType::i64,
              "rows of a table are int32, and where those of a sample end is int64");
    } else {
      fits = gradient.values.element_count() == count * size;
      is_f32 = gradient.values.dtype() == DType::f32;
    }
    require(fits, "per-sample gradients do not fit their tensor's shape");
    require(is_f32, "per-sample operations take float32 tensors");
  }
}

}  // namespace trib::kernels::detail
