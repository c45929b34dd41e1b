// FP8 products with the gelu, or the way back through it, and the rounding of its result in one kernel, for compute
// capability 9.0: what the product and a pass of its own would move beside that, 2 bytes an element
// forward and 4 backward, stays on the chip.
//
// The result's scales must be known before its largest element is: |x·w_j| ≤ ‖x‖·‖w_j‖ bounds a row of x·w, and where
// ‖x‖ is not known, it is at most √K·448·scale for K codes. The bound is 2 to 7 powers of two above what a row holds,
// which e4m3 has room for: it keeps three bits of mantissa over 14 powers of two.
//
// Blocks come in pairs with 128 rows each and the same 256 columns; each brings half of the weights' tile to both,
// since what the L2 cache gives is short, and passes from tile to tile. Of its four warp groups one brings tiles by the
// copy engine, `stages` ahead; two have 64 rows each, whose sums stay in registers; and the helper makes the gelu,
// beside the tensor cores: forward of the tile before, from the gelu's input that the groups leave in shared memory;
// backward the gelu's slope of the tile that is being multiplied, in the place of that input.
#include <cstddef>
#include <map>
#include <mutex>

#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/fp8.cuh"
#include "kernels/cuda/fp8.h"
#include "kernels/cuda/hopper.cuh"

