#include "kernels/cpu/simd_matmul.h"

namespace trib::kernels::cpu::TRIB_SIMD_NAMESPACE {
namespace {

// Rows of b between cache-sized blocks of k: a block of b stays in L2 while all of a passes over it.
constexpr int64_t k_block = 256;

void matmul(float alpha, const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc, int64_t m,
            int64_t n, int64_t k, bool accumulate) {
  if (k == 0) product<float>(alpha, a, lda, 1, b, ldb, c, ldc, m, n, 0, accumulate);
  for (int64_t p = 0; p < k; p += k_block)
    product<float>(alpha, a + p, lda, 1, b + p * ldb, ldb, c, ldc, m, n, k - p < k_block ? k - p : k_block,
                   accumulate || p > 0);
}

void matmul_transposed(float alpha, const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc,
                       int64_t m, int64_t n, int64_t k, bool accumulate) {
  product<float>(alpha, a, 1, lda, b, ldb, c, ldc, m, n, k, accumulate);
}

void matmul_f64(double alpha, const double* a, int64_t lda, const double* b, int64_t ldb, double* c, int64_t ldc,
                int64_t m, int64_t n, int64_t k, bool accumulate) {
  product<double>(alpha, a, lda, 1, b, ldb, c, ldc, m, n, k, accumulate);
}

}  // namespace

void add_matmul(SimdKernels& kernels) {
  kernels.matmul = matmul;
  kernels.matmul_transposed = matmul_transposed;
  kernels.matmul_f64 = matmul_f64;
}

}  // namespace trib::kernels::cpu::TRIB_SIMD_NAMESPACE
