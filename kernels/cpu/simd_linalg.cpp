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

double dot_and_add_f64(const double* row, const double* x, double a, double* y, int64_t count) {
  Doubles first = {}, second = {};
  int64_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    const Doubles *from = reinterpret_cast<const Doubles*>(row + i), *u = reinterpret_cast<const Doubles*>(x + i);
    Doubles* to = reinterpret_cast<Doubles*>(y + i);
    const Doubles r0 = from[0], r1 = from[1];
    first += r0 * u[0];
    second += r1 * u[1];
    to[0] += a * r0;
    to[1] += a * r1;
  }
  first += second;
  double total = 0;
  for (int lane = 0; lane < lanes; ++lane) total += first[lane];
  for (; i < count; ++i) {
    total += row[i] * x[i];
    y[i] += a * row[i];
  }
  return total;
}

}  // namespace

void add_linalg(SimdKernels& kernels) {
  kernels.dot_f64 = dot_f64;
  kernels.axpy_f64 = axpy_f64;
  kernels.dot_and_add_f64 = dot_and_add_f64;
}

}  // namespace trib::kernels::cpu::TRIB_SIMD_NAMESPACE
