#include "kernels/cpu/simd_vector.h"

namespace trib::kernels::cpu::TRIB_SIMD_NAMESPACE {
namespace {

constexpr int lanes = width / 2;
using Doubles = VectorOf<double, lanes>::type;

double dot_f64(const double* x, const double* y, int64_t count) {
  Doubles a = {}, b = {}, c = {}, d = {};
  int64_t i = 0;
  for (; i + 4 * lanes <= count; i += 4 * lanes) {
    const Doubles *u = reinterpret_cast<const Doubles*>(x + i), *v = reinterpret_cast<const Doubles*>(y + i);
    a += u[0] * v[0];
    b += u[1] * v[1];
    c += u[2] * v[2];
    d += u[3] * v[3];
  }
  a = (a + b) + (c + d);
  double total = 0;
  for (int lane = 0; lane < lanes; ++lane) total += a[lane];
  for (; i < count; ++i) total += x[i] * y[i];
  return total;
}

void axpy_f64(double a, const double* x, double* y, int64_t count) {
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    Doubles* to = reinterpret_cast<Doubles*>(y + i);
    *to += a * *reinterpret_cast<const Doubles*>(x + i);
  }
  for (; i < count; ++i) y[i] += a * x[i];
}

}  // namespace

void add_linalg(SimdKernels& kernels) {
  kernels.dot_f64 = dot_f64;
  kernels.axpy_f64 = axpy_f64;
}

}  // namespace trib::kernels::cpu::TRIB_SIMD_NAMESPACE
