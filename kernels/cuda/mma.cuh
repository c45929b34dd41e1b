// The tensor cores' mma.m16n8k16 on bfloat16 (from Ampere on), and how its factors come from shared memory.
//
// Fragments, for lane l: an accumulator holds rows l/4 and l/4 + 8 at columns 2(l%4), 2(l%4) + 1 of an 8-column tile;
// two neighbouring accumulator tiles, rounded to bfloat16, are the left factor of the next product. Row strides are in
// elements; an odd number of 16-byte units puts eight rows into different banks.
#pragma once

#include "kernels/cuda/device_functions.cuh"

namespace trib::kernels::cuda {

using Bf16 = __nv_bfloat16;

__device__ inline std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}
__device__ inline void load_matrices(std::uint32_t (&r)[4], const Bf16* at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(at)));
}
__device__ inline void load_matrices_transposed(std::uint32_t (&r)[4], const Bf16* at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(at)));
}
// c (16, 8) += a (16, 16)·b (16, 8).
__device__ inline void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// 16 bytes into shared memory, zeros if not `present`.
__device__ inline void copy_async(Bf16* to, const Bf16* from, bool present) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(present ? 16 : 0));
}
// Copies since the last call are one group; wait_for_copies<n>() returns when all but the n youngest groups are there.
__device__ inline void end_copy_group() {
  asm volatile("cp.async.commit_group;");
}
template <int younger>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(younger));
}
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_all;");
}

// The left factor rows [row, row + 16), columns [k, k + 16) of a matrix in shared memory.
template <int stride>
__device__ inline void left_factor(std::uint32_t (&r)[4], const Bf16* m, int row, int k) {
  const int lane = threadIdx.x % 32;
  load_matrices(r, m + (row + lane % 16) * stride + k + lane / 16 * 8);
}
// The left factor mᵀ: rows [row, row + 16) are columns of m, columns [k, k + 16) are its rows.
template <int stride>
__device__ inline void left_factor_of_transposed(std::uint32_t (&r)[4], const Bf16* m, int row, int k) {
  const int lane = threadIdx.x % 32;
  load_matrices_transposed(r, m + (k + lane % 8 + lane / 16 * 8) * stride + row + lane / 8 % 2 * 8);
}
// The right factor mᵀ, two tiles of 8 columns: columns [n, n + 16) are rows of m, rows [k, k + 16) are its columns.
template <int stride>
__device__ inline void right_factor_of_transposed(std::uint32_t (&r)[4], const Bf16* m, int k, int n) {
  const int lane = threadIdx.x % 32;
  load_matrices(r, m + (n + lane % 8 + lane / 16 * 8) * stride + k + lane / 8 % 2 * 8);
}
// The right factor m, two tiles of 8 columns: rows [k, k + 16), columns [n, n + 16).
template <int stride>
__device__ inline void right_factor(std::uint32_t (&r)[4], const Bf16* m, int k, int n) {
  const int lane = threadIdx.x % 32;
  load_matrices_transposed(r, m + (k + lane % 8 + lane / 8 % 2 * 8) * stride + n + lane / 16 * 8);
}
// The right factor m, one tile of 8 columns that are all its columns: rows [k, k + 16), stride 8.
__device__ inline void right_factor_of_eight(std::uint32_t (&r)[2], const Bf16* m, int k) {
  const int lane = threadIdx.x % 32;
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(m + (k + lane % 16) * 8)));
}

}  // namespace trib::kernels::cuda