namespace trib::kernels::cuda {
namespace {

constexpr int tile_rows = 128, tile_columns = 256, tile_terms = 64, stages = 6;
constexpr int group = 128, consumers = 2, threads = group * (2 + consumers);
constexpr int group_rows = tile_rows / consumers;
constexpr int x_bytes = tile_rows * tile_terms, w_bytes = tile_columns * tile_terms;
constexpr int chunk_columns = 64, chunks = tile_columns / chunk_columns;  // of bfloat16 in one box: 128 bytes
constexpr int chunk_bytes = group_rows * 128, kept_bytes = chunks * chunk_bytes;
constexpr int code_columns = 128, parts = tile_columns / code_columns;  // in one box
constexpr int group_warps = 4;
constexpr int cluster = 2;         // blocks
constexpr int bands_together = 8;  // clusters whose rows lie below each other take the same weights

struct Shared {
  unsigned char x[stages][x_bytes], w[stages][w_bytes];
  unsigned char kept[consumers][kept_bytes];  // the gelu's input, or its slope
  unsigned char codes[2][chunk_bytes];
  std::uint64_t full[stages], empty[stages];
  // Of `kept`: it came from memory (backward), it may be read by the other group, it may be written again.
  std::uint64_t loaded[consumers], ready[consumers], freed[consumers];
  float peaks[group_warps];
};
// The addresses of its parts.
struct Places {
  std::uint32_t base;
  __device__ std::uint32_t x(int stage) const { return base + offsetof(Shared, x) + stage * x_bytes; }
  __device__ std::uint32_t w(int stage) const { return base + offsetof(Shared, w) + stage * w_bytes; }
  __device__ std::uint32_t kept(int index) const { return base + offsetof(Shared, kept) + index * kept_bytes; }
  __device__ std::uint32_t codes(int index) const { return base + offsetof(Shared, codes) + index * chunk_bytes; }
  __device__ std::uint32_t full(int stage) const { return base + offsetof(Shared, full) + stage * 8; }
  __device__ std::uint32_t empty(int stage) const { return base + offsetof(Shared, empty) + stage * 8; }
  __device__ std::uint32_t loaded(int index) const { return base + offsetof(Shared, loaded) + index * 8; }
  __device__ std::uint32_t ready(int index) const { return base + offsetof(Shared, ready) + index * 8; }
  __device__ std::uint32_t freed(int index) const { return base + offsetof(Shared, freed) + index * 8; }
};
constexpr int alignment = 1024;  // of boxes in shared memory
constexpr int shared_bytes = sizeof(Shared) + alignment;

// Names of barriers in a block.
constexpr int helper_barrier = 1, consumer_barrier = 2;

struct Maps {
  TileMap x, w, kept, codes;
};
struct Arguments {
  const float *x_scales, *x_norms;       // (rows); the norms may be none
  const float *w_scales, *largest_norm;  // (columns); (1): the largest ‖w_j‖
  const __nv_bfloat16* bias;             // (columns) or none
  float* scales;                         // (rows), of the result
  int rows, columns, terms;
  bool keeps;  // forward: the gelu's input is wanted
};

// The tiles of a cluster, one after the other.
struct Tiles {
  int bands, count, at, step;
  __device__ explicit Tiles(const Arguments& a)
      : bands((a.rows + cluster * tile_rows - 1) / (cluster * tile_rows)),
        count(bands * ((a.columns + tile_columns - 1) / tile_columns)),
        at(blockIdx.x / cluster),
        step(gridDim.x / cluster) {}
  __device__ bool more() const { return at < count; }
  __device__ void next() { at += step; }
  // The first row and column of block `rank`.
  __device__ int2 first(int rank) const { return first_of(at, rank); }
  __device__ int2 first_of(int tile, int rank) const {
    const int together = bands_together * (count / bands), set = tile / together, in_set = tile % together;
    const int rows = min(bands_together, bands - set * bands_together);
    return {(cluster * (set * bands_together + in_set % rows) + rank) * tile_rows, in_set / rows * tile_columns};
  }
};

__device__ inline void prefetch(const void* at) {
  asm volatile("prefetch.global.L1 [%0];" ::"l"(at));
}

constexpr float inner_slope = 0.79788456080286536f, cubic = 0.044715f;  // √(2/π); gelu's tanh form
constexpr float steepest = 1.13f;                                       // at least the gelu's largest slope
__device__ inline float tanh_of(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline float slope_of_gelu(float u) {
  const float square = u * u;
  const float t = tanh_of(u * fmaf(inner_slope * cubic, square, inner_slope));
  const float slope = u * fmaf(1.5f * inner_slope * cubic, square, 0.5f * inner_slope);
  return fmaf(slope, fmaf(-t, t, 1.0f), fmaf(0.5f, t, 0.5f));
}

// The row that is the first of a thread's two in a group's 64, and of the matrices of 8×8 that its lane gives an
// address for: in a row, two matrices below each other and two beside them.
__device__ inline int own_row() {
  return threadIdx.x / 32 % group_warps * 16 + threadIdx.x % 32 / 4;
}
__device__ inline std::uint32_t matrices(std::uint32_t kept, int chunk, int pair) {
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 % group_warps * 16 + lane % 8 + lane / 8 % 2 * 8;
  return kept + chunk * chunk_bytes + row * 128 + (((2 * pair + lane / 16) ^ lane % 8) << 4);
}
constexpr int pairs = chunk_columns / 16;  // of tiles of 8 columns in a chunk

// Four values of a thread, two in each of its rows: their codes, those of the first row in the low half.
__device__ inline std::uint32_t codes_of(float2 first, float2 second) {
  return __byte_perm(e4m3_pair(first.x, first.y), e4m3_pair(second.x, second.y), 0x5410);
}
// Two tiles of 8 columns beside each other. Neighbouring lanes exchange: an even one gets four columns of the left
// tile, an odd one of the right tile. One word for each row.
__device__ inline uint2 exchange(std::uint32_t left, std::uint32_t right) {
  const bool odd = threadIdx.x % 2 != 0;
  const std::uint32_t got = __shfl_xor_sync(0xffffffffu, odd ? left : right, 1);
  const std::uint32_t low = odd ? got : left, high = odd ? right : got;
  return {__byte_perm(low, high, 0x5410), __byte_perm(low, high, 0x7632)};
}
// `words` of 128 columns to where one box is stored from.
__device__ inline void write_codes(unsigned char* to, const uint2 (&words)[2 * pairs]) {
  const int row = own_row(), lane = threadIdx.x % 32;
  unsigned char* const at = to + row * 128 + lane % 2 * 8 + lane % 4 / 2 * 4;
#pragma unroll
  for (int i = 0; i < 2 * pairs; ++i) {
    const int unit = (i ^ row % 8) << 4;
    *reinterpret_cast<std::uint32_t*>(at + unit) = words[i].x;
    *reinterpret_cast<std::uint32_t*>(at + unit + 8 * 128) = words[i].y;
  }
}

// A bound of x·w over 448; 0 where it is so small that its reciprocal would not be finite.
__device__ inline float reach(const Arguments& a, int row) {
  if (row >= a.rows) return 0.0f;
  constexpr float rounded = 1.0625f / 448.0f;  // a code is at most a sixteenth above what it stands for
  const float x_norm =
      a.x_norms != nullptr ? rounded * a.x_norms[row] : sqrtf(static_cast<float>(a.terms)) * a.x_scales[row];
  const float bound = x_norm * *a.largest_norm;
  return bound < 0x1p-100f ? 0.0f : bound;
}
__device__ inline float reciprocal(float scale) {
  return scale > 0.0f ? 1.0f / scale : scale;  // NaN stays
}

// ---- forward -------------------------------------------------------------------------------------------------------

// What a thread takes of the columns of a chunk.
struct Columns {
  float2 w[2 * pairs];
  std::uint32_t bias[2 * pairs];
};
template <bool backward>
__device__ inline Columns columns_of(const Arguments& a, int first_column) {
  Columns x;
#pragma unroll
  for (int j = 0; j < 2 * pairs; ++j) {
    const int at = first_column + 8 * j + threadIdx.x % 4 * 2;
    x.w[j] = at < a.columns ? __ldg(reinterpret_cast<const float2*>(a.w_scales + at)) : float2{};
    x.bias[j] = 0;
    if (!backward && a.bias != nullptr && at < a.columns)
      x.bias[j] = __ldg(reinterpret_cast<const std::uint32_t*>(a.bias + at));
  }
  return x;
}

// A group leaves the gelu's input, x·w + bias, to the helper.
__device__ inline void leave_input(const Arguments& a, std::uint32_t kept, const float (&c)[128],
                                   const float (&x_scales)[2], int first_column) {
#pragma unroll
  for (int chunk = 0; chunk < chunks; ++chunk) {
    const Columns columns = columns_of<false>(a, first_column + chunk * chunk_columns);
#pragma unroll
    for (int pair = 0; pair < pairs; ++pair) {
      std::uint32_t u[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int j = 2 * pair + i / 2;
        const float* const sums = c + (chunk * 2 * pairs + j) * 4 + i % 2 * 2;
        const float2 b = unpack(columns.bias[j]), w = columns.w[j];
        u[i] = pack(fmaf(sums[0], x_scales[i % 2] * w.x, b.x), fmaf(sums[1], x_scales[i % 2] * w.y, b.y));
      }
      store_matrices(matrices(kept, chunk, pair), u);
    }
  }
}

// The largest magnitude of the bias, in every thread of the helper.
__device__ float largest_bias(const Arguments& a, Shared& s) {
  float peak = 0;
  if (a.bias != nullptr)
    for (int i = threadIdx.x % group; i < a.columns; i += group) peak = fmaxf(peak, fabsf(__bfloat162float(a.bias[i])));
  peak = warp_max(peak);
  if (threadIdx.x % 32 == 0) s.peaks[threadIdx.x / 32 % group_warps] = peak;
  barrier_of(helper_barrier, group);
  for (int i = 0; i < group_warps; ++i) peak = fmaxf(peak, s.peaks[i]);
  return peak;
}

__device__ inline void make_gelus(const Maps& maps, const Arguments& a, Shared& s, const Places& p, int rank) {
  const bool leader = threadIdx.x % group == 0;
  const float bias_share = largest_bias(a, s) / 448.0f;
  std::uint32_t parity = 0;
  for (Tiles tiles(a); tiles.more(); tiles.next(), parity ^= 1) {
    const int2 first = tiles.first(rank);
    float factors[consumers][2];  // of codes: the bound's is 448
#pragma unroll
    for (int i = 0; i < consumers; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first.x + i * group_rows + own_row() + 8 * half;
        const float scale = reach(a, row) + bias_share;
        factors[i][half] = 0.5f * reciprocal(scale);
        if (first.y == 0 && threadIdx.x % 4 == 0 && row < a.rows) a.scales[row] = scale;
      }
#pragma unroll
    for (int i = 0; i < consumers; ++i) {
      const int row = first.x + i * group_rows;
      const bool in_rows = row < a.rows;
      wait(p.ready(i), parity);
      if (leader) {
        if (a.keeps && in_rows)
          for (int chunk = 0; chunk < chunks; ++chunk)
            if (const int column = first.y + chunk * chunk_columns; column < a.columns)
              store_tile(maps.kept, column, row, p.kept(i) + chunk * chunk_bytes);
        end_stores();
      }
#pragma unroll
      for (int part = 0; part < parts; ++part) {
        std::uint32_t u[2 * pairs][4];
        uint2 words[2 * pairs];
#pragma unroll
        for (int pair = 0; pair < 2 * pairs; ++pair)
          load_matrices(u[pair], (matrices(p.kept(i), 2 * part + pair / pairs, pair % pairs)));
        auto gelus = [](std::uint32_t two, float factor) {
          const float2 v = unpack(two);
          const float x = tanh_of(v.x * fmaf(inner_slope * cubic, v.x * v.x, inner_slope)),
                      y = tanh_of(v.y * fmaf(inner_slope * cubic, v.y * v.y, inner_slope));
          return float2{fmaf(factor * v.x, x, factor * v.x), fmaf(factor * v.y, y, factor * v.y)};
        };
#pragma unroll
        for (int pair = 0; pair < 2 * pairs; ++pair) {
          const std::uint32_t(&v)[4] = u[pair];
          words[pair] = exchange(codes_of(gelus(v[0], factors[i][0]), gelus(v[1], factors[i][1])),
                                 codes_of(gelus(v[2], factors[i][0]), gelus(v[3], factors[i][1])));
        }
        if (leader) wait_until_stores_have_read<2>();  // the box that was here, two stores ago
        barrier_of(helper_barrier, group);
        write_codes(s.codes[part], words);
        publish_writes();
        barrier_of(helper_barrier, group);
        if (leader) {
          if (const int column = first.y + part * code_columns; in_rows && column < a.columns)
            store_tile(maps.codes, column, row, p.codes(part));
          end_stores();
        }
      }
      if (leader) {
        wait_until_stores_have_read<2>();  // that of `kept`; the group has read it before the last barrier
        arrive(p.freed(i));
      }
    }
  }
  if (leader) wait_for_stores();
}

// ---- backward ------------------------------------------------------------------------------------------------------

__device__ inline void make_slopes(const Arguments& a, const Places& p) {
  std::uint32_t parity = 0;
  for (Tiles tiles(a); tiles.more(); tiles.next(), parity ^= 1) {
#pragma unroll
    for (int i = 0; i < consumers; ++i) {
      wait(p.loaded(i), parity);
#pragma unroll
      for (int part = 0; part < parts; ++part) {
        std::uint32_t u[2 * pairs][4];
#pragma unroll
        for (int pair = 0; pair < 2 * pairs; ++pair)
          load_matrices(u[pair], (matrices(p.kept(i), 2 * part + pair / pairs, pair % pairs)));
#pragma unroll
        for (int pair = 0; pair < 2 * pairs; ++pair)
#pragma unroll
          for (std::uint32_t& two : u[pair]) {
            const float2 v = unpack(two);
            two = pack(slope_of_gelu(v.x), slope_of_gelu(v.y));
          }
#pragma unroll
        for (int pair = 0; pair < 2 * pairs; ++pair)
          store_matrices(matrices(p.kept(i), 2 * part + pair / pairs, pair % pairs), u[pair]);
      }
      publish_writes();  // the copy engine writes there next
      __syncwarp();
      if (threadIdx.x % 32 == 0) arrive(p.ready(i));
    }
  }
}

// A group's result from its sums and the slopes.
__device__ inline void finish_backward(const Maps& maps, const Arguments& a, Shared& s, const Places& p,
                                       const float (&c)[128], const float (&factors)[2], int first_row,
                                       int first_column) {
  const int index = threadIdx.x / group - 1;
  const bool leader = threadIdx.x % group == 0;
  uint2 words[2 * pairs];
#pragma unroll
  for (int chunk = 0; chunk < chunks; ++chunk) {
    const Columns columns = columns_of<true>(a, first_column + chunk * chunk_columns);
    std::uint32_t slopes[pairs][4];
#pragma unroll
    for (int pair = 0; pair < pairs; ++pair) load_matrices(slopes[pair], (matrices(p.kept(index), chunk, pair)));
#pragma unroll
    for (int pair = 0; pair < pairs; ++pair) {
      float2 value[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int j = 2 * pair + i / 2;
        const float* const sums = c + (chunk * 2 * pairs + j) * 4 + i % 2 * 2;
        const float2 slope = unpack(slopes[pair][i]);
        value[i] = {sums[0] * (factors[i % 2] * columns.w[j].x) * slope.x,
                    sums[1] * (factors[i % 2] * columns.w[j].y) * slope.y};
      }
      words[chunk % 2 * pairs + pair] = exchange(codes_of(value[0], value[1]), codes_of(value[2], value[3]));
    }
    if (chunk % 2 == 0) continue;
    if (chunk + 1 == chunks && threadIdx.x % 32 == 0) arrive(p.freed(index));  // exchange() has the warp together
    if (leader) wait_until_stores_have_read<0>();
    barrier_of(consumer_barrier + index, group);
    write_codes(s.codes[index], words);
    publish_writes();
    barrier_of(consumer_barrier + index, group);
    if (leader) {
      if (const int column = first_column + chunk / 2 * code_columns; first_row < a.rows && column < a.columns)
        store_tile(maps.codes, column, first_row, p.codes(index));
      end_stores();
    }
  }
}

// ---- the kernel ----------------------------------------------------------------------------------------------------

// Backward: the gelu's inputs of a tile, once the groups have left the tile before. Those of the next are on their way
// to the L2 cache meanwhile.
__device__ inline void bring_inputs(const Maps& maps, const Places& p, const Tiles& tiles, int rank,
                                    std::uint32_t parity) {
  const int2 first = tiles.first(rank);
  for (int i = 0; i < consumers; ++i) {
    wait(p.freed(i), parity ^ 1);
    arrive_and_expect(p.loaded(i), kept_bytes);
    for (int chunk = 0; chunk < chunks; ++chunk)
      load_tile(p.kept(i) + chunk * chunk_bytes, maps.kept, first.y + chunk * chunk_columns, first.x + i * group_rows,
                p.loaded(i));
  }
  if (tiles.at + tiles.step >= tiles.count) return;
  const int2 next = tiles.first_of(tiles.at + tiles.step, rank);
  for (int i = 0; i < consumers; ++i)
    for (int chunk = 0; chunk < chunks; ++chunk)
      prefetch_tile(maps.kept, next.y + chunk * chunk_columns, next.x + i * group_rows);
}

template <bool backward>
__device__ inline void bring_tiles(const Maps& maps, const Arguments& a, const Places& p, int rank) {
  const int steps = (a.terms + tile_terms - 1) / tile_terms;
  int stage = 0;
  std::uint32_t parity = 0, tile_parity = 0;
  for (Tiles tiles(a); tiles.more(); tiles.next(), tile_parity ^= 1) {
    const int2 first = tiles.first(rank);
    for (int k = 0; k < steps; ++k) {
      wait(p.empty(stage), parity ^ 1);
      arrive_and_expect(p.full(stage), x_bytes + w_bytes);
      load_tile(p.x(stage), maps.x, k * tile_terms, first.x, p.full(stage));
      const int share = rank * (tile_columns / cluster);
      load_tile(p.w(stage) + share * tile_terms, maps.w, k * tile_terms, first.y + share, p.full(stage),
                (1 << cluster) - 1);
      if (++stage == stages) stage = 0, parity ^= 1;
      if constexpr (backward) {
        if (k == min(stages - 1, steps - 1)) bring_inputs(maps, p, tiles, rank, tile_parity);
      }
    }
  }
}

template <bool backward>
__device__ inline void multiply(const Maps& maps, const Arguments& a, Shared& s, const Places& p, int rank) {
  const int steps = (a.terms + tile_terms - 1) / tile_terms, index = threadIdx.x / group - 1;
  auto release = [&](int stage) {
    if (threadIdx.x % 32 < cluster) arrive_at(p.empty(stage), threadIdx.x % 32);
  };
  int stage = 0;
  std::uint32_t parity = 0, tile_parity = 0;
  float c[128];
  for (Tiles tiles(a); tiles.more(); tiles.next(), tile_parity ^= 1) {
    const int2 first = tiles.first(rank);
    const int row = first.x + index * group_rows;
    float x_scales[2], reaches[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = row + own_row() + 8 * half;
      x_scales[half] = at < a.rows ? a.x_scales[at] : 0.0f;
      reaches[half] = backward ? reach(a, at) : 0.0f;
    }
    if (const int at = first.y + threadIdx.x % group * 2; at < a.columns) {  // for what comes after the sums
      prefetch(a.w_scales + at);
      if (!backward && a.bias != nullptr) prefetch(a.bias + at);
    }
    int before = stage;
    for (int k = 0; k < steps; ++k) {
      wait(p.full(stage), parity);
      const std::uint64_t x = factor_in_shared<tile_terms>(p.x(stage) + index * group_rows * tile_terms),
                          w = factor_in_shared<tile_terms>(p.w(stage));
      begin_products();
#pragma unroll
      for (int i = 0; i < tile_terms / 32; ++i) {
        // In two halves: sums of 256 columns at once would take more registers than the compiler gives 512 threads.
        multiply_e4m3(c, x + 2 * i, w + 2 * i, k + i > 0);
        multiply_e4m3(c + 64, x + 2 * i, w + 2 * i + (tile_columns / 2 * tile_terms >> 4), k + i > 0);
      }
      end_products();
      if (k > 0) {
        wait_for_products<1>();
        release(before);
      }
      before = stage;
      if (++stage == stages) stage = 0, parity ^= 1;
    }
    wait_for_products<0>();
    hold(c);
    release(before);
    if (backward) {
      float factors[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at = row + own_row() + 8 * half;
        const float scale = steepest * reaches[half];
        factors[half] = x_scales[half] * reciprocal(scale);
        if (first.y == 0 && threadIdx.x % 4 == 0 && at < a.rows) a.scales[at] = scale;
      }
      wait(p.ready(index), tile_parity);
      finish_backward(maps, a, s, p, c, factors, row, first.y);
    } else {
      wait(p.freed(index), tile_parity ^ 1);
      leave_input(a, p.kept(index), c, x_scales, first.y);
      publish_writes();
      __syncwarp();
      if (threadIdx.x % 32 == 0) arrive(p.ready(index));
    }
  }
  if (threadIdx.x % group == 0) wait_for_stores();
}

template <bool backward>
__global__ void __cluster_dims__(cluster, 1, 1) __launch_bounds__(threads, 1)
    product_gelu(const __grid_constant__ Maps maps, const Arguments a) {
  extern __shared__ unsigned char memory[];
  Shared& s = *reinterpret_cast<Shared*>(memory + (alignment - shared_address(memory) % alignment) % alignment);
  Places p{shared_address(&s)};
  asm volatile("" : "+r"(p.base));  // not to be made anew
  const int rank = static_cast<int>(cluster_rank());
  if (threadIdx.x == 0) {
    for (int i = 0; i < stages; ++i) {
      init_barrier(p.full(i), 1);
      init_barrier(p.empty(i), cluster * consumers * group_warps);
    }
    for (int i = 0; i < consumers; ++i) {
      init_barrier(p.loaded(i), 1);
      init_barrier(p.ready(i), group_warps);
      init_barrier(p.freed(i), backward ? group_warps : 1);
    }
    publish_barriers();
  }
  cluster_barrier();
  const int role = threadIdx.x / group;
  if (role == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x == 0) bring_tiles<backward>(maps, a, p, rank);
  } else if (role <= consumers) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 176;");
    multiply<backward>(maps, a, s, p, rank);
  } else {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 120;");
    backward ? make_slopes(a, p) : make_gelus(maps, a, s, p, rank);
  }
  cluster_barrier();  // the other blocks' copies and arrivals still come here
}

// ---- the host's side -----------------------------------------------------------------------------------------------

// The driver's own function, which no library that is linked has.
decltype(&cuTensorMapEncodeTiled) encode_function() {
  static const auto function = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
#if CUDART_VERSION >= 12050
    const cudaError_t status =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
#else
    const cudaError_t status = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result);
#endif
    if (status != cudaSuccess || result != cudaDriverEntryPointSuccess) found = nullptr;
    static_cast<void>(cudaGetLastError());
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found);
  }();
  return function;
}

