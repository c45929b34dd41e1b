#include "tests/kernels/gradient_cases.h"

#include <algorithm>
#include <cmath>

#include "kernels/attention.h"
#include "kernels/gemm.h"
#include "kernels/layer_norm.h"
#include "kernels/loss.h"
#include "kernels/per_sample.h"
#include "tests/kernels/case_maker.h"

namespace trib::kernels {
namespace {

using Values = std::vector<double>;
using Argument = std::span<const double>;

// Sums in float32; bfloat16 results, whose roundings may meet.
constexpr double f32_rounding = 2e-5, bf16_rounding = 2e-2;

double tolerance_of(bool narrow) {
  return narrow ? bf16_rounding : f32_rounding;
}
std::string suffix(bool narrow) {
  return narrow ? "_bf16" : "_f32";
}

Values doubles(Stream& stream, const Tensor& tensor) {
  const HostTensor host = tensor.to_host(stream).to_f32().value();
  return {host.as<float>().begin(), host.as<float>().end()};
}

double dot(Argument a, Argument b) {
  double total = 0;
  for (std::size_t i = 0; i < a.size(); ++i) total += a[i] * b[i];
  return total;
}

double gelu_of(double x) {
  return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
}

// a (m, k) · b (k, n), or · bᵀ with b (n, k).
Values product(Argument a, Argument b, std::size_t m, std::size_t k, std::size_t n, bool transposed) {
  Values c(m * n);
  for (std::size_t i = 0; i < m; ++i)
    for (std::size_t j = 0; j < n; ++j)
      for (std::size_t l = 0; l < k; ++l) c[i * n + j] += a[i * k + l] * (transposed ? b[j * k + l] : b[l * n + j]);
  return c;
}

GradientCase gelu_case(bool narrow) {
  return {"gelu" + suffix(narrow), narrow, tolerance_of(narrow), [=](Stream& stream) {
            const Maker make{stream, narrow};
            const std::int64_t count = 203;
            const Tensor x = make.in({count}, 1), dy = make.in({count}, 2), y = make.out({count}),
                         kept = make.out({count}), dx = make.out({count});
            gelu(stream, x, y, kept);
            gelu_backward(stream, dy, kept, dx);
            const auto scalar = [weights = doubles(stream, dy)](Argument at) {
              double total = 0;
              for (std::size_t i = 0; i < at.size(); ++i) total += weights[i] * gelu_of(at[i]);
              return total;
            };
            return std::vector<ComputedGradient>{{"x", dx, doubles(stream, x), scalar}};
          }};
}

GradientCase tanh_case() {
  return {"tanh", false, f32_rounding, [=](Stream& stream) {
            const Maker make{stream, false};
            const std::int64_t count = 203;
            const Tensor x = make.in({count}, 1), dy = make.in({count}, 2), y = make.out({count}),
                         dx = make.out({count});
            tanh(stream, x, y);
            tanh_backward(stream, dy, y, dx);
            const auto scalar = [weights = doubles(stream, dy)](Argument at) {
              double total = 0;
              for (std::size_t i = 0; i < at.size(); ++i) total += weights[i] * std::tanh(at[i]);
              return total;
            };
            return std::vector<ComputedGradient>{{"x", dx, doubles(stream, x), scalar}};
          }};
}

// The gradient at x is that at the residual too.
GradientCase layer_norm_case(std::int64_t rows, std::int64_t columns, bool narrow) {
  return {"layer_norm_" + std::to_string(columns) + suffix(narrow), narrow, tolerance_of(narrow), [=](Stream& stream) {
            const Maker make{stream, narrow};
            const Tensor x = make.in({rows, columns}, 1), residual = make.wide({rows, columns}, 2),
                         dy = make.wide({rows, columns}, 3);
            const LayerNormWeights weights{make.wide({columns}, 4), make.wide({columns}, 5), 1e-5f};
            const Tensor y = make.wide_out({rows, columns}), dx = make.wide_out({rows, columns});
            const LayerNormSaved saved{make.out({rows, columns}), make.wide_out({rows})};
            layer_norm(stream, x, residual, weights, y, {}, saved);
            layer_norm_backward(stream, dy, weights, saved, dx, {});
            const auto scalar = [=, other = doubles(stream, residual), dy = doubles(stream, dy),
                                 gamma = doubles(stream, weights.gamma)](Argument at) {
              double total = 0;
              const auto n = static_cast<std::size_t>(columns);
              for (std::size_t first = 0; first < at.size(); first += n) {
                double mean = 0, variance = 0;
                for (std::size_t j = first; j < first + n; ++j) mean += (at[j] + other[j]) / static_cast<double>(n);
                for (std::size_t j = first; j < first + n; ++j)
                  variance += std::pow(at[j] + other[j] - mean, 2) / static_cast<double>(n);
                for (std::size_t j = first; j < first + n; ++j)
                  total += dy[j] * gamma[j - first] * (at[j] + other[j] - mean) / std::sqrt(variance + 1e-5);
              }
              return total;
            };
            return std::vector<ComputedGradient>{{"x", dx, doubles(stream, x), scalar}};
          }};
}

struct HostAttention {
  std::vector<std::int32_t> query_offsets, key_offsets;
  std::size_t heads, size;

