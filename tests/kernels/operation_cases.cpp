#include "tests/kernels/operation_cases.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>

#include "common/random.h"
#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/convolution.h"
#include "kernels/embedding.h"
#include "kernels/fp8.h"
#include "kernels/gemm.h"
#include "kernels/grid.h"
#include "kernels/layer_norm.h"
#include "kernels/linalg.h"
#include "kernels/loss.h"
#include "kernels/per_sample.h"
#include "tests/kernels/case_maker.h"

namespace trib::kernels {
namespace {

// Tolerances: sums of float32 in another order; factors rounded to tf32 (half a step is 2⁻¹¹); results rounded to
// bfloat16 (half a step is 2⁻⁹ of a value, and two roundings may meet in one result).
constexpr double exact = 0, f32_rounding = 5e-6, tf32_rounding = 1e-3, bf16_rounding = 1.2e-2;
// Where float32's rounding decides between two codes of e4m3: their distance at the largest, 32 of 448, and the
// scale's.
constexpr double e4m3_step = 7.5e-2;

std::string suffix(bool narrow) {
  return narrow ? "_bf16" : "_f32";
}
double width(bool narrow) {
  return narrow ? 2 : 4;
}
std::string by(std::initializer_list<std::int64_t> sizes) {
  std::string text;
  for (std::int64_t size : sizes) text.append("_").append(std::to_string(size));
  return text;
}

OperationCase gelu_case(std::int64_t count, bool narrow) {
  return {"gelu_forward_and_backward" + by({count}) + suffix(narrow), narrow ? bf16_rounding : 1e-6, 60.0 * count,
          6 * width(narrow) * count, [=](Stream& stream) {
            const Maker make{stream, narrow};
            const Tensor x = make.in({count}, 1), dy = make.in({count}, 2);
            const Tensor y = make.out({count}), kept = make.out({count}), dx = make.out({count});
            return PreparedOperation{[=, &stream] {
                                       gelu(stream, x, y, kept);
                                       gelu_backward(stream, dy, kept, dx);
                                     },
                                     {y, dx}};
          }};
}

OperationCase elementwise_case(std::int64_t count) {
  return {
      "tanh_axpy_scale_norm_and_rounding" + by({count}), 1e-6, 20.0 * count, 40.0 * count, [=](Stream& stream) {
        const Maker make{stream, false};
        const Tensor x = make.wide({count}, 1), dy = make.wide({count}, 2), start = make.wide({count}, 3);
        const Tensor y = make.out({count}), dx = make.out({count}), sum = make.out({count});
        const Tensor narrow(stream.device(), DType::bf16, {count}), norms = make.out({1});
        const Tensor first = make.out({count}), second = make.out({count / 3}), total = make.out({1});
        const Tensor wide_total(stream.device(), DType::f64, {1});
        return PreparedOperation{
            [=, &stream] {
              tanh(stream, x, y);
              tanh_backward(stream, dy, y, dx);
              sum.copy_from(stream, start);
              axpy(stream, -0.5, x, sum);
              scale(stream, 3.0, sum);
              to_bf16(stream, x, narrow);
              first.copy_from(stream, start);
              second.copy_from(stream, start.rows(0, count / 3));
              // From an address that vector loads cannot take.
              add_scaled(stream, std::vector<ScaledAddition>{{0.25, x, first}, {-2.0, x.rows(1, count / 3), second}});
              wide_total.zero(stream);
              add_sum(stream, first, wide_total);
              add_sum(stream, second, wide_total);
              const float sum_on_host = static_cast<float>(wide_total.to_host(stream).as<double>()[0]);
              total.copy_from(stream, Tensor::from_host(stream, std::span<const float>(&sum_on_host, 1)));
              const float norm = static_cast<float>(squared_norm(stream, {x, sum}));
              norms.copy_from(stream, Tensor::from_host(stream, std::span<const float>(&norm, 1)));
            },
            {y, dx, sum, narrow, norms, first, second, total}};
      }};
}

OperationCase layer_norm_case(std::int64_t rows, std::int64_t columns, bool narrow) {
  const double elements = static_cast<double>(rows * columns);
  return {"layer_norm_forward_and_backward" + by({rows, columns}) + suffix(narrow),
          narrow ? bf16_rounding : f32_rounding, 20 * elements, elements * (4 + 5 * width(narrow) + 8),
          [=](Stream& stream) {
            const Maker make{stream, narrow};
            const Tensor x = make.in({rows, columns}, 1), residual = make.wide({rows, columns}, 2),
                         dy = make.wide({rows, columns}, 3);
            const LayerNormWeights weights{make.wide({columns}, 4), make.wide({columns}, 5), 1e-5f};
            const Tensor y = make.wide_out({rows, columns}), dx = make.wide_out({rows, columns});
            const LayerNormSaved saved{make.out({rows, columns}), make.wide_out({rows})};
            const Tensor y_narrow(stream.device(), DType::bf16, {rows, columns}),
                dx_narrow(stream.device(), DType::bf16, {rows, columns});
            return PreparedOperation{[=, &stream] {
                                       layer_norm(stream, x, residual, weights, y, y_narrow, saved);
                                       layer_norm_backward(stream, dy, weights, saved, dx, dx_narrow);
                                     },
                                     {y, dx, saved.normalized, saved.inverse_deviations}};
          }};
}

OperationCase attention_case(const std::string& what, const std::vector<std::int32_t>& lengths, bool first_query_only,
                             std::int64_t heads, std::int64_t size, bool narrow, bool with_keys = true) {
  std::vector<std::int32_t> offsets = {0}, query_offsets = {0};
  double scores = 0;
  for (std::int32_t length : lengths) {
    offsets.push_back(offsets.back() + length);
    query_offsets.push_back(first_query_only ? query_offsets.back() + 1 : offsets.back());
    scores += static_cast<double>(length) * (first_query_only ? 1 : length) * static_cast<double>(heads);
  }
  const std::int64_t t = offsets.back(), rows = query_offsets.back(), d = heads * size;
  return {"attention_" + what + by({heads, size}) + suffix(narrow),
          // The sums over a record's tokens cancel: rounding is of terms larger than the result.
          narrow ? 2.5e-2 : 2e-5,
          // Two products forward, five backward.
          14.0 * scores * static_cast<double>(size),
          width(narrow) * static_cast<double>(d) * (2.0 * (2 * rows + 2 * t) + rows + 2 * t), [=](Stream& stream) {
            const Maker make{stream, narrow};
            const Tensor projected = make.in({t, 3 * d}, 1), queries = make.in({rows, d}, 2),
                         d_output = make.in({rows, d}, 3);
            AttentionInputs in{.query = first_query_only ? MatrixView(queries) : MatrixView(projected, 0, d),
                               .keys = {projected, d, d},
                               .values = {projected, 2 * d, d},
                               .query_offsets = make.indices(query_offsets),
                               .key_offsets = make.indices(offsets),
                               .heads = heads,
                               .longest = *std::max_element(lengths.begin(), lengths.end())};
            const Tensor output = make.out({rows, d}), log_sums = make.wide_out({rows, heads});
            const Tensor dq = make.out({rows, d}), dk = make.out({t, d}), dv = make.out({t, d});
            return PreparedOperation{
                [=, &stream] {
                  attention(stream, in, output, log_sums);
                  attention_backward(stream, in, log_sums, d_output, dq, with_keys ? MatrixView(dk) : MatrixView(), dv);
                },
                with_keys ? std::vector{output, log_sums, dq, dk, dv} : std::vector{output, log_sums, dq, dv}};
          }};
}

OperationCase rows_case(std::int64_t rows, std::int64_t columns) {
  return {"embed_gather_and_scatter" + by({rows, columns}), 1e-6, 0, 40.0 * static_cast<double>(rows * columns),
          [=](Stream& stream) {
            const Maker make{stream, false};
            const Tensor words = make.wide({50, columns}, 1), places = make.wide({20, columns}, 2),
                         constant = make.wide({columns}, 3), x = make.wide({rows, columns}, 4);
            std::vector<std::int32_t> tokens, positions, order(static_cast<std::size_t>(rows));
            for (std::int64_t i = 0; i < rows; ++i) {
              tokens.push_back(static_cast<std::int32_t>(i * 7 % 50));
              positions.push_back(static_cast<std::int32_t>(i % 20));
            }
            std::iota(order.begin(), order.end(), 0);
            std::shuffle(order.begin(), order.end(), std::mt19937(5));
            const Tensor token = make.indices(tokens), position = make.indices(positions), row = make.indices(order);
            const Tensor embedded = make.out({rows, columns}), gathered = make.out({rows, columns}),
                         scattered = make.out({rows, columns}), added = make.out({rows, columns}),
                         filled = make.out({rows, columns}), turned = make.out({columns, rows});
            // Forms of many matrices, more than one launch takes.
            std::vector<MatrixForms> forms;
            std::vector<Tensor> outputs = {embedded, gathered, scattered, filled, added, turned};
            for (std::int64_t i = 0; i < 90; ++i) {
              forms.push_back({i % 2 == 0 ? x : constant.reshape({1, columns}),
                               i % 2 == 0 ? make.out({columns, rows}) : make.out({columns, 1}), Tensor()});
              if (i % 3 == 0) forms.back().copy = make.out(forms.back().from.shape());
              outputs.push_back(forms.back().transposed);
              if (i % 3 == 0) outputs.push_back(forms.back().copy);
            }
            return PreparedOperation{[=, &stream] {
                                       embed(stream, token, words, position, places, constant, embedded);
                                       gather_rows(stream, x, row, gathered);
                                       scatter_rows(stream, x, row, scattered);
                                       fill_rows(stream, constant, filled);
                                       fill_rows(stream, constant, added);
                                       scatter_add_rows(stream, x, row, added);
                                       transpose(stream, x, turned);
                                       make_forms(stream, forms);
                                     },
                                     outputs};
          }};
}

OperationCase packed_case(std::int64_t t, std::int64_t k, std::int64_t n, bool narrow,
                          Float32Products float32_products = Float32Products::exact) {
  const bool tf32 = float32_products == Float32Products::tf32;
  const double products = 2.0 * static_cast<double>(t) * static_cast<double>(k) * static_cast<double>(n);
  return {"packed_product_both_ways" + by({t, k, n}) + (tf32 ? "_tf32" : suffix(narrow)),
          tf32     ? tf32_rounding
          : narrow ? bf16_rounding
                   : f32_rounding,
          2 * products, width(narrow) * static_cast<double>(t * k + k * n + t * n) * 2, [=](Stream& stream) {
            const Maker make{stream, narrow};
            const Tensor weights = make.wide({n, k}, 1, narrow);
            // The CPU is the oracle in float32 on the same, rounded, numbers.
            const auto [forward, backward] =
                PackedMatrix::both_ways(stream, weights, make.type(), WeightFormat::dense, float32_products);
            const Tensor x = make.in({t, k}, 2), dy = make.in({t, n}, 3), bias = make.in({n}, 4),
                         start = make.wide({t, k}, 5);
            const Tensor y = make.out({t, n}), dx = make.wide_out({t, k});
            return PreparedOperation{[=, &stream] {
                                       packed_product(stream, x, forward, bias, false, y);
                                       dx.copy_from(stream, start);
                                       packed_product(stream, dy, backward, {}, true, dx);
                                     },
                                     {y, dx}};
          }};
}

OperationCase gelu_product_case(std::int64_t t, std::int64_t d, std::int64_t wide, bool narrow) {
  const double products = 2.0 * static_cast<double>(t) * static_cast<double>(d) * static_cast<double>(wide);
  return {"product_through_gelu_both_ways" + by({t, d, wide}) + suffix(narrow), narrow ? bf16_rounding : f32_rounding,
          2 * products, width(narrow) * static_cast<double>(2 * t * d + 4 * t * wide + 2 * d * wide),
          [=](Stream& stream) {
            const Maker make{stream, narrow};
            const Tensor up = make.wide({wide, d}, 1, narrow), down = make.wide({d, wide}, 2, narrow);
            scale(stream, 0.5 / std::sqrt(static_cast<double>(d)), up);  // a power of two: nothing is rounded
            const PackedMatrix forward(stream, up, true, make.type()), backward(stream, down, false, make.type());
            const Tensor x = make.in({t, d}, 3), dy = make.in({t, d}, 4), bias = make.in({wide}, 5);
            const Tensor y = make.out({t, wide}), kept = make.out({t, wide}), dx = make.out({t, wide}),
                         before = make.type() == DType::f32 ? make.wide_out({t, wide}) : Tensor();
            return PreparedOperation{[=, &stream] {
                                       packed_product_gelu(stream, x, forward, bias, before, y, kept);
                                       packed_product_gelu_backward(stream, dy, backward, kept, before, dx);
                                     },
                                     {y, dx}};
          }};
}

// A product with weights in few bits, into a narrow and into a float32 result.
OperationCase quantized_case(std::int64_t t, std::int64_t k, std::int64_t n, WeightFormat format) {
  const double products = 2.0 * static_cast<double>(t) * static_cast<double>(k) * static_cast<double>(n);
  const bool is_int8 = format == WeightFormat::int8;
  return {std::string(is_int8 ? "int8" : "int4") + "_product_both_ways" + by({t, k, n}), bf16_rounding, 2 * products,
          2 * (2.0 * static_cast<double>(t * k + t * n) + (is_int8 ? 1 : 0.5) * static_cast<double>(k * n)),
          [=](Stream& stream) {
            const Maker make{stream, true};
            const Tensor weights = make.wide({n, k}, 1);
            const auto [forward, backward] = PackedMatrix::both_ways(stream, weights, make.type(), format);
            const Tensor x = make.in({t, k}, 2), dy = make.in({t, n}, 3), bias = make.in({n}, 4),
                         start = make.in({t, k}, 5), wide_bias = make.wide({k}, 6);
            const Tensor y = make.out({t, n}), dx = make.out({t, k}), wide_dx = make.wide_out({t, k});
            const bool one_direction = t > 10'000;  // what is timed
            return PreparedOperation{[=, &stream] {
                                       packed_product(stream, x, forward, bias, false, y);
                                       if (!one_direction) dx.copy_from(stream, start);
                                       packed_product(stream, dy, backward, {}, !one_direction, dx);
                                       if (!one_direction)
                                         packed_product(stream, dy, backward, wide_bias, false, wide_dx);
                                     },
                                     one_direction ? std::vector{y, dx} : std::vector{y, dx, wide_dx}};
          }};
}

Fp8Rows fp8_rows(Stream& stream, const Tensor& x) {
  const Fp8Rows rows(stream.device(), x.dim(0), x.dim(1));
  quantize_rows(stream, x, rows);
  return rows;
}

OperationCase fp8_rows_case(std::int64_t rows, std::int64_t columns, bool narrow) {
  const double elements = static_cast<double>(rows * columns);
  return {"fp8_rows" + by({rows, columns}) + suffix(narrow), exact, 3 * elements, elements * (width(narrow) + 6),
          [=](Stream& stream) {
            const Maker make{stream, narrow};
            const Tensor x = make.in({rows, columns}, 1), y = make.wide_out({rows, columns});
            if (rows > 1) x.rows(1, 1).zero(stream);
            const Fp8Rows codes(stream.device(), rows, columns);
            return PreparedOperation{[=, &stream] {
                                       quantize_rows(stream, x, codes);
                                       dequantize_rows(stream, codes, y);
                                     },
                                     {y, codes.scales}};
          }};
}

// The layer norm and the gelu with results in FP8, seen as float32, or what they write beside them.
OperationCase fp8_layer_norm_case(std::int64_t rows, std::int64_t columns) {
  return {"fp8_layer_norm_forward_and_backward" + by({rows, columns}), e4m3_step, 0,
          18.0 * static_cast<double>(rows * columns), [=](Stream& stream) {
            const Maker make{stream, true};
            const Tensor x = make.in({rows, columns}, 1), residual = make.in({rows, columns}, 2),
                         dy = make.in({rows, columns}, 3);
            const LayerNormWeights weights{make.wide({columns}, 4), make.wide({columns}, 5), 1e-5f};
            const Tensor y = make.out({rows, columns}), dx = make.out({rows, columns});
            const LayerNormSaved saved{make.out({rows, columns}), make.wide_out({rows})};
            const Fp8Rows y_rows(stream.device(), rows, columns), dx_rows(stream.device(), rows, columns);
            const Tensor y_seen = make.wide_out({rows, columns}), dx_seen = make.wide_out({rows, columns});
            const bool timed = rows > 10'000;
            return PreparedOperation{[=, &stream] {
                                       layer_norm(stream, x, residual, weights, y, {}, saved, y_rows);
                                       layer_norm_backward(stream, dy, weights, saved, dx, {}, dx_rows);
                                       if (timed) return;
                                       dequantize_rows(stream, y_rows, y_seen);
                                       dequantize_rows(stream, dx_rows, dx_seen);
                                     },
                                     {y, dx, y_seen, dx_seen}};
          }};
}

OperationCase fp8_gelu_case(std::int64_t rows, std::int64_t columns, bool codes_only) {
  return {std::string(codes_only ? "fp8_gelu_codes" : "fp8_gelu") + by({rows, columns}),
          codes_only ? e4m3_step : bf16_rounding, 30.0 * static_cast<double>(rows * columns),
          (codes_only ? 8.0 : 16.0) * static_cast<double>(rows * columns), [=](Stream& stream) {
            const Maker make{stream, true};
            const Tensor x = make.in({rows, columns}, 1), dy = make.in({rows, columns}, 2);
            const bool in_place = codes_only && gelu_keeps_input(stream.device());
            const Tensor kept = in_place ? x : make.out({rows, columns});
            const Tensor y = codes_only ? Tensor() : make.out({rows, columns}),
                         dx = codes_only ? Tensor() : make.out({rows, columns});
            const Fp8Rows y_rows(stream.device(), rows, columns), dx_rows(stream.device(), rows, columns);
            const Tensor y_seen = make.wide_out({rows, columns}), dx_seen = make.wide_out({rows, columns});
            const bool timed = rows > 10'000;
            return PreparedOperation{[=, &stream] {
                                       gelu_fp8(stream, x, y, y_rows, kept);
                                       gelu_backward_fp8(stream, dy, kept, dx, dx_rows);
                                       if (timed) return;
                                       dequantize_rows(stream, y_rows, y_seen);
                                       dequantize_rows(stream, dx_rows, dx_seen);
                                     },
                                     codes_only ? std::vector{y_seen, dx_seen} : std::vector{y, dx}};
          }};
}

OperationCase fp8_product_case(std::int64_t t, std::int64_t k, std::int64_t n) {
  const double products = 2.0 * static_cast<double>(t) * static_cast<double>(k) * static_cast<double>(n);
  return {"fp8_product_both_ways" + by({t, k, n}), bf16_rounding, 2 * products,
          3.0 * static_cast<double>(t * k + t * n) + 2.0 * static_cast<double>(k * n), [=](Stream& stream) {
            const Maker make{stream, true};
            const auto [forward, backward] =
                PackedMatrix::both_ways(stream, make.wide({n, k}, 1), make.type(), WeightFormat::fp8);
            const Fp8Rows x = fp8_rows(stream, make.in({t, k}, 2)), dy = fp8_rows(stream, make.in({t, n}, 3));
            const Tensor bias = make.in({n}, 4), start = make.in({t, k}, 5), wide_start = make.wide({t, k}, 6);
            const Tensor y = make.out({t, n}), dx = make.out({t, k}), wide_dx = make.wide_out({t, k});
            const bool timed = t > 10'000;
            return PreparedOperation{[=, &stream] {
                                       fp8_product(stream, x, forward, bias, false, y);
                                       if (timed) return fp8_product(stream, dy, backward, {}, false, dx);
                                       dx.copy_from(stream, start);
                                       fp8_product(stream, dy, backward, {}, true, dx);
                                       wide_dx.copy_from(stream, wide_start);
                                       fp8_product(stream, dy, backward, {}, true, wide_dx);
                                     },
                                     timed ? std::vector{y, dx} : std::vector{y, dx, wide_dx}};
          }};
}

// The thin products of adapters, on views into wider matrices.
OperationCase thin_case(std::int64_t t, std::int64_t d, std::int64_t rank, bool narrow) {
  return {"thin_products" + by({t, d, rank}) + suffix(narrow), narrow ? bf16_rounding : f32_rounding,
          6.0 * static_cast<double>(t * d * rank), width(narrow) * static_cast<double>(4 * t * d), [=](Stream& stream) {
            const Maker make{stream, narrow};
            const Tensor x = make.in({t, 3 * d}, 1), a = make.in({d, 2 * rank}, 2), b = make.in({rank, d}, 3),
                         start = make.in({t, 3 * d}, 4);
            const Tensor u = make.out({t, 2 * rank}), y = make.out({t, 3 * d}), sum = make.wide_out({d, rank});
            return PreparedOperation{[=, &stream] {
                                       matmul(stream, 1.0f, {x, d, d}, a, false, u);
                                       y.copy_from(stream, start);
                                       matmul(stream, 0.5f, {u, rank, rank}, b, true, {y, 2 * d, d});
                                       matmul_transposed(stream, 2.0f, {x, d, d}, {u, rank, rank}, false, sum);
                                     },
                                     {u, y, sum}};
          }};
}

OperationCase segment_case(const std::string& what, const std::vector<std::int32_t>& lengths, std::int64_t m,
                           std::int64_t n, bool narrow) {
  std::vector<std::int32_t> offsets = {0}, rows;
  for (std::int32_t length : lengths) offsets.push_back(offsets.back() + length);
  const auto count = static_cast<std::int64_t>(lengths.size());
  for (std::int64_t i = 0; i < count; ++i) rows.push_back(static_cast<std::int32_t>(count - 1 - i));
  const std::int64_t t = offsets.back();
  return {"segment_products_" + what + by({m, n}) + suffix(narrow), f32_rounding, 2.0 * static_cast<double>(t * m * n),
          width(narrow) * static_cast<double>(t * (m + n)) + 4.0 * static_cast<double>(count * m * n),
          [=](Stream& stream) {
            const Maker make{stream, narrow};
            const Tensor a = make.in({t, m + 2}, 1), b = make.in({t, 2 * n}, 2), offset = make.indices(offsets),
                         row = make.indices(rows), out = make.wide_out({count, m * n});
            return PreparedOperation{[=, &stream] {
                                       segment_products(stream, 2.0f, {a, 2, m}, {b, n, n}, offset, row, out);
                                     },
                                     {out}};
          }};
}

// Two adapters on the first and last third of a fused layer.
OperationCase adapter_case(const std::string& what, const std::vector<std::int32_t>& lengths, std::int64_t m,
                           std::int64_t rank, bool narrow) {
  std::vector<std::int32_t> offsets = {0}, rows;
  for (std::int32_t length : lengths) offsets.push_back(offsets.back() + length);
  const auto count = static_cast<std::int64_t>(lengths.size());
  for (std::int64_t i = 0; i < count; ++i) rows.push_back(static_cast<std::int32_t>(count - 1 - i));
  const std::int64_t t = offsets.back();
  return {"adapter_gradients_" + what + by({m, rank}) + suffix(narrow), narrow ? bf16_rounding : f32_rounding,
          8.0 * static_cast<double>(t * m * rank),
          width(narrow) * static_cast<double>(2 * t * (m + 2 * rank)) + 8.0 * static_cast<double>(count * m * rank),
          [=](Stream& stream) {
            const Maker make{stream, narrow};
            const Tensor dy = make.in({t, 3 * m}, 1), u = make.in({t, 2 * rank}, 2), b0 = make.in({m, rank}, 3),
                         b1 = make.in({m, rank}, 4), offset = make.indices(offsets), row = make.indices(rows);
            const Tensor out0 = make.wide_out({count, m * rank}), out1 = make.wide_out({count, m * rank}),
                         du = make.out({t, 2 * rank});
            const std::vector<AdapterGradient> adapters = {
                {{dy, 0, m}, {u, 0, rank}, b0, out0, {du, 0, rank}},
                {{dy, 2 * m, m}, {u, rank, rank}, b1, out1, {du, rank, rank}}};
            return PreparedOperation{[=, &stream] { adapter_gradients(stream, 0.5f, adapters, offset, row); },
                                     {out0, out1, du}};
          }};
}

// What adapters add to a layer's output.
OperationCase low_rank_case(std::int64_t t, std::int64_t n, std::int64_t rank, bool narrow) {
  return {"low_rank_addition" + by({t, n, rank}) + suffix(narrow), narrow ? bf16_rounding : f32_rounding,
          2.0 * static_cast<double>(t * n * rank), width(narrow) * static_cast<double>(3 * t * n), [=](Stream& stream) {
            const Maker make{stream, narrow};
            const Tensor u = make.in({t, rank}, 1), b = make.in({rank, n}, 2), start = make.in({t, n}, 3),
                         y = make.out({t, n});
            return PreparedOperation{[=, &stream] {
                                       y.copy_from(stream, start);
                                       matmul(stream, 0.5f, u, b, true, y);
                                     },
                                     {y}};
          }};
}

OperationCase loss_case(std::int64_t count, std::int64_t classes) {
  return {"cross_entropy" + by({count, classes}), 1e-6, 0, 8.0 * static_cast<double>(count * classes),
          [=](Stream& stream) {
            const Maker make{stream, false};
            const Tensor logits = make.wide({count, classes}, 1);
            std::vector<std::int32_t> labels;
            for (std::int64_t i = 0; i < count; ++i) labels.push_back(static_cast<std::int32_t>(i * 5 % classes));
            labels.back() = -1;  // does not count
            const Tensor label = make.indices(labels), losses = make.out({count}), d = make.out({count, classes});
            return PreparedOperation{[=, &stream] { cross_entropy(stream, logits, label, losses, d); }, {losses, d}};
          }};
}

// Norms, factors and the clipped sum over `tensors` materialized gradients of `size` elements and one outer product;
// one sample's norm is not finite.
OperationCase clipping_case(std::int64_t samples, std::int64_t tensors, std::int64_t size) {
  return {"clipping" + by({samples, tensors, size}), f32_rounding, 4.0 * static_cast<double>(samples * tensors * size),
          8.0 * static_cast<double>(samples * tensors * size), [=](Stream& stream) {
            const Maker make{stream, false};
            PerSampleGradients gradients{.sample_count = samples, .tensors = {}};
            std::vector<Tensor> sums;
            for (std::int64_t t = 0; t < tensors; ++t) {
              PerSampleGradient& gradient = gradients.tensors.emplace_back();
              gradient.shape = {size};
              auto values = random_values(samples * size, static_cast<unsigned>(t), false);
              if (t == 0) values[static_cast<std::size_t>(size)] = INFINITY;
              gradient.values = Tensor::from_host(stream, std::span<const float>(values)).reshape({samples, size});
              sums.push_back(Tensor::zeros(stream, DType::f32, {size}));
            }
            PerSampleGradient& outer = gradients.tensors.emplace_back();
            outer.shape = {5, 33};
            outer.output_grads = make.wide({samples, 5}, 100);
            outer.inputs = make.wide({samples, 33}, 101);
            sums.push_back(Tensor::zeros(stream, DType::f32, {5, 33}));
            const Tensor norms = make.out({samples}), factors = make.out({samples}), smooth = make.out({samples});
            std::vector<Tensor> outputs = sums;
            outputs.push_back(factors);
            outputs.push_back(smooth);
            return PreparedOperation{[=, &stream] {
                                       for (const Tensor& sum : sums) sum.zero(stream);
                                       joint_squared_norms(stream, gradients, norms);
                                       clip_factors(stream, norms, 0.5, ClippingRule::flat, 0.0, factors);
                                       clip_factors(stream, norms, 0.5, ClippingRule::automatic, 0.01, smooth);
                                       add_weighted_sum(stream, gradients, factors, sums);
                                     },
                                     outputs};
          }};
}

OperationCase noise_case(std::int64_t count) {
  // The same function of the keystream on every device, bit for bit.
  return {"gaussian_noise" + by({count}), exact, 300.0 * static_cast<double>(count), 8.0 * static_cast<double>(count),
          [=](Stream& stream) {
            const Maker make{stream, false};
            const Tensor start = make.wide({count}, 1), y = make.out({count});
            const auto key = std::make_shared<RandomKey>(RandomKey::from_seed(3));
            return PreparedOperation{[=, &stream] {
                                       y.copy_from(stream, start);
                                       add_gaussian_noise(stream, 1.5, key->bytes(), 77, 0xffffffff0ULL, y);
                                     },
                                     {y}};
          }};
}

// The sum of rounded records over `tensors` materialized gradients of `size` elements and one outer product, and the
// way back to floats; one record, which is left out, has an infinity.
OperationCase rounded_sum_case(std::int64_t samples, std::int64_t tensors, std::int64_t size) {
  // Sums are read and written once.
  return {"rounded_sum" + by({samples, tensors, size}), exact, 4.0 * static_cast<double>(samples * tensors * size),
          4.0 * static_cast<double>(samples * tensors * size) + 28.0 * static_cast<double>(tensors * size),
          [=](Stream& stream) {
            const Maker make{stream, false};
            PerSampleGradients gradients{.sample_count = samples, .tensors = {}};
            // All sums lie in one tensor, each from a multiple of 16 elements on, as a private step has them.
            const std::int64_t stride = (size + 15) / 16 * 16, all = tensors * stride + 5 * 33;
            const Tensor grid = Tensor::zeros(stream, DType::i64, {all}), output = make.out({all});
            std::vector<Tensor> sums;
            for (std::int64_t t = 0; t < tensors; ++t) {
              PerSampleGradient& gradient = gradients.tensors.emplace_back();
              gradient.shape = {size};
              auto values = random_values(samples * size, static_cast<unsigned>(t), false);
              if (t == 0) values[static_cast<std::size_t>(size)] = INFINITY;
              gradient.values = Tensor::from_host(stream, std::span<const float>(values)).reshape({samples, size});
              sums.push_back(grid.rows(t * stride, size));
            }
            PerSampleGradient& outer = gradients.tensors.emplace_back();
            outer.shape = {5, 33};
            outer.output_grads = make.wide({samples, 5}, 100);
            outer.inputs = make.wide({samples, 33}, 101);
            sums.push_back(grid.rows(tensors * stride, 5 * 33).reshape({5, 33}));
            std::vector<float> factors(static_cast<std::size_t>(samples));
            for (std::size_t i = 0; i < factors.size(); ++i)
              factors[i] = i == 1 ? 0.0f : 1.0f / static_cast<float>(i + 1);
            const Tensor factor = Tensor::from_host(stream, std::span<const float>(factors));
            return PreparedOperation{[=, &stream] {
                                       grid.zero(stream);
                                       add_rounded_sum(stream, gradients, factor, 0x1p-14, sums);
                                       scale_grid(stream, 0x1p-14, grid, output);
                                     },
                                     {output}};
          }};
}

OperationCase discrete_noise_case(std::int64_t count) {
  return {"discrete_gaussian_noise" + by({count}), exact, 400.0 * static_cast<double>(count),
          28.0 * static_cast<double>(count), [=](Stream& stream) {
            const Tensor y = Tensor::zeros(stream, DType::i64, {count}), scaled(stream.device(), DType::f32, {count});
            const auto key = std::make_shared<RandomKey>(RandomKey::from_seed(3));
            return PreparedOperation{[=, &stream] {
                                       y.zero(stream);
                                       add_discrete_gaussian_noise(stream, 21, key->bytes(), 77, 0xffffffff0ULL, y);
                                       scale_grid(stream, 0x1p-21, y, scaled);
                                     },
                                     {scaled}};
          }};
}

OperationCase refactorize_case(std::int64_t adapters, std::int64_t m, std::int64_t n, std::int64_t rank) {
  return {"refactorize" + by({adapters, m, n, rank}), 1e-5, 0, 16.0 * static_cast<double>(adapters * (m + n) * rank),
          [=](Stream& stream) {
            const Maker make{stream, false};
            // All factors lie side by side, so that two copies bring their start back.
            const Tensor b = make.wide_out({adapters * m, rank}), a = make.wide_out({adapters * rank, n}),
                         start_b = make.wide({adapters * m, rank}, 1), start_a = make.wide_out({adapters * rank, n});
            std::vector<Refactorization> all;
            for (std::int64_t i = 0; i < adapters; ++i) {
              random_orthonormal_rows(stream, RandomKey::from_seed(2).bytes(), static_cast<std::uint64_t>(i),
                                      start_a.rows(i * rank, rank));
              all.push_back({.b = b.rows(i * m, m),
                             .a = a.rows(i * rank, rank),
                             .rotation = Tensor::zeros(stream, DType::f64, {rank, rank})});
            }
            return PreparedOperation{[=, &stream] {
                                       b.copy_from(stream, start_b);
                                       a.copy_from(stream, start_a);
                                       refactorize(stream, all);
                                     },
                                     {a, b}};
          }};
}

// A convolution, its accumulating form, and both pools behind it.
OperationCase convolution_case(const Windows& w, std::int64_t outputs,
                               Float32Products products = Float32Products::exact) {
  const double operations = 2.0 * w.output_rows() * w.window_size() * outputs;
  return {"convolution_and_pools" +
              by({w.images, w.height, w.width, w.channels, w.window, w.stride, w.padding, outputs}) +
              (products == Float32Products::tf32 ? "_tf32" : "_f32"),
          products == Float32Products::tf32 ? tf32_rounding : f32_rounding, 2 * operations,
          4.0 * (w.input_rows() * w.channels + 3 * w.output_rows() * outputs), [=](Stream& stream) {
            const Maker make{stream, false};
            const Tensor x = make.wide({w.input_rows(), w.channels}, 1), bias = make.wide({outputs}, 3),
                         start = make.wide({w.output_rows(), outputs}, 4);
            const PackedMatrix weights(stream, make.wide({w.window_size(), outputs}, 2), false, DType::f32, products);
            const std::int64_t window = std::min<std::int64_t>({3, w.output_height(), w.output_width()});
            const Windows pool{.images = w.images,
                               .height = w.output_height(),
                               .width = w.output_width(),
                               .channels = outputs,
                               .window = window,
                               .stride = std::min<std::int64_t>(2, window)};
            const std::int64_t pooled_rows =
                w.images * pooled_size(pool.height, window, pool.stride) * pooled_size(pool.width, window, pool.stride);
            const Tensor y = make.wide_out({w.output_rows(), outputs}), sum = make.wide_out({w.output_rows(), outputs}),
                         largest = make.wide_out({pooled_rows, outputs}), mean = make.wide_out({w.images, outputs});
            const auto workspace = std::make_shared<Workspace>(stream.device());
            return PreparedOperation{[=, &stream] {
                                       convolution(stream, *workspace, x, w, weights, bias, false, false, y);
                                       sum.copy_from(stream, start);
                                       convolution(stream, *workspace, x, w, weights, {}, true, true, sum);
                                       max_pool(stream, y, pool, largest);
                                       mean_pool(stream, y, w.images, mean);
                                     },
                                     {y, sum, largest, mean}};
          }};
}

}  // namespace

std::vector<OperationCase> test_cases() {
  std::vector<OperationCase> cases;
  const std::vector<std::int32_t> lengths = {1, 5, 128, 33, 64, 17, 2, 100}, one = {1}, long_ones = {200, 7, 130, 300};
  auto adapters = [&](bool narrow) {
    for (auto [m, rank] : {std::pair{64, 8}, {256, 8}, {64, 4}, {1024, 8}}) {
      cases.push_back(adapter_case("of_many_lengths", lengths, m, rank, narrow));
      cases.push_back(adapter_case("of_long_records", long_ones, m, rank, narrow));
    }
  };
  for (bool narrow : {false, true}) {
    cases.push_back(gelu_case(1003, narrow));
    for (auto [rows, columns] : {std::pair{37, 64}, {5, 100}, {3, 130}, {9, 768}, {6, 1024}, {2, 2000}, {3, 7}})
      cases.push_back(layer_norm_case(rows, columns, narrow));
    for (auto [heads, size] : {std::pair{4, 16}, {2, 20}, {3, 32}, {2, 64}}) {
      cases.push_back(attention_case("of_many_lengths", lengths, false, heads, size, narrow));
      cases.push_back(attention_case("of_first_queries", lengths, true, heads, size, narrow));
      cases.push_back(attention_case("of_long_records", long_ones, false, heads, size, narrow));
    }
    cases.push_back(attention_case("without_keys_gradient", lengths, false, 2, 64, narrow, false));
    cases.push_back(attention_case("of_one_token", one, false, 2, 64, narrow));
    for (auto [t, k, n] : {std::array{1, 64, 192}, {63, 64, 64}, {200, 256, 1024}, {129, 1024, 256}})
      cases.push_back(packed_case(t, k, n, narrow));
    cases.push_back(gelu_product_case(65, 64, 128, narrow));
    cases.push_back(gelu_product_case(300, 256, 1024, narrow));
    cases.push_back(thin_case(130, 64, 4, narrow));
    for (auto [t, d, rank] : {std::array{77, 256, 8}, {1, 128, 8}, {200, 768, 4}, {33, 1024, 8}})
      cases.push_back(thin_case(t, d, rank, narrow));
    adapters(narrow);
    for (auto [t, n, rank] : {std::array{33, 64, 4}, {130, 256, 8}, {64, 1024, 16}, {7, 36, 8}, {9, 30, 8}})
      cases.push_back(low_rank_case(t, n, rank, narrow));
    for (auto [m, n] : {std::pair{64, 4}, {256, 8}, {8, 256}, {20, 20}, {33, 3}, {1024, 16}})
      cases.push_back(segment_case("of_many_lengths", lengths, m, n, narrow));
  }
  cases.push_back(packed_case(10, 33, 7, false));
  cases.push_back(packed_case(200, 256, 1024, false, Float32Products::tf32));
  cases.push_back(packed_case(10, 33, 7, false, Float32Products::tf32));
  for (const WeightFormat format : {WeightFormat::int8, WeightFormat::int4})
    for (auto [t, k, n] : {std::array{1, 64, 192},
                           {63, 64, 64},
                           {200, 256, 1024},
                           {129, 1024, 256},
                           {130, 72, 200},
                           {10, 33, 7},
                           {300, 40, 132},
                           {2, 1, 1}})
      cases.push_back(quantized_case(t, k, n, format));
  for (bool narrow : {false, true})
    for (auto [rows, columns] :
         {std::pair{37, 64}, {5, 250}, {130, 768}, {9, 1024}, {3, 3072}, {7, 4096}, {2, 10240}, {4, 1001}})
      cases.push_back(fp8_rows_case(rows, columns, narrow));
  for (auto [rows, columns] : {std::pair{37, 64}, {9, 768}, {6, 1024}, {2, 2000}})
    cases.push_back(fp8_layer_norm_case(rows, columns));
  for (auto [rows, columns] : {std::pair{37, 128}, {9, 3072}, {6, 4096}, {3, 1000}}) {
    cases.push_back(fp8_gelu_case(rows, columns, true));
    cases.push_back(fp8_gelu_case(rows, columns, false));
  }
  for (auto [t, k, n] :
       {std::array{1, 64, 192}, {63, 64, 64}, {200, 256, 1024}, {129, 1024, 256}, {131, 4096, 1024}, {18, 80, 48}})
    cases.push_back(fp8_product_case(t, k, n));
  cases.push_back(elementwise_case(1003));
  cases.push_back(elementwise_case(100'000));
  for (const Windows& w : {Windows{2, 9, 7, 3, 3, 1, 1}, Windows{1, 23, 19, 3, 7, 2, 0}, Windows{3, 8, 8, 16, 1, 1, 0},
                           Windows{1, 1, 1, 5, 1, 1, 0}, Windows{2, 32, 32, 3, 8, 8, 0}, Windows{1, 5, 4, 33, 3, 2, 2}})
    for (const std::int64_t outputs : {1, 16, 37}) cases.push_back(convolution_case(w, outputs));
  cases.push_back(convolution_case({2, 13, 13, 64, 3, 1, 1}, 256));
  cases.push_back(convolution_case({2, 13, 13, 64, 3, 1, 1}, 256, Float32Products::tf32));
  cases.push_back(rows_case(37, 64));
  cases.push_back(rows_case(12, 33));
  cases.push_back(loss_case(37, 2));
  cases.push_back(loss_case(9, 150));
  cases.push_back(clipping_case(37, 5, 264));
  cases.push_back(clipping_case(9, 70, 33));
  cases.push_back(clipping_case(200, 3, 8192));
  cases.push_back(noise_case(1000));
  cases.push_back(noise_case(100'003));
  cases.push_back(rounded_sum_case(37, 5, 264));
  cases.push_back(rounded_sum_case(2, 70, 33));
  cases.push_back(rounded_sum_case(300, 3, 8192));
  cases.push_back(discrete_noise_case(1000));
  cases.push_back(discrete_noise_case(100'003));
  cases.push_back(refactorize_case(3, 40, 56, 8));
  cases.push_back(refactorize_case(2, 64, 64, 1));
  cases.push_back(refactorize_case(2, 100, 30, 5));
  cases.push_back(refactorize_case(2, 300, 256, 16));
  return cases;
}

std::vector<OperationCase> bench_cases() {
  constexpr std::int64_t records = 128, length = 128, t = records * length, d = 1024, wide = 4096, rank = 8;
  const std::vector<std::int32_t> lengths(records, length);
  return {packed_case(t, d, 3 * d, true),
          packed_case(t, d, d, true),
          gelu_product_case(t, d, wide, true),
          packed_case(t, wide, d, true),
          packed_case(t, wide, d, false),
          packed_case(t, wide, d, false, Float32Products::tf32),
          fp8_product_case(t, d, 3 * d),
          fp8_product_case(t, d, d),
          fp8_product_case(t, d, wide),
          fp8_product_case(t, wide, d),
          fp8_rows_case(t, 3 * d, true),
          fp8_layer_norm_case(t, d),
          fp8_gelu_case(t, wide, true),
          quantized_case(t, d, 3 * d, WeightFormat::int8),
          quantized_case(t, d, wide, WeightFormat::int8),
          quantized_case(t, wide, d, WeightFormat::int8),
          quantized_case(t, d, 3 * d, WeightFormat::int4),
          quantized_case(t, d, wide, WeightFormat::int4),
          quantized_case(t, wide, d, WeightFormat::int4),
          convolution_case({128, 55, 55, 16, 3, 1, 1}, 64),
          convolution_case({128, 55, 55, 16, 3, 1, 1}, 64, Float32Products::tf32),
          gelu_case(t * wide, true),
          layer_norm_case(t, d, true),
          attention_case("of_128", lengths, false, 16, 64, true),
          attention_case("of_512", std::vector<std::int32_t>(32, 512), false, 16, 64, true),
          thin_case(t, d, rank, true),
          segment_case("of_128", lengths, d, rank, true),
          adapter_case("of_128", lengths, d, rank, true),
          low_rank_case(t, d, rank, true),
          low_rank_case(t, d, 2 * rank, true),
          clipping_case(256, 48, d * rank),
          noise_case(48 * d * rank),
          rounded_sum_case(512, 1, 48 * d * rank),
          rounded_sum_case(512, 48, d * rank),
          discrete_noise_case(48 * d * rank),
          refactorize_case(48, d, d, rank)};
}

}  // namespace trib::kernels