// (rows, columns), in boxes of box_rows by 128 or 64 bytes.
bool make_map(TileMap& map, const void* data, bool is_bf16, std::int64_t rows, std::int64_t columns, int box_rows,
              std::uint32_t box_bytes = 128) {
  const std::uint32_t element = is_bf16 ? 2 : 1;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)},
                   strides[] = {static_cast<cuuint64_t>(columns) * element};
  const cuuint32_t box[] = {box_bytes / element, static_cast<cuuint32_t>(box_rows)}, steps[] = {1, 1};
  return encode_function()(&map, is_bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_UINT8, 2,
                           const_cast<void*>(data), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                           box_bytes == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
                           CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

// How many clusters the device holds at once: fewer than its multiprocessors would make, where their groups leave a
// rest.
template <bool backward>
int most_clusters(Stream& stream) {
  static std::mutex mutex;
  static std::map<int, int> known;
  const std::lock_guard lock(mutex);
  const auto [found, is_new] = known.try_emplace(device_index(stream), 0);
  if (!is_new) return found->second;
  auto* const kernel = product_gelu<backward>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes), "shared memory");
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {cluster, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(cluster);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.attrs = &attribute;
  config.numAttrs = 1;
  check(cudaOccupancyMaxActiveClusters(&found->second, kernel, &config), "a kernel's occupancy");
  return found->second;
}

