// What only compute capability 9.0 has (sm_90a): products of a warp group on factors in shared memory (wgmma), copies
// of whole tiles by the copy engine, barriers in shared memory that count their bytes, and pairs of blocks that share
// them.
#pragma once

#include <cuda.h>

#include "kernels/cuda/mma.cuh"

namespace trib::kernels::cuda {

// Places in shared memory are given by their addresses there: made from pointers again and again, they would take
// longer than what is done with them.

// ---- barriers ----------------------------------------------------------------------------------------------------

__device__ inline void init_barrier(std::uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}
// Barriers that were initialized are seen by the copy engine and by the other block.
__device__ inline void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ inline void arrive(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// At the same barrier of block `rank` of the cluster. Not with the cluster's scope, which would wait for all that is in
// flight: what is handed over is shared memory that the tensor cores have read.
__device__ inline void arrive_at(std::uint32_t barrier, std::uint32_t rank) {
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
      "}" ::"r"(barrier),
      "r"(rank)
      : "memory");
}
// One arrival, and so many bytes that copies bring.
__device__ inline void arrive_and_expect(std::uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ inline void wait(std::uint32_t barrier, std::uint32_t parity) {
  std::uint32_t done = 0;
  while (done == 0) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
  }
}
// All threads of `count`, a multiple of 32, that name the same of a block's 16 barriers.
__device__ inline void barrier_of(int name, int count) {
  asm volatile("bar.sync %0, %1;" ::"r"(name), "r"(count) : "memory");
}
__device__ inline void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ inline std::uint32_t cluster_rank() {
  std::uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// ---- copies of tiles ---------------------------------------------------------------------------------------------

// A matrix with 16-byte aligned rows, whose boxes lie in shared memory as rows of 128 bytes, the 16-byte unit i of row
// r at unit i ^ (r % 8), or as rows of 64 bytes, at unit i ^ (r / 2 % 4), where neither a warp's loads nor the tensor
// cores' meet one bank twice. What is beyond the matrix is read as zeros and not written.
using TileMap = CUtensorMap;

__device__ inline void load_tile(std::uint32_t to, const TileMap& map, int column, int row, std::uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          to),
      "l"(&map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}
// To the same place in all blocks of the cluster that `blocks` has a bit for, and to their barriers.
__device__ inline void load_tile(std::uint32_t to, const TileMap& map, int column, int row, std::uint32_t barrier,
                                 std::uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1, {%2, %3}], [%4], %5;" ::"r"(to),
      "l"(&map), "r"(column), "r"(row), "r"(barrier), "h"(blocks)
      : "memory");
}
// Into the L2 cache.
__device__ inline void prefetch_tile(const TileMap& map, int column, int row) {
  asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%0, {%1, %2}];" ::"l"(&map), "r"(column), "r"(row)
               : "memory");
}
__device__ inline void store_tile(const TileMap& map, int column, int row, std::uint32_t from) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map), "r"(column),
               "r"(row), "r"(from)
               : "memory");
}
__device__ inline void end_stores() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Until shared memory that this thread's stores read may be written again, but that of the `younger` last groups; or
// until they are done.
template <int younger>
__device__ inline void wait_until_stores_have_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(younger) : "memory");
}
__device__ inline void wait_for_stores() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}
// Before a barrier: what this thread wrote is seen by the copy engine.
__device__ inline void publish_writes() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Four 8×8 matrices of 16-bit elements, as load_matrices() of mma.cuh has them; lane l gives the address of row l%8 of
// matrix l/8.
__device__ inline void store_matrices(std::uint32_t at, const std::uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(at), "r"(r[0]), "r"(r[1]),
               "r"(r[2]), "r"(r[3])
               : "memory");
}

__device__ inline void load_matrices(std::uint32_t (&r)[4], std::uint32_t at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at));
}

// ---- products of a warp group ------------------------------------------------------------------------------------

// A factor in shared memory in rows of so many bytes along the sum, as load_tile() brings it.
template <int row_bytes>
__device__ inline std::uint64_t factor_in_shared(std::uint32_t at) {
  static_assert(row_bytes == 128 || row_bytes == 64);
  constexpr std::uint64_t units_of_eight_rows = 8 * row_bytes / 16, swizzle = row_bytes == 128 ? 1 : 2;
  return (at & 0x3ffff) >> 4 | std::uint64_t{1} << 16 | units_of_eight_rows << 32 | swizzle << 62;
}
__device__ inline void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ inline void end_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int younger>
__device__ inline void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(younger) : "memory");
}
// Keeps uses of the sums on this side of a wait.
template <int count>
__device__ inline void hold(float (&c)[count]) {
#pragma unroll
  for (int i = 0; i < count; ++i) asm volatile("" : "+f"(c[i])::"memory");
}

#define TRIB_SUMS_4(i) "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3])
#define TRIB_SUMS_16(i) TRIB_SUMS_4(i), TRIB_SUMS_4(i + 4), TRIB_SUMS_4(i + 8), TRIB_SUMS_4(i + 12)

// c (64, 128) = a (64, 32)·b (128, 32)ᵀ in e4m3, or += if `accumulate`. A warp has 16 rows, and of each tile of 8
// columns what an accumulator of mma.m16n8 holds.
__device__ inline void multiply_e4m3(float* c, std::uint64_t a, std::uint64_t b, bool accumulate) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {"
      "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,"
      "%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,"
      "%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
      "}, %64, %65, p, 1, 1;\n"
      "}"
      : TRIB_SUMS_16(0), TRIB_SUMS_16(16), TRIB_SUMS_16(32), TRIB_SUMS_16(48)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

#undef TRIB_SUMS_4
#undef TRIB_SUMS_16

}  // namespace trib::kernels::cuda
