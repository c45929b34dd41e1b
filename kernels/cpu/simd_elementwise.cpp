#include "kernels/cpu/simd_vector.h"

namespace trib::kernels::cpu::TRIB_SIMD_NAMESPACE {
namespace {

// Calls body(index, count, load, store_count) once per vector of [begin, end): full vectors with count = width, and one
// tail. A loop body is written once and compiled for both.
template <typename Body>
TRIB_INLINE void for_each_vector(int64_t begin, int64_t end, Body body) {
  int64_t i = begin;
  for (; i + width <= end; i += width) body(i, int64_t{width});
  if (i < end) body(i, end - i);
}
TRIB_INLINE Floats load_at(const float* p, int64_t i, int64_t count) {
  return count == width ? load(p + i) : load_some(p + i, count);
}
template <bool is_bf16>
TRIB_INLINE void store_at(void* p, int64_t i, Floats v, int64_t count) {
  count == width ? store_as<is_bf16>(p, i, v) : store_some_as<is_bf16>(p, i, v, count);
}
TRIB_INLINE Shorts load_bf16_at(const void* p, int64_t i, int64_t count) {
  Shorts v = {};
  const uint16_t* from = static_cast<const uint16_t*>(p) + i;
  count == width ? memcpy(&v, from, sizeof v) : memcpy(&v, from, static_cast<size_t>(count) * sizeof(uint16_t));
  return v;
}

template <bool compute_bf16>
void layer_norm_rows(const LayerNormArguments& a, int64_t begin, int64_t end) {
  const int64_t n = a.columns;
  for (int64_t row = begin; row < end; ++row) {
    const float* x = a.x + row * n;
    const float* residual = a.residual ? a.residual + row * n : nullptr;
    float* y = a.y + row * n;
    // y holds h between the passes; both read it from L1.
    Floats total = {};
    for_each_vector(0, n, [&](int64_t i, int64_t count) {
      Floats h = load_at(x, i, count);
      if (residual) h += load_at(residual, i, count);
      store_at<false>(y, i, h, count);
      total += h;
    });
    const float mean = sum(total) / static_cast<float>(n);
    Floats squares = {};
    for_each_vector(0, n, [&](int64_t i, int64_t count) {
      Floats d = load_at(y, i, count) - mean;
      if (count == width) {
        squares += d * d;
      } else {
        for (int64_t j = 0; j < count; ++j) squares[0] += d[j] * d[j];
      }
    });
    const float variance = sum(squares) / static_cast<float>(n);
    const float inverse = 1.0f / __builtin_sqrtf(variance + a.epsilon);
    float* normalized = a.normalized ? a.normalized + row * n : nullptr;
    if (a.inverse_deviations) a.inverse_deviations[row] = inverse;
    for_each_vector(0, n, [&](int64_t i, int64_t count) {
      Floats unit = (load_at(y, i, count) - mean) * inverse;
      if (normalized) store_at<false>(normalized, i, unit, count);
      Floats result = unit * load_at(a.gamma, i, count) + load_at(a.beta, i, count);
      store_at<false>(y, i, result, count);
      if constexpr (compute_bf16) store_at<true>(a.y_compute.data, row * n + i, result, count);
    });
  }
}

void layer_norm(const LayerNormArguments& a, int64_t begin, int64_t end) {
  a.y_compute ? layer_norm_rows<true>(a, begin, end) : layer_norm_rows<false>(a, begin, end);
}

// With g = dy·gamma: dx = (g − mean g − x̂·mean(g·x̂))/deviation.
template <bool compute_bf16>
void layer_norm_backward_rows(const LayerNormBackwardArguments& a, int64_t begin, int64_t end) {
  const int64_t n = a.columns;
  for (int64_t row = begin; row < end; ++row) {
    const float* dy = a.dy + row * n;
    const float* unit = a.normalized + row * n;
    Floats total = {}, projected = {};
    for_each_vector(0, n, [&](int64_t i, int64_t count) {
      Floats g = load_at(dy, i, count) * load_at(a.gamma, i, count);
      total += g;
      projected += g * load_at(unit, i, count);
    });
    const float mean = sum(total) / static_cast<float>(n);
    const float slope = sum(projected) / static_cast<float>(n);
    const float inverse = a.inverse_deviations[row];
    for_each_vector(0, n, [&](int64_t i, int64_t count) {
      Floats g = load_at(dy, i, count) * load_at(a.gamma, i, count);
      Floats dx = (g - mean - load_at(unit, i, count) * slope) * inverse;
      store_at<false>(a.dx, row * n + i, dx, count);
      if constexpr (compute_bf16) store_at<true>(a.dx_compute.data, row * n + i, dx, count);
    });
  }
}

void layer_norm_backward(const LayerNormBackwardArguments& a, int64_t begin, int64_t end) {
  a.dx_compute ? layer_norm_backward_rows<true>(a, begin, end) : layer_norm_backward_rows<false>(a, begin, end);
}

// Φ(−|x|) = exp(−x²/2)·P(t), t = 1/(1 + 0.3|x|): the form of Abramowitz & Stegun 7.1.26 with eight coefficients, fitted
// for the least relative error on [0, 12] (8.3e-8). The exponential also gives φ(x), so the derivative is nearly free.
struct NormalDistribution {
  Floats cumulative, density;
};
TRIB_INLINE NormalDistribution normal_distribution(Floats x) {
  Floats magnitude = reinterpret_cast<Floats>(reinterpret_cast<Ints>(x) & 0x7fffffff);
  Floats exponential = exp_of(x * x * -0.5f);
  Floats t = 1.0f / (1.0f + 0.3f * magnitude);
  Floats p = splat(0.0367403885f);
  p = p * t + -0.161674429f;
  p = p * t + 0.214124527f;
  p = p * t + -0.0609121907f;
  p = p * t + 0.13243598f;
  p = p * t + 0.0987205476f;
  p = p * t + 0.120948847f;
  p = p * t + 0.119616289f;
  Floats tail = p * t * exponential;
  return {select(x < Floats{}, tail, 1.0f - tail), exponential * 0.398942280f};
}

template <bool y_bf16, bool has_derivative, bool derivative_bf16>
void gelu_range(const float* x, void* y, void* derivative, int64_t begin, int64_t end) {
  for_each_vector(begin, end, [&](int64_t i, int64_t count) {
    Floats v = load_at(x, i, count);
    NormalDistribution normal = normal_distribution(v);
    store_at<y_bf16>(y, i, v * normal.cumulative, count);
    if constexpr (has_derivative)
      store_at<derivative_bf16>(derivative, i, normal.cumulative + v * normal.density, count);
  });
}

template <bool y_bf16>
void gelu_to(const float* x, void* y, Output derivative, int64_t begin, int64_t end) {
  if (!derivative) return gelu_range<y_bf16, false, false>(x, y, nullptr, begin, end);
  if (derivative.is_bf16) return gelu_range<y_bf16, true, true>(x, y, derivative.data, begin, end);
  gelu_range<y_bf16, true, false>(x, y, derivative.data, begin, end);
}

void gelu(const float* x, Output y, Output derivative, int64_t begin, int64_t end) {
  y.is_bf16 ? gelu_to<true>(x, y.data, derivative, begin, end) : gelu_to<false>(x, y.data, derivative, begin, end);
}

template <bool derivative_bf16, bool dx_bf16>
void multiply_range(const float* dy, const void* derivative, void* dx, int64_t begin, int64_t end) {
  for_each_vector(begin, end, [&](int64_t i, int64_t count) {
    Floats slope;
    if constexpr (derivative_bf16) {
      slope = float_of(load_bf16_at(derivative, i, count));
    } else {
      slope = load_at(static_cast<const float*>(derivative), i, count);
    }
    store_at<dx_bf16>(dx, i, load_at(dy, i, count) * slope, count);
  });
}

void multiply(const float* dy, const void* derivative, bool is_bf16, Output dx, int64_t begin, int64_t end) {
  if (is_bf16 && dx.is_bf16) return multiply_range<true, true>(dy, derivative, dx.data, begin, end);
  if (is_bf16) return multiply_range<true, false>(dy, derivative, dx.data, begin, end);
  if (dx.is_bf16) return multiply_range<false, true>(dy, derivative, dx.data, begin, end);
  multiply_range<false, false>(dy, derivative, dx.data, begin, end);
}

// Cephes' tanhf: an odd polynomial near 0, where 1 − 2/(e^{2|x|} + 1) would cancel, and that form elsewhere.
void tanh(const float* x, float* y, int64_t begin, int64_t end) {
  for_each_vector(begin, end, [&](int64_t i, int64_t count) {
    Floats v = load_at(x, i, count);
    Ints sign = reinterpret_cast<Ints>(v) & static_cast<int32_t>(0x80000000);
    Floats magnitude = reinterpret_cast<Floats>(reinterpret_cast<Ints>(v) ^ sign);
    Floats z = v * v;
    Floats p = splat(-5.70498872745e-3f);
    p = p * z + 2.06390887954e-2f;
    p = p * z + -5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z + -3.33332819422e-1f;
    Floats small = p * z * v + v;
    Floats large = 1.0f - 2.0f / (exp_of(magnitude * 2.0f) + 1.0f);
    large = reinterpret_cast<Floats>(reinterpret_cast<Ints>(large) | sign);
    store_at<false>(y, i, select(magnitude < splat(0.625f), small, large), count);
  });
}

void tanh_backward(const float* dy, const float* y, float* dx, int64_t begin, int64_t end) {
  for_each_vector(begin, end, [&](int64_t i, int64_t count) {
    Floats v = load_at(y, i, count);
    store_at<false>(dx, i, load_at(dy, i, count) * (1.0f - v * v), count);
  });
}

void rectify(float* x, int64_t begin, int64_t end) {
  for_each_vector(begin, end, [&](int64_t i, int64_t count) {
    const Floats v = load_at(x, i, count);
    store_at<false>(x, i, select(v > Floats{}, v, Floats{}), count);
  });
}

void largest(const float* corner, int64_t channels, int64_t columns, int64_t row_stride, int64_t rows, float* y) {
  for_each_vector(0, channels, [&](int64_t i, int64_t count) {
    Floats best = load_at(corner, i, count);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c) {
        const Floats v = load_at(corner + r * row_stride + c * channels, i, count);
        best = select(v > best, v, best);
      }
    store_at<false>(y, i, best, count);
  });
}

void to_bf16(const float* x, uint16_t* y, int64_t begin, int64_t end) {
  for_each_vector(begin, end, [&](int64_t i, int64_t count) { store_at<true>(y, i, load_at(x, i, count), count); });
}

void axpy(float a, const float* x, float* y, int64_t begin, int64_t end) {
  for_each_vector(begin, end, [&](int64_t i, int64_t count) {
    store_at<false>(y, i, load_at(y, i, count) + a * load_at(x, i, count), count);
  });
}

void scale(float a, float* x, int64_t begin, int64_t end) {
  for_each_vector(begin, end,
                  [&](int64_t i, int64_t count) { store_at<false>(x, i, load_at(x, i, count) * a, count); });
}

// Blocks are added in float32 lanes and the blocks in float64.
constexpr int64_t squared_norm_block = 64 * width;

double squared_norm(const float* x, int64_t begin, int64_t end) {
  constexpr int64_t block = squared_norm_block;
  double total = 0;
  for (int64_t first = begin; first < end; first += block) {
    Floats a = {}, b = {}, c = {}, d = {};
    int64_t last = end - first < block ? end : first + block, i = first;
    for (; i + 4 * width <= last; i += 4 * width) {
      Floats v0 = load(x + i), v1 = load(x + i + width), v2 = load(x + i + 2 * width), v3 = load(x + i + 3 * width);
      a += v0 * v0;
      b += v1 * v1;
      c += v2 * v2;
      d += v3 * v3;
    }
    for_each_vector(i, last, [&](int64_t j, int64_t count) {
      Floats v = load_at(x, j, count);
      a += v * v;
    });
    total += static_cast<double>(sum((a + b) + (c + d)));
  }
  return total;
}

}  // namespace

void add_elementwise(SimdKernels& kernels) {
  kernels.layer_norm = layer_norm;
  kernels.layer_norm_backward = layer_norm_backward;
  kernels.gelu = gelu;
  kernels.multiply = multiply;
  kernels.tanh = tanh;
  kernels.tanh_backward = tanh_backward;
  kernels.rectify = rectify;
  kernels.largest = largest;
  kernels.to_bf16 = to_bf16;
  kernels.axpy = axpy;
  kernels.scale = scale;
  kernels.squared_norm = squared_norm;
  kernels.squared_norm_block = squared_norm_block;
}

}  // namespace trib::kernels::cpu::TRIB_SIMD_NAMESPACE
