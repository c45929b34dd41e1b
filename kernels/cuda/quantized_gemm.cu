// Products of bfloat16 with weights in 8 or 4 bits, on the tensor cores (mma.m16n8k16, from Ampere on).
//
// A block makes 128×128 of y in steps of 32 terms. Tiles of x and packed weights are copied ahead by cp.async, `stages`
// steps deep. Each thread copies 16 weights of a step and, one step before they are needed, writes them as bfloat16
// into shared memory, beside the products of the current step. One copy of the weights (out, in) serves both
// directions: the tile in shared memory is the right factor as it is, or its transpose.
#include "kernels/cpu/packed_matrix.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/quantized_gemm.h"

namespace trib::kernels::cuda {
namespace {

constexpr int threads = 256, tile_rows = 128, tile_columns = 128, step = 32, stages = 4;
constexpr int warp_rows = 64, warp_columns = 32;  // of y: eight warps, two below each other and four beside
constexpr int x_stride = step + 8;
constexpr int codes_a_thread = 16;  // 256 threads: a tile of 128×32

struct Arguments {
  const Bf16* x;              // (rows, terms)
  const std::uint8_t* codes;  // (matrix_rows, padded_columns)
  const float* scales8;       // (matrix_rows)
  const Bf16* scales4;        // (padded_columns/64, matrix_rows)
  Values bias, y;             // (columns), (rows, columns)
  std::int64_t rows;
  int terms, columns;
  int matrix_rows, padded_columns;
  bool accumulate, x_aligned, y_aligned;
};

// Weights are stored (out, in). `backward` sums over the outputs.
template <int bits, bool backward>
struct Layout {
  static constexpr int stride = (backward ? tile_columns : step) + 8;  // of the weights' tile in shared memory
  static constexpr int tile_elements = (backward ? step : tile_columns) * stride;
  static constexpr int codes_bytes = codes_a_thread * bits / 8;  // of one thread
  static constexpr int x_bytes = tile_rows * x_stride * 2;
  static constexpr int stage_bytes = x_bytes + threads * codes_bytes;
  static constexpr int shared_bytes = stages * stage_bytes + 2 * tile_elements * 2;
  // Where in the tile a thread's 16 codes are.
  static constexpr int threads_a_row = (backward ? tile_columns : step) / codes_a_thread;
};

template <int bytes>
__device__ inline void copy_codes(std::uint8_t* to, const std::uint8_t* from, bool present) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)), "l"(from), "n"(bytes),
               "r"(present ? bytes : 0));
}

// Four codes without their sign in the bytes of `word`, as bfloat16 times `scale`: 2^23 + byte is a float whose last
// bits are the byte.
template <int offset>
__device__ inline uint2 four_weights(std::uint32_t word, float scale) {
  constexpr float zero = 8388608.0f + offset;
  auto weight = [&](std::uint32_t selector) {
    return (__uint_as_float(__byte_perm(word, 0x4b000000u, selector)) - zero) * scale;
  };
  return {pack(weight(0x7440), weight(0x7441)), pack(weight(0x7442), weight(0x7443))};
}

// A thread's 16 weights from its codes.
template <int bits>
__device__ inline void write_weights(Bf16* to, const std::uint8_t* codes, float scale) {
  uint2 w[4];
  if (bits == 8) {
    const uint4 words = *reinterpret_cast<const uint4*>(codes);
    w[0] = four_weights<128>(words.x, scale);
    w[1] = four_weights<128>(words.y, scale);
    w[2] = four_weights<128>(words.z, scale);
    w[3] = four_weights<128>(words.w, scale);
  } else {
    const uint2 words = *reinterpret_cast<const uint2*>(codes);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const std::uint32_t word = i == 0 ? words.x : words.y, low = word & 0x0f0f0f0fu, high = word >> 4 & 0x0f0f0f0fu;
      // Bytes alternate between even and odd columns.
      w[2 * i] = four_weights<8>(__byte_perm(low, high, 0x5140), scale);
      w[2 * i + 1] = four_weights<8>(__byte_perm(low, high, 0x7362), scale);
    }
  }
  *reinterpret_cast<uint4*>(to) = {w[0].x, w[0].y, w[1].x, w[1].y};
  *reinterpret_cast<uint4*>(to + 8) = {w[2].x, w[2].y, w[3].x, w[3].y};
}

// Eight values of a row of x where rows do not start at multiples of 16 bytes.
__device__ inline void copy_plainly(Bf16* to, const Bf16* row, int first, int terms, bool present) {
  for (int i = 0; i < 8; ++i) to[i] = present && first + i < terms ? row[first + i] : __float2bfloat16_rn(0.0f);
}

