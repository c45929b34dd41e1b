#include "kernels/cpu/simd.h"

#include "kernels/cpu/simd_levels.h"

namespace trib::kernels::cpu {

#define TRIB_DECLARE_LEVEL(level)               \
  namespace simd_##level {                      \
    void add_matmul(SimdKernels& kernels);      \
    void add_elementwise(SimdKernels& kernels); \
    void add_attention(SimdKernels& kernels);   \
    void add_per_sample(SimdKernels& kernels);  \
    void add_noise(SimdKernels& kernels);       \
    void add_grid(SimdKernels& kernels);        \
    void add_linalg(SimdKernels& kernels);      \
    void add_ridge(SimdKernels& kernels);       \
    SimdKernels table(const char* name) {       \
      SimdKernels kernels = {};                 \
      kernels.name = name;                      \
      add_matmul(kernels);                      \
      add_elementwise(kernels);                 \
      add_attention(kernels);                   \
      add_per_sample(kernels);                  \
      add_noise(kernels);                       \
      add_grid(kernels);                        \
      add_linalg(kernels);                      \
      add_ridge(kernels);                       \
      return kernels;                           \
    }                                           \
  }

TRIB_DECLARE_LEVEL(baseline)
#ifdef TRIB_HAS_X86_SIMD
TRIB_DECLARE_LEVEL(avx2)
TRIB_DECLARE_LEVEL(avx512)
#endif

std::vector<SimdKernels> simd_levels() {
  std::vector<SimdKernels> levels;
#ifdef TRIB_HAS_X86_SIMD
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    levels.push_back(simd_avx512::table("AVX-512"));
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) levels.push_back(simd_avx2::table("AVX2"));
#endif
  levels.push_back(simd_baseline::table("baseline"));
  return levels;
}

const SimdKernels& simd() {
  static const SimdKernels best = simd_levels().front();
  return best;
}

}  // namespace trib::kernels::cpu