  double operator()(Argument query, Argument keys, Argument values, Argument d_output) const {
    const std::size_t d = heads * size;
    double total = 0;
    for (std::size_t r = 0; r + 1 < key_offsets.size(); ++r) {
      const auto first_key = static_cast<std::size_t>(key_offsets[r]),
                 end_key = static_cast<std::size_t>(key_offsets[r + 1]);
      for (auto i = static_cast<std::size_t>(query_offsets[r]); i < static_cast<std::size_t>(query_offsets[r + 1]); ++i)
        for (std::size_t head = 0; head < heads; ++head) {
          const std::size_t at = i * d + head * size;
          double weights = 0, weighted = 0;
          for (std::size_t k = first_key; k < end_key; ++k) {
            const std::size_t key = k * d + head * size;
            const double weight =
                std::exp(dot(query.subspan(at, size), keys.subspan(key, size)) / std::sqrt(static_cast<double>(size)));
            weights += weight;
            weighted += weight * dot(values.subspan(key, size), d_output.subspan(at, size));
          }
          total += weighted / weights;
        }
    }
    return total;
  }
};

GradientCase attention_case(bool first_query_only, std::int64_t heads, std::int64_t size, bool narrow) {
  return {std::string(first_query_only ? "attention_of_first_queries_" : "attention_") + std::to_string(size) +
              suffix(narrow),
          // Sums of terms that cancel: the rounding is of terms larger than the result.
          narrow, narrow ? 4e-2 : f32_rounding, [=](Stream& stream) {
            const Maker make{stream, narrow};
            HostAttention host{{0}, {0}, static_cast<std::size_t>(heads), static_cast<std::size_t>(size)};
            for (const std::int32_t length : {5, 1, 9, 3}) {
              host.key_offsets.push_back(host.key_offsets.back() + length);
              host.query_offsets.push_back(first_query_only ? host.query_offsets.back() + 1 : host.key_offsets.back());
            }
            const std::int64_t t = host.key_offsets.back(), rows = host.query_offsets.back(), d = heads * size;
            const Tensor query = make.in({rows, d}, 1), keys = make.in({t, d}, 2), values = make.in({t, d}, 3),
                         d_output = make.in({rows, d}, 4);
            const AttentionInputs in{.query = query,
                                     .keys = keys,
                                     .values = values,
                                     .query_offsets = make.indices(host.query_offsets),
                                     .key_offsets = make.indices(host.key_offsets),
                                     .heads = heads,
                                     .longest = 9};
            const Tensor output = make.out({rows, d}), log_sums = make.wide_out({rows, heads});
            const Tensor dq = make.out({rows, d}), dk = make.out({t, d}), dv = make.out({t, d});
            attention(stream, in, output, log_sums);
            attention_backward(stream, in, log_sums, d_output, dq, dk, dv);
            const Values q = doubles(stream, query), k = doubles(stream, keys), v = doubles(stream, values),
                         g = doubles(stream, d_output);
            return std::vector<ComputedGradient>{{"query", dq, q, [=](Argument at) { return host(at, k, v, g); }},
                                                 {"keys", dk, k, [=](Argument at) { return host(q, at, v, g); }},
                                                 {"values", dv, v, [=](Argument at) { return host(q, k, at, g); }}};
          }};
}

// y = x·Wᵀ + bias, and the way back.
GradientCase linear_case(bool narrow) {
  return {"packed_product" + suffix(narrow), narrow, tolerance_of(narrow), [=](Stream& stream) {
            const Maker make{stream, narrow};
            const std::int64_t t = 9, k = 32, n = 48;
            const Tensor weights = make.wide({n, k}, 1, narrow), x = make.in({t, k}, 2), dy = make.in({t, n}, 3);
            const auto [forward, backward] = PackedMatrix::both_ways(stream, weights, make.type());
            const Tensor dx = make.out({t, k});
            packed_product(stream, dy, backward, {}, false, dx);
            const auto scalar = [=, w = doubles(stream, weights), g = doubles(stream, dy)](Argument at) {
              return dot(product(at, w, t, k, n, true), g);
            };
            return std::vector<ComputedGradient>{{"x", dx, doubles(stream, x), scalar}};
          }};
}

// Σ dy∘(gelu(x·upᵀ + bias)·downᵀ) by what the gelu takes, through a displacement of it.
GradientCase gelu_product_case(bool narrow) {
  return {"product_through_gelu" + suffix(narrow), narrow, tolerance_of(narrow), [=](Stream& stream) {
            const Maker make{stream, narrow};
            const std::int64_t t = 9, d = 32, wide = 64;
            const Tensor up = make.wide({wide, d}, 1, narrow), down = make.wide({d, wide}, 2, narrow);
            scale(stream, 0.25, up);  // a power of two: nothing is rounded
            const PackedMatrix forward(stream, up, true, make.type()), backward(stream, down, false, make.type());
            const Tensor x = make.in({t, d}, 3), dy = make.in({t, d}, 4), bias = make.in({wide}, 5);
            const Tensor y = make.out({t, wide}), kept = make.out({t, wide}), dx = make.out({t, wide}),
                         before = make.type() == DType::f32 ? make.wide_out({t, wide}) : Tensor();
            packed_product_gelu(stream, x, forward, bias, before, y, kept);
            packed_product_gelu_backward(stream, dy, backward, kept, before, dx);
            Values sums = product(doubles(stream, x), doubles(stream, up), t, d, wide, true);
            const Values shift = doubles(stream, bias);
            for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += shift[i % shift.size()];
            const auto scalar = [=, w = doubles(stream, down), g = doubles(stream, dy)](Argument at) {
              Values inner(at.begin(), at.end());
              for (double& value : inner) value = gelu_of(value);
              return dot(product(inner, w, t, wide, d, true), g);
            };
            return std::vector<ComputedGradient>{{"the_gelus_input", dx, sums, scalar}};
          }};
}

// One row does not count.
GradientCase loss_case() {
  return {"cross_entropy", false, f32_rounding, [=](Stream& stream) {
            const Maker make{stream, false};
            const std::int64_t count = 7, classes = 5;
            const std::vector<std::int32_t> labels = {0, 4, 2, -1, 1, 3, 2};
            const Tensor logits = make.wide({count, classes}, 1), losses = make.out({count}),
                         d = make.out({count, classes});
            cross_entropy(stream, logits, make.indices(labels), losses, d);
            const auto scalar = [=](Argument at) {
              double total = 0;
              for (std::size_t i = 0; i < labels.size(); ++i) {
                if (labels[i] < 0) continue;
                const Argument row =
                    at.subspan(i * static_cast<std::size_t>(classes), static_cast<std::size_t>(classes));
                double sum = 0;
                for (const double value : row) sum += std::exp(value);
                total += std::log(sum) - row[static_cast<std::size_t>(labels[i])];
              }
              return total;
            };
            return std::vector<ComputedGradient>{{"logits", d, doubles(stream, logits), scalar}};
          }};
}

// Σ over the rows of record `record` of dy∘(alpha·u·bᵀ).
double adapter_scalar(double alpha, Argument dy, Argument u, Argument b, std::size_t first, std::size_t end,
                      std::size_t m, std::size_t rank) {
  double total = 0;
  for (std::size_t row = first; row < end; ++row)
    for (std::size_t j = 0; j < m; ++j)
      total += alpha * dy[row * m + j] * dot(u.subspan(row * rank, rank), b.subspan(j * rank, rank));
  return total;
}

// The per-sample gradients of an adapter's B and the gradient at its u, by the fused operation and by the general one.
GradientCase adapter_case(bool fused, bool narrow) {
  return {std::string(fused ? "adapter_gradients" : "segment_products") + suffix(narrow), narrow, tolerance_of(narrow),
          [=](Stream& stream) {
            const Maker make{stream, narrow};
            const std::int64_t m = 64, rank = 8;
            const float alpha = 0.5f;
            const std::vector<std::int32_t> offsets = {0, 5, 6, 15}, rows = {2, 0, 1};
            const std::int64_t t = offsets.back(), count = static_cast<std::int64_t>(rows.size());
            const Tensor dy = make.in({t, m}, 1), u = make.in({t, rank}, 2), b = make.in({m, rank}, 3);
            const Tensor out = make.wide_out({count, m * rank}), du = make.out({t, rank});
            if (fused) {
              adapter_gradients(stream, alpha, {{dy, u, b, out, du}}, make.indices(offsets), make.indices(rows));
            } else {
              segment_products(stream, alpha, dy, u, make.indices(offsets), make.indices(rows), out);
            }
            const Values g = doubles(stream, dy), hidden = doubles(stream, u), factor = doubles(stream, b);
            std::vector<ComputedGradient> computed;
            for (std::size_t i = 0; i < rows.size(); ++i) {
              const auto first = static_cast<std::size_t>(offsets[i]), end = static_cast<std::size_t>(offsets[i + 1]);
              computed.push_back({"b_of_record_" + std::to_string(i), out.rows(rows[i], 1), factor, [=](Argument at) {
                                    return adapter_scalar(alpha, g, hidden, at, first, end, m, rank);
                                  }});
            }
            if (fused)
              computed.push_back(
                  {"u", du, hidden, [=](Argument at) { return adapter_scalar(alpha, g, at, factor, 0, t, m, rank); }});
            return computed;
          }};
}

}  // namespace

std::vector<GradientCase> gradient_cases() {
  std::vector<GradientCase> cases = {tanh_case(), loss_case()};
  for (const bool narrow : {false, true}) {
    cases.push_back(gelu_case(narrow));
    for (const std::int64_t columns : {33, 64, 130}) cases.push_back(layer_norm_case(3, columns, narrow));
    for (const bool first_only : {false, true}) {
      cases.push_back(attention_case(first_only, 2, 32, narrow));
      cases.push_back(attention_case(first_only, 2, 20, narrow));
    }
    cases.push_back(linear_case(narrow));
    cases.push_back(gelu_product_case(narrow));
    cases.push_back(adapter_case(true, narrow));
    cases.push_back(adapter_case(false, narrow));
  }
  return cases;
}

}  // namespace trib::kernels