template <int bits, bool backward>
__global__ void __launch_bounds__(threads, 2) product(Arguments a) {
  using L = Layout<bits, backward>;
  extern __shared__ __align__(16) std::byte memory[];
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.y) * tile_rows;
  const int first_column = blockIdx.x * tile_columns;
  auto x_tile = [&](int s) { return reinterpret_cast<Bf16*>(memory + s % stages * L::stage_bytes); };
  auto own_codes = [&](int s) {
    return reinterpret_cast<std::uint8_t*>(memory + s % stages * L::stage_bytes + L::x_bytes) + thread * L::codes_bytes;
  };
  auto w_tile = [&](int s) {
    return reinterpret_cast<Bf16*>(memory + stages * L::stage_bytes) + s % 2 * L::tile_elements;
  };

  // This thread's codes in the tile, and in the matrix at the first step; a step later they are `step` rows (backward)
  // or columns on.
  const int code_row = thread / L::threads_a_row, code_column = thread % L::threads_a_row * codes_a_thread;
  const int matrix_row = code_row + (backward ? 0 : first_column),
            matrix_column = code_column + (backward ? first_column : 0);
  auto row_at = [&](int s) { return backward ? matrix_row + s * step : matrix_row; };
  auto column_at = [&](int s) { return backward ? matrix_column : matrix_column + s * step; };
  auto present = [&](int s) { return row_at(s) < a.matrix_rows && column_at(s) < a.padded_columns; };
  auto scale_at = [&](int s) {
    if (!present(s)) return 0.0f;
    return bits == 8
               ? a.scales8[row_at(s)]
               : __bfloat162float(a.scales4[static_cast<std::int64_t>(column_at(s) / 64) * a.matrix_rows + row_at(s)]);
  };
  auto start_copies = [&](int s) {
    Bf16* const x = x_tile(s);
#pragma unroll
    for (int i = 0; i < tile_rows * step / 8 / threads; ++i) {
      const int unit = thread + i * threads, row = unit / (step / 8), column = unit % (step / 8) * 8;
      const bool in_rows = first_row + row < a.rows;
      const Bf16* const from = a.x + (in_rows ? (first_row + row) * a.terms : 0);
      Bf16* const to = x + row * x_stride + column;
      if (a.x_aligned) {
        const bool there = in_rows && s * step + column < a.terms;
        copy_async(to, there ? from + s * step + column : a.x, there);
      } else {
        copy_plainly(to, from, s * step + column, a.terms, in_rows);
      }
    }
    const std::int64_t at = (static_cast<std::int64_t>(row_at(s)) * a.padded_columns + column_at(s)) * bits / 8;
    copy_codes<L::codes_bytes>(own_codes(s), present(s) ? a.codes + at : a.codes, present(s));
  };
  auto unpack_weights = [&](int s, float scale) {
    write_weights<bits>(w_tile(s) + code_row * L::stride + code_column, own_codes(s), scale);
  };

  const int steps = (a.terms + step - 1) / step;
  for (int s = 0; s < stages - 1; ++s) {
    if (s < steps) start_copies(s);
    end_copy_group();
  }
  float next_scale = scale_at(1);
  wait_for_copies<stages - 2>();
  if (steps > 0) unpack_weights(0, scale_at(0));

  const int row = warp / (tile_columns / warp_columns) * warp_rows,
            column = warp % (tile_columns / warp_columns) * warp_columns;
  float c[warp_rows / 16][warp_columns / 8][4] = {};
  for (int s = 0; s < steps; ++s) {
    wait_for_copies<stages - 3>();  // this thread's of step s + 1, and of step s by every thread after the barrier
    __syncthreads();
    if (s + stages - 1 < steps) start_copies(s + stages - 1);
    end_copy_group();
    const float scale = next_scale;
    if (s + 2 < steps) next_scale = scale_at(s + 2);
    if (s + 1 < steps) unpack_weights(s + 1, scale);
    const Bf16 *const x = x_tile(s), *const w = w_tile(s);
#pragma unroll
    for (int k = 0; k < step; k += 16) {
      std::uint32_t left[warp_rows / 16][4];
#pragma unroll
      for (int m = 0; m < warp_rows / 16; ++m) left_factor<x_stride>(left[m], x, row + 16 * m, k);
#pragma unroll
      for (int n = 0; n < warp_columns; n += 16) {
        std::uint32_t right[4];
        if (backward) {
          right_factor<L::stride>(right, w, k, column + n);
        } else {
          right_factor_of_transposed<L::stride>(right, w, k, column + n);
        }
#pragma unroll
        for (int m = 0; m < warp_rows / 16; ++m) {
          multiply_add(c[m][n / 8], left[m], right[0], right[1]);
          multiply_add(c[m][n / 8 + 1], left[m], right[2], right[3]);
        }
      }
    }
  }

  // Neighbouring lanes exchange, so that each has four columns: an even one of the left tile of a pair, an odd one of
  // the right tile.
  const bool odd = lane % 2 != 0;
