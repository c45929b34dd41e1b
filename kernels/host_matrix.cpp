#include "kernels/host_matrix.h"

#include <algorithm>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "kernels/cpu/simd.h"
#include "kernels/cpu/thread_pool.h"

namespace trib::kernels {
namespace {

void require(bool fits) {
  if (!fits) throw std::invalid_argument("host_product: shapes do not fit");
}

template <typename T>
bool has_its_size(const HostMatrix<T>& x) {
  return static_cast<std::int64_t>(x.values.size()) == x.rows * x.columns;
}

template <typename T>
std::vector<std::remove_const_t<T>> transposed(const HostMatrix<T>& x) {
  std::vector<std::remove_const_t<T>> result(x.values.size());
  constexpr std::int64_t tile = 16;
  for (std::int64_t i = 0; i < x.rows; i += tile) {
    for (std::int64_t j = 0; j < x.columns; j += tile) {
      for (std::int64_t r = i; r < std::min(i + tile, x.rows); ++r) {
        for (std::int64_t c = j; c < std::min(j + tile, x.columns); ++c)
          result[static_cast<std::size_t>(c * x.rows + r)] = x.values[static_cast<std::size_t>(r * x.columns + c)];
      }
    }
  }
  return result;
}

void multiply(const float* a, const float* b, float* c, std::int64_t m, std::int64_t n, std::int64_t k,
              bool accumulate) {
  cpu::simd().matmul(1.0f, a, k, b, n, c, n, m, n, k, accumulate);
}
void multiply(const double* a, const double* b, double* c, std::int64_t m, std::int64_t n, std::int64_t k,
              bool accumulate) {
  cpu::simd().matmul_f64(1.0, a, k, b, n, c, n, m, n, k, accumulate);
}

}  // namespace

template <typename T>
void host_product(HostMatrix<const T> a, HostMatrix<const T> b, bool accumulate, HostMatrix<T> c) {
  require(has_its_size(a) && has_its_size(b) && has_its_size(c) && a.columns == b.rows && c.rows == a.rows &&
          c.columns == b.columns);
  if (c.values.empty()) return;
  if (a.columns == 0) {
    if (!accumulate) std::ranges::fill(c.values, T(0));
    return;
  }
  cpu::parallel_for(a.rows, 1 + 200000 / std::max<std::int64_t>(1, b.columns * a.columns),
                    [&](std::int64_t begin, std::int64_t end) {
                      multiply(a.values.data() + begin * a.columns, b.values.data(),
                               c.values.data() + begin * c.columns, end - begin, c.columns, a.columns, accumulate);
                    });
}

template <typename T>
void host_product_bt(HostMatrix<const T> a, HostMatrix<const T> b, bool accumulate, HostMatrix<T> c) {
  require(has_its_size(b) && a.columns == b.columns);
  const std::vector<T> turned = transposed(b);
  host_product<T>(a, {turned, b.columns, b.rows}, accumulate, c);
}

template <typename T>
void host_product_at(HostMatrix<const T> a, HostMatrix<const T> b, bool accumulate, HostMatrix<T> c) {
  require(has_its_size(a) && has_its_size(b) && has_its_size(c) && a.rows == b.rows && c.rows == a.columns &&
          c.columns == b.columns);
  if constexpr (std::is_same_v<T, float>) {
    if (c.values.empty()) return;
    if (a.rows == 0) {
      if (!accumulate) std::ranges::fill(c.values, 0.0f);
      return;
    }
    cpu::parallel_for(a.columns, 1 + 200000 / std::max<std::int64_t>(1, b.columns * a.rows),
                      [&](std::int64_t begin, std::int64_t end) {
                        cpu::simd().matmul_transposed(1.0f, a.values.data() + begin, a.columns, b.values.data(),
                                                      b.columns, c.values.data() + begin * c.columns, c.columns,
                                                      end - begin, b.columns, a.rows, accumulate);
                      });
  } else {
    const std::vector<T> turned = transposed(a);
    host_product<T>({turned, a.columns, a.rows}, b, accumulate, c);
  }
}

void host_parallel_for(std::int64_t count, std::int64_t grain,
                       const std::function<void(std::int64_t, std::int64_t)>& body) {
  cpu::parallel_for(count, grain, body);
}

template void host_product(HostMatrix<const float>, HostMatrix<const float>, bool, HostMatrix<float>);
template void host_product(HostMatrix<const double>, HostMatrix<const double>, bool, HostMatrix<double>);
template void host_product_bt(HostMatrix<const float>, HostMatrix<const float>, bool, HostMatrix<float>);
template void host_product_bt(HostMatrix<const double>, HostMatrix<const double>, bool, HostMatrix<double>);
template void host_product_at(HostMatrix<const float>, HostMatrix<const float>, bool, HostMatrix<float>);
template void host_product_at(HostMatrix<const double>, HostMatrix<const double>, bool, HostMatrix<double>);

}  // namespace trib::kernels
