#include "kernels/attention.h"

#include "tests/kernels/reference.h"

namespace trib::kernels {
namespace {

// One head in float64: probabilities (queries, keys) and output (queries, size).
struct Head {
  std::vector<double> probabilities, output, log_sums;
};
Head reference_head(const std::vector<double>& q, const std::vector<double>& k, const std::vector<double>& v,
                    std::size_t queries, std::size_t keys, std::size_t size) {
  Head head{std::vector<double>(queries * keys), std::vector<double>(queries * size), std::vector<double>(queries)};
  for (std::size_t i = 0; i < queries; ++i) {
    double total = 0;
    for (std::size_t j = 0; j < keys; ++j) {
      double score = 0;
      for (std::size_t d = 0; d < size; ++d) score += q[i * size + d] * k[j * size + d];
      total += head.probabilities[i * keys + j] = std::exp(score / std::sqrt(static_cast<double>(size)));
    }
    head.log_sums[i] = std::log(total);
    for (std::size_t j = 0; j < keys; ++j) {
      head.probabilities[i * keys + j] /= total;
      for (std::size_t d = 0; d < size; ++d)
        head.output[i * size + d] += head.probabilities[i * keys + j] * v[j * size + d];
    }
  }
  return head;
}

struct Case {
  std::int64_t queries, keys, size;
};
// Below, at and above the padding of keys and the block of queries; one query as in the last layer.
constexpr Case cases[] = {{1, 1, 16},   {3, 3, 16},  {13, 13, 64}, {16, 16, 64},
                          {17, 17, 20}, {1, 40, 64}, {70, 70, 64}, {130, 130, 12}};

class Attention : public EachInstructionSet {};

TEST_P(Attention, AgreesWithFloat64) {
  for (const Case& c : cases) {
    const auto q = random_floats(c.queries * c.size, 1), k = random_floats(c.keys * c.size, 2),
               v = random_floats(c.keys * c.size, 3);
    const Head expected = reference_head({q.begin(), q.end()}, {k.begin(), k.end()}, {v.begin(), v.end()},
                                         static_cast<std::size_t>(c.queries), static_cast<std::size_t>(c.keys),
                                         static_cast<std::size_t>(c.size));
    std::vector<float> output(q.size()), log_sums(static_cast<std::size_t>(c.queries));
    std::vector<float> scratch(static_cast<std::size_t>(simd().attention_scratch(c.keys, c.size)));
    const float scale = 1.0f / std::sqrt(static_cast<float>(c.size));
    cpu::AttentionArguments arguments{q.data(), k.data(), v.data(), c.size,          c.size, c.size,          c.queries,
                                      c.keys,   c.size,   scale,    {output.data()}, c.size, log_sums.data(), 1};
    simd().attention(arguments, scratch.data());
    EXPECT_LT(relative_error(output, expected.output), 3e-6) << c.queries << " queries, " << c.keys << " keys";
    EXPECT_LT(relative_error(log_sums, expected.log_sums), 3e-6);

    std::vector<std::uint16_t> narrow(q.size());
    arguments.output = {narrow.data(), true};
    simd().attention(arguments, scratch.data());
    for (std::size_t i = 0; i < narrow.size(); ++i) EXPECT_EQ(narrow[i], float_to_bfloat16(output[i]));
  }
}

TEST_P(Attention, BackwardAgreesWithTheFormulasInFloat64) {
  for (const Case& c : cases) {
    const auto queries = static_cast<std::size_t>(c.queries), keys = static_cast<std::size_t>(c.keys),
               size = static_cast<std::size_t>(c.size);
    const auto q = random_floats(c.queries * c.size, 1), k = random_floats(c.keys * c.size, 2),
               v = random_floats(c.keys * c.size, 3), g = random_floats(c.queries * c.size, 4);
    const Head head =
        reference_head({q.begin(), q.end()}, {k.begin(), k.end()}, {v.begin(), v.end()}, queries, keys, size);
    std::vector<double> dq(q.size()), dk(k.size()), dv(v.size());
    const double scale = 1 / std::sqrt(static_cast<double>(c.size));
    for (std::size_t i = 0; i < queries; ++i) {
      std::vector<double> dp(keys);
      double mean = 0;
      for (std::size_t j = 0; j < keys; ++j) {
        for (std::size_t d = 0; d < size; ++d) {
          dp[j] += static_cast<double>(g[i * size + d]) * v[j * size + d];
          dv[j * size + d] += head.probabilities[i * keys + j] * g[i * size + d];
        }
        mean += head.probabilities[i * keys + j] * dp[j];
      }
      for (std::size_t j = 0; j < keys; ++j) {
        const double ds = head.probabilities[i * keys + j] * (dp[j] - mean) * scale;
        for (std::size_t d = 0; d < size; ++d) {
          dq[i * size + d] += ds * k[j * size + d];
          dk[j * size + d] += ds * q[i * size + d];
        }
      }
    }
    const std::vector<float> log_sums(head.log_sums.begin(), head.log_sums.end());
    std::vector<float> got_q(q.size()), got_k(k.size()), got_v(v.size());
    std::vector<float> scratch(static_cast<std::size_t>(simd().attention_scratch(c.keys, c.size)));
    cpu::AttentionBackwardArguments arguments{q.data(),        k.data(),
                                              v.data(),        c.size,
                                              c.size,          c.size,
                                              c.queries,       c.keys,
                                              c.size,          static_cast<float>(scale),
                                              log_sums.data(), 1,
                                              g.data(),        c.size,
                                              got_q.data(),    got_k.data(),
                                              got_v.data(),    c.size,
                                              c.size,          c.size};
    simd().attention_backward(arguments, scratch.data());
    // With one key the probabilities are 1 and dq and dk exactly 0: what is left is rounding of terms of size 1.
    const double tolerance = c.keys == 1 ? 1e-5 : 5e-6;
    EXPECT_LT(relative_error(got_q, dq), tolerance) << c.queries << " queries, " << c.keys << " keys";
    EXPECT_LT(relative_error(got_k, dk), tolerance);
    EXPECT_LT(relative_error(got_v, dv), 5e-6);
    arguments.d_keys = nullptr;
    const std::vector<float> before = got_q;
    simd().attention_backward(arguments, scratch.data());
    EXPECT_EQ(got_q, before) << "leaving out the keys' gradient must not change the queries'";
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, Attention, testing::ValuesIn(cpu::simd_levels()), instruction_set_name);

TEST(Attention, KeepsRecordsAndHeadsApart) {
  auto stream = cpu_device().make_stream();
  const std::int64_t heads = 2, size = 8, tokens = 9, width = heads * size;
  const auto qkv = random_floats(tokens * 3 * width, 1);
  const Tensor fused = matrix(*stream, tokens, 3 * width, qkv), offsets = indices(*stream, {0, 4, 9});
  AttentionInputs inputs{{fused, 0, width}, {fused, width, width}, {fused, 2 * width, width}, offsets, offsets, heads};
  const Tensor output(cpu_device(), DType::f32, {tokens, width});
  attention(*stream, inputs, output, {});
  const auto actual = host(*stream, output);
  for (auto [first, last] : {std::pair<std::size_t, std::size_t>{0, 4}, {4, 9}})
    for (std::size_t head = 0; head < 2; ++head) {
      std::vector<double> part[3], expected;
      for (std::size_t which = 0; which < 3; ++which)
        for (std::size_t row = first; row < last; ++row)
          for (std::size_t d = 0; d < 8; ++d) part[which].push_back(qkv[row * 48 + which * 16 + head * 8 + d]);
      expected = reference_head(part[0], part[1], part[2], last - first, last - first, 8).output;
      for (std::size_t row = first; row < last; ++row)
        for (std::size_t d = 0; d < 8; ++d)
          EXPECT_NEAR(actual[row * 16 + head * 8 + d], expected[(row - first) * 8 + d], 1e-5);
    }
}

}  // namespace
}  // namespace trib::kernels