#pragma unroll
  for (int m = 0; m < warp_rows / 16; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int n = 0; n < warp_columns / 8; n += 2) {
        const float *const left = c[m][n] + 2 * half, *const right = c[m][n + 1] + 2 * half;
        const float got0 = __shfl_xor_sync(0xffffffffu, odd ? left[0] : right[0], 1),
                    got1 = __shfl_xor_sync(0xffffffffu, odd ? left[1] : right[1], 1);
        float4 value = odd ? float4{got0, got1, right[0], right[1]} : float4{left[0], left[1], got0, got1};
        const std::int64_t y_row = first_row + row + 16 * m + 8 * half + lane / 4;
        const int y_column = first_column + column + 8 * n + (odd ? 8 + lane % 4 * 2 - 2 : lane % 4 * 2);
        if (y_row >= a.rows) continue;
        auto add = [&](const float4& more) {
          value.x += more.x, value.y += more.y, value.z += more.z, value.w += more.w;
        };
        if (a.bias.data != nullptr) add(load4_of_row(a.bias, 0, y_column, a.columns, a.y_aligned));
        if (a.accumulate) add(load4_of_row(a.y, y_row * a.columns, y_column, a.columns, a.y_aligned));
        store4_of_row(a.y, y_row * a.columns, y_column, a.columns, a.y_aligned, value);
      }
}

struct QuantizedMatrix final : PackedMatrix::Impl {
  Tensor codes, scales;  // u8 (rows, row bytes); float32 or bfloat16
  std::int64_t rows = 0, padded_columns = 0;
  bool backward = false;
};

template <int bits, bool backward>
void launch(Stream& stream, const Arguments& a) {
  auto* const kernel = product<bits, backward>;
  constexpr int bytes = Layout<bits, backward>::shared_bytes;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "shared memory");
  kernel<<<dim3(blocks_for(a.columns, tile_columns), blocks_for(a.rows, tile_rows)), threads, bytes, handle(stream)>>>(
      a);
  check_launch("a product with quantized weights");
}

bool is_aligned(const void* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0;
}

}  // namespace

std::pair<std::shared_ptr<const PackedMatrix::Impl>, std::shared_ptr<const PackedMatrix::Impl>> pack_quantized(
    Stream& stream, const QuantizedWeights& weights) {
  auto forward = std::make_shared<QuantizedMatrix>();
  forward->input_size = weights.columns;
  forward->output_size = weights.rows;
  forward->compute = DType::bf16;
  forward->format = weights.format;
  forward->rows = weights.rows;
  forward->padded_columns = weights.padded_columns();
  forward->codes = Tensor(stream.device(), DType::u8, {weights.rows, weights.row_bytes()});
  stream.device().copy_from_host(stream, RawAccess::address(forward->codes), weights.codes.data(),
                                 weights.codes.size());
  forward->scales = Tensor::from_host(stream, std::span<const float>(weights.scales));
  if (weights.format == WeightFormat::int4) {
    std::vector<std::uint16_t> narrow;
    for (const float scale : weights.scales) narrow.push_back(float_to_bfloat16(scale));
    forward->scales = Tensor(stream.device(), DType::bf16, {static_cast<std::int64_t>(narrow.size())});
    stream.device().copy_from_host(stream, RawAccess::address(forward->scales), narrow.data(), 2 * narrow.size());
  }
  auto backward = std::make_shared<QuantizedMatrix>(*forward);
  std::swap(backward->input_size, backward->output_size);
  backward->backward = true;
  return {forward, backward};
}

void quantized_product(Stream& stream, const Tensor& x, const PackedMatrix::Impl& w, const Tensor& bias,
                       bool accumulate, const Tensor& y) {
  const auto& matrix = static_cast<const QuantizedMatrix&>(w);
  Arguments a{};
  a.x = RawAccess::data<Bf16>(x);
  a.codes = RawAccess::data<std::uint8_t>(matrix.codes);
  const bool is_int8 = matrix.format == WeightFormat::int8;
  if (is_int8) {
    a.scales8 = RawAccess::data<float>(matrix.scales);
  } else {
    a.scales4 = RawAccess::data<Bf16>(matrix.scales);
  }
  if (!accumulate) a.bias = values(bias);
  a.y = values(y);
  a.rows = x.dim(0);
  a.terms = static_cast<int>(matrix.input_size);
  a.columns = static_cast<int>(matrix.output_size);
  a.matrix_rows = static_cast<int>(matrix.rows);
  a.padded_columns = static_cast<int>(matrix.padded_columns);
  a.accumulate = accumulate;
  a.x_aligned = a.terms % 8 == 0 && is_aligned(a.x);
  a.y_aligned = a.columns % 4 == 0 && is_aligned(a.y.data) && is_aligned(a.bias.data);
  if (a.rows == 0 || a.columns == 0) return;
  if (is_int8) {
    matrix.backward ? launch<8, true>(stream, a) : launch<8, false>(stream, a);
  } else {
    matrix.backward ? launch<4, true>(stream, a) : launch<4, false>(stream, a);
  }
}

}  // namespace trib::kernels::cuda