template <bool backward>
bool launch(Stream& stream, const Maps& maps, const Arguments& a) {
  static_assert(shared_bytes <= 227 * 1024);
  if (dynamic_shared_memory(stream) < shared_bytes) return false;
  const int tiles = static_cast<int>(blocks_for(a.rows, cluster * tile_rows) * blocks_for(a.columns, tile_columns));
  const int clusters = std::min(tiles, most_clusters<backward>(stream));
  if (clusters == 0) return false;
  product_gelu<backward><<<static_cast<unsigned>(cluster * clusters), threads, shared_bytes, handle(stream)>>>(maps, a);
  check_launch("an FP8 product with gelu");
  return true;
}

}  // namespace

bool fused_fp8_gelu(Stream& stream, const Fp8Rows& x, const Fp8Weights& w, const Tensor& bias, const Tensor& kept,
                    const Fp8Rows& y, bool backward) {
  const std::int64_t rows = x.codes.dim(0), terms = x.codes.dim(1), columns = y.codes.dim(1);
  if (compute_capability(stream) != 90 || encode_function() == nullptr) return false;
  if (terms % 16 != 0 || columns % 16 != 0 || rows > (std::int64_t{1} << 30)) return false;
  if (kept.defined() && kept.dtype() != DType::bf16) return false;
  if (rows == 0) return true;
  Maps maps{};
  const auto* const kept_data = kept.defined() ? RawAccess::address(kept) : nullptr;
  bool made =
      make_map(maps.x, RawAccess::address(x.codes), false, rows, terms, tile_rows, tile_terms) &&
      make_map(maps.w, RawAccess::address(w.codes), false, columns, terms, tile_columns / cluster, tile_terms) &&
      make_map(maps.codes, RawAccess::address(y.codes), false, rows, columns, group_rows);
  if (kept_data != nullptr) made = made && make_map(maps.kept, kept_data, true, rows, columns, group_rows);
  if (!made) return false;
  const Arguments a{.x_scales = RawAccess::data<float>(x.scales),
                    .x_norms = x.norms.defined() ? RawAccess::data<float>(x.norms) : nullptr,
                    .w_scales = RawAccess::data<float>(w.scales),
                    .largest_norm = RawAccess::data<float>(w.largest_norm),
                    .bias = bias.defined() ? RawAccess::data<__nv_bfloat16>(bias) : nullptr,
                    .scales = RawAccess::data<float>(y.scales),
                    .rows = static_cast<int>(rows),
                    .columns = static_cast<int>(columns),
                    .terms = static_cast<int>(terms),
                    .keeps = kept_data != nullptr};
  return backward ? launch<true>(stream, maps, a) : launch<false>(stream, maps, a);
}

}  // namespace trib::kernels::cuda
