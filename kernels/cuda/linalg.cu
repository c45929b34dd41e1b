// FedSVD's refactorization, a block an adapter and all adapters in one launch. One-sided Jacobi (Hestenes; Demmel &
// Veselić 1992) turns the columns of B itself: a round of the tournament turns r/2 disjoint pairs side by side, each by
// a group of warps. Everything is in float64, and every sum has a fixed order.
#include <algorithm>
#include <utility>

#include "kernels/cuda/device_functions.cuh"
#include "kernels/cuda/operations.h"

namespace trib::kernels::cuda {
namespace {

constexpr int threads = 512, warps = threads / 32;
constexpr int largest_rank = 32;
constexpr int most_sweeps = 40;

struct Adapter {
  void *a, *b;
  double* rotation;  // or null
  int m, n, r;
  bool a_is_f64, b_is_f64;
  std::int64_t scratch;  // of B's columns, in elements
};

// What a block shares, for ranks up to `largest_rank`; r×r matrices have row stride r.
struct Shared {
  double right[largest_rank * largest_rank];  // Wᵀ: row i is the i-th right singular vector
  double norms[largest_rank];
  double reduced[warps][4];
  int argument[warps];
  int order[largest_rank], sign[largest_rank];
  int rotated, unserved;
};

__device__ inline double element(const void* p, bool is_f64, std::int64_t i) {
  return is_f64 ? static_cast<const double*>(p)[i] : static_cast<double>(static_cast<const float*>(p)[i]);
}
__device__ inline void set_element(void* p, bool is_f64, std::int64_t i, double x) {
  if (is_f64) {
    static_cast<double*>(p)[i] = x;
  } else {
    static_cast<float*>(p)[i] = static_cast<float>(x);
  }
}

// Whether A's rows are orthonormal and all is finite. NaN and infinities fail the comparison too.
__device__ bool served(const Adapter& x, Shared& s) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (threadIdx.x == 0) s.unserved = 0;
  __syncthreads();
  const int pairs = x.r * (x.r + 1) / 2;
  for (int pair = warp; pair < pairs; pair += warps) {
    int i = 0;
    while ((i + 1) * (i + 2) / 2 <= pair) ++i;
    const int j = pair - i * (i + 1) / 2;
    double total = 0;
    for (int c = lane; c < x.n; c += 32)
      total += element(x.a, x.a_is_f64, static_cast<std::int64_t>(i) * x.n + c) *
               element(x.a, x.a_is_f64, static_cast<std::int64_t>(j) * x.n + c);
    total = warp_sum(total);
    if (lane == 0 && !(fabs(total - (i == j ? 1.0 : 0.0)) <= orthonormality_tolerance)) s.unserved = 1;
  }
  double total = 0;
  for (std::int64_t i = threadIdx.x; i < static_cast<std::int64_t>(x.m) * x.r; i += threads)
    total += element(x.b, x.b_is_f64, i);
  if (!isfinite(total)) s.unserved = 1;
  __syncthreads();
  return s.unserved == 0;
}

// Player i of 2·half in round `round` of a round-robin tournament.
__device__ inline int player(int seat, int round, int players) {
  return seat == 0 ? 0 : 1 + (seat - 1 + round) % (players - 1);
}

// B's columns lie in dynamic shared memory, or in `scratch` where they are too large for it.
__global__ void __launch_bounds__(threads) refactorize_kernel(const Adapter* adapters, double* scratch, int* unserved) {
  __shared__ Shared s;
  extern __shared__ double columns_in_shared[];
  const Adapter x = adapters[blockIdx.x];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, r = x.r;
  if (!served(x, s)) {
    if (threadIdx.x == 0) unserved[blockIdx.x] = 1;
    return;
  }
  // Column c of B is columns[c·m …].
  double* columns = scratch == nullptr ? columns_in_shared : scratch + x.scratch;
  for (int i = threadIdx.x; i < x.m * r; i += threads)
    columns[static_cast<std::int64_t>(i % r) * x.m + i / r] = element(x.b, x.b_is_f64, i);
  for (int i = threadIdx.x; i < r * r; i += threads) s.right[i] = i / r == i % r ? 1.0 : 0.0;
  __syncthreads();

  auto column_norms = [&] {
    __syncthreads();  // the norms before are no longer read
    for (int c = warp; c < r; c += warps) {
      double total = 0;
      for (int i = lane; i < x.m; i += 32) {
        const double v = columns[static_cast<std::int64_t>(c) * x.m + i];
        total += v * v;
      }
      total = warp_sum(total);
      if (lane == 0) s.norms[c] = total;
    }
    __syncthreads();
  };
  column_norms();
  // Columns this small against the largest are rounding noise of a rank-deficient matrix.
  double largest = 0;
  for (int c = 0; c < r; ++c) largest = fmax(largest, s.norms[c]);
  const double negligible = largest * 1e-32;
  constexpr double tolerance = 1e-15;

  const int players = r + r % 2, half = players / 2;
  // As many warps a pair as there are, a power of two, so that a group's sum has a fixed order.
  int group = 1;
  while (2 * group * half <= warps) group *= 2;
  const int groups = warps / group, my_group = warp / group, rank_in_group = warp % group;
  for (int sweep = 0; sweep < most_sweeps && r > 1; ++sweep) {
    if (threadIdx.x == 0) s.rotated = 0;
    __syncthreads();
    for (int round = 0; round < players - 1; ++round) {
      for (int first = 0; first < half; first += groups) {
        const int pair = first + my_group;
        int i = player(pair, round, players), j = player(players - 1 - pair, round, players);
        if (i > j) {
          const int k = i;
          i = j;
          j = k;
        }
        const bool active = pair < half && j < r;
        double *u = columns + static_cast<std::int64_t>(i) * x.m, *v = columns + static_cast<std::int64_t>(j) * x.m;
        double uu = 0, vv = 0, uv = 0;
        if (active) {
          for (int k = rank_in_group * 32 + lane; k < x.m; k += 32 * group) {
            const double a = u[k], b = v[k];
            uu += a * a;
            vv += b * b;
            uv += a * b;
          }
        }
        uu = warp_sum(uu), vv = warp_sum(vv), uv = warp_sum(uv);
        if (lane == 0) s.reduced[warp][0] = uu, s.reduced[warp][1] = vv, s.reduced[warp][2] = uv;
        __syncthreads();
        uu = vv = uv = 0;
        for (int w = my_group * group; w < (my_group + 1) * group; ++w)
          uu += s.reduced[w][0], vv += s.reduced[w][1], uv += s.reduced[w][2];
        const bool turn =
            active && fabs(uv) > tolerance * sqrt(uu * vv) && fmax(uu, vv) > negligible && fabs(uv) > negligible;
        if (turn) {
          const double zeta = (vv - uu) / (2.0 * uv);
          const double tangent = copysign(1.0, zeta) / (fabs(zeta) + sqrt(1.0 + zeta * zeta));  // 0 if that is ∞
          const double cosine = 1.0 / sqrt(1.0 + tangent * tangent), sine = cosine * tangent;
          for (int k = rank_in_group * 32 + lane; k < x.m; k += 32 * group) {
            const double a = u[k], b = v[k];
            u[k] = cosine * a - sine * b;
            v[k] = sine * a + cosine * b;
          }
          if (rank_in_group == 0) {
            for (int k = lane; k < r; k += 32) {
              const double a = s.right[i * r + k], b = s.right[j * r + k];
              s.right[i * r + k] = cosine * a - sine * b;
              s.right[j * r + k] = sine * a + cosine * b;
            }
            if (lane == 0) s.rotated = 1;
          }
        }
        __syncthreads();
      }
    }
    const bool done = s.rotated == 0;
    __syncthreads();
    if (done) break;
  }

  column_norms();
  if (threadIdx.x == 0) {
    // Descending, and in the order of the columns where norms are equal.
    for (int i = 0; i < r; ++i) {
      int place = i;
      for (; place > 0 && s.norms[s.order[place - 1]] < s.norms[i]; --place) s.order[place] = s.order[place - 1];
      s.order[place] = i;
    }
  }
  __syncthreads();

  // A ← Wᵀ·A. First the largest entry of each new row, for the sign rule; then the rows.
  auto new_entry = [&](int row, int c) {
    double total = 0;
    for (int k = 0; k < r; ++k)
      total += s.right[s.order[row] * r + k] * element(x.a, x.a_is_f64, static_cast<std::int64_t>(k) * x.n + c);
    return total;
  };
  for (int row = warp; row < r; row += warps) {
    double extreme = 0;
    int at = x.n;
    for (int c = lane; c < x.n; c += 32) {
      const double value = new_entry(row, c);
      if (fabs(value) > fabs(extreme)) extreme = value, at = c;
    }
    for (int offset = 16; offset > 0; offset /= 2) {
      const double other = __shfl_xor_sync(0xffffffffu, extreme, offset);
      const int other_at = __shfl_xor_sync(0xffffffffu, at, offset);
      if (fabs(other) > fabs(extreme) || (fabs(other) == fabs(extreme) && other_at < at))
        extreme = other, at = other_at;
    }
    if (lane == 0) s.sign[row] = extreme < 0 ? -1 : 1;
  }
  __syncthreads();
  for (int c = threadIdx.x; c < x.n; c += threads) {
    double column[largest_rank];
    for (int k = 0; k < r; ++k) column[k] = element(x.a, x.a_is_f64, static_cast<std::int64_t>(k) * x.n + c);
    for (int row = 0; row < r; ++row) {
      double total = 0;
      for (int k = 0; k < r; ++k) total += s.right[s.order[row] * r + k] * column[k];
      set_element(x.a, x.a_is_f64, static_cast<std::int64_t>(row) * x.n + c, s.sign[row] * total);
    }
  }
  for (int i = threadIdx.x; i < x.m * r; i += threads) {
    const int c = i % r;
    set_element(x.b, x.b_is_f64, i, s.sign[c] * columns[static_cast<std::int64_t>(s.order[c]) * x.m + i / r]);
  }
  if (x.rotation != nullptr)
    for (int i = threadIdx.x; i < r * r; i += threads)
      x.rotation[i] = s.sign[i / r] * s.right[s.order[i / r] * r + i % r];
}

}  // namespace

