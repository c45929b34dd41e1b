// Looking up, gathering, scattering and repeating rows.
#pragma once

#include "kernels/tensor.h"

namespace trib::kernels {

// y row i = tokens_table[tokens[i]] + positions_table[positions[i]] + constant. Tables (·, d) and constant (d) float32,
// indices (t) int32 and in range.
void embed(Stream& stream, const Tensor& tokens, const Tensor& tokens_table, const Tensor& positions,
           const Tensor& positions_table, const Tensor& constant, const Tensor& y);

// y row i = x row rows[i]; any type. rows int32.
void gather_rows(Stream& stream, const Tensor& x, const Tensor& rows, const Tensor& y);
// y row rows[i] = x row i; any type, rows distinct.
void scatter_rows(Stream& stream, const Tensor& x, const Tensor& rows, const Tensor& y);
// y row rows[i] += x row i; float32, rows distinct.
void scatter_add_rows(Stream& stream, const Tensor& x, const Tensor& rows, const Tensor& y);

// Every row of y (n, d) float32 = row (d).
void fill_rows(Stream& stream, const Tensor& row, const Tensor& y);

}  // namespace trib::kernels
