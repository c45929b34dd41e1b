// Products of matrices in host memory, for models so small that a trip to a device would cost more than it saves. The
// same vector code as the CPU device's; float64 for checks of gradients.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

namespace trib::kernels {

// A row-major matrix without gaps.
template <typename T>
struct HostMatrix {
  std::span<T> values;
  std::int64_t rows = 0, columns = 0;
  std::span<T> row(std::int64_t i) const {
    return values.subspan(static_cast<std::size_t>(i * columns), static_cast<std::size_t>(columns));
  }
  HostMatrix<T> row_range(std::int64_t first, std::int64_t count) const {
    return {values.subspan(static_cast<std::size_t>(first * columns), static_cast<std::size_t>(count * columns)), count,
            columns};
  }
  operator HostMatrix<const T>() const { return {values, rows, columns}; }
};

// c (m, n) = a·b, or += if `accumulate`; a (m, k), b (k, n). T is float or double. Uses the CPU device's threads.
template <typename T>
void host_product(HostMatrix<const T> a, HostMatrix<const T> b, bool accumulate, HostMatrix<T> c);
// c (m, n) = a·bᵀ; a (m, k), b (n, k).
template <typename T>
void host_product_bt(HostMatrix<const T> a, HostMatrix<const T> b, bool accumulate, HostMatrix<T> c);
// c (m, n) = aᵀ·b; a (t, m), b (t, n).
template <typename T>
void host_product_at(HostMatrix<const T> a, HostMatrix<const T> b, bool accumulate, HostMatrix<T> c);

// Splits [0, count) over the CPU device's threads: body(begin, end) for ranges of at least `grain`.
void host_parallel_for(std::int64_t count, std::int64_t grain,
                       const std::function<void(std::int64_t, std::int64_t)>& body);

}  // namespace trib::kernels