std::vector<std::size_t> refactorize_batch(Stream& stream, std::span<const Refactorization> adapters) {
  std::vector<std::size_t> rest, batch;
  std::vector<Adapter> arguments;
  std::int64_t scratch_size = 0, largest = 0;  // of one adapter's B
  for (std::size_t i = 0; i < adapters.size(); ++i) {
    const Refactorization& adapter = adapters[i];
    if (adapter.a.dim(0) > largest_rank || adapter.a.dim(0) == 0) {
      rest.push_back(i);
      continue;
    }
    Adapter x{.a = RawAccess::address(adapter.a),
              .b = RawAccess::address(adapter.b),
              .rotation = adapter.rotation.defined() ? RawAccess::data<double>(adapter.rotation) : nullptr,
              .m = static_cast<int>(adapter.b.dim(0)),
              .n = static_cast<int>(adapter.a.dim(1)),
              .r = static_cast<int>(adapter.a.dim(0)),
              .a_is_f64 = adapter.a.dtype() == DType::f64,
              .b_is_f64 = adapter.b.dtype() == DType::f64,
              .scratch = scratch_size};
    scratch_size += static_cast<std::int64_t>(x.m) * x.r;
    largest = std::max(largest, static_cast<std::int64_t>(x.m) * x.r);
    arguments.push_back(x);
    batch.push_back(i);
  }
  if (batch.empty()) return rest;
  const Tensor device_arguments(stream.device(), DType::u8,
                                {static_cast<std::int64_t>(arguments.size() * sizeof(Adapter))});
  stream.device().copy_from_host(stream, RawAccess::address(device_arguments), arguments.data(),
                                 arguments.size() * sizeof(Adapter));
  std::size_t shared_bytes = static_cast<std::size_t>(largest) * sizeof(double);
  Tensor scratch;
  if (shared_bytes > static_cast<std::size_t>(dynamic_shared_memory(stream)) - sizeof(Shared)) {
    shared_bytes = 0;
    scratch = Tensor(stream.device(), DType::f64, {scratch_size});
  }
  check(cudaFuncSetAttribute(refactorize_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared_bytes)),
        "shared memory");
  const Tensor unserved = Tensor::zeros(stream, DType::i32, {static_cast<std::int64_t>(batch.size())});
  refactorize_kernel<<<static_cast<unsigned>(batch.size()), threads, shared_bytes, handle(stream)>>>(
      reinterpret_cast<const Adapter*>(RawAccess::address(device_arguments)),
      scratch.defined() ? RawAccess::data<double>(scratch) : nullptr, RawAccess::data<std::int32_t>(unserved));
  check_launch("refactorize");
  const HostTensor flags = unserved.to_host(stream);
  for (std::size_t i = 0; i < batch.size(); ++i)
    if (flags.as<std::int32_t>()[i] != 0) rest.push_back(batch[i]);
  std::sort(rest.begin(), rest.end());
  return rest;
}

}  // namespace trib::kernels::cuda
