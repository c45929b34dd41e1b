// Some columns of a matrix, so that an operation can work inside a wider one (the query part of a fused QKV product).
#pragma once

#include "kernels/tensor.h"

namespace trib::kernels {

struct MatrixView {
  MatrixView() = default;
  MatrixView(const Tensor& matrix)  // NOLINT: a matrix is all of its columns
      : tensor(matrix), columns(matrix.defined() ? matrix.dim(1) : 0) {}
  MatrixView(const Tensor& matrix, std::int64_t first, std::int64_t count)
      : tensor(matrix), first_column(first), columns(count) {}

  bool defined() const { return tensor.defined(); }
  std::int64_t rows() const { return tensor.dim(0); }
  std::int64_t row_stride() const { return tensor.dim(1); }
  MatrixView row_range(std::int64_t first, std::int64_t count) const {
    return {tensor.rows(first, count), first_column, columns};
  }

  Tensor tensor;  // 2-d
  std::int64_t first_column = 0, columns = 0;
};

}  // namespace trib::kernels
