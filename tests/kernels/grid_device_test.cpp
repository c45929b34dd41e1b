// Every operation on the grid on every device, bit for bit against its definition written out on the host.
#include <array>
#include <limits>
#include <tuple>

#include "common/random.h"
#include "kernels/cpu/discrete_gaussian.h"
#include "kernels/detail/discrete_gaussian_margin.h"
#include "kernels/grid.h"
#include "tests/kernels/reference.h"

namespace trib::kernels {
namespace {

class GridOn : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const Result<Device*> device = open_device(GetParam());
    if (!device) GTEST_SKIP() << device.error().message;
    stream = (*device)->make_stream();
  }
  std::vector<std::int64_t> integers(const Tensor& tensor) {
    const HostTensor on_host = tensor.to_host(*stream);
    const auto values = on_host.as<std::int64_t>();
    return {values.begin(), values.end()};
  }
  Tensor of(const std::vector<std::int64_t>& values) {
    return Tensor::from_host(*stream, std::span<const std::int64_t>(values));
  }
  // Noise on `count` coordinates that are not zero before, against the definition, one coordinate at a time.
  void expect_defined_noise(std::int64_t count, int log2_stddev, std::uint64_t first, double margin) {
    const RandomKey key = RandomKey::from_seed(3);
    std::vector<std::int64_t> values(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::int64_t>(i) - 50;
    const Tensor y = of(values);
    EXPECT_EQ(detail::add_discrete_gaussian_noise(*stream, log2_stddev, key.bytes(), 7, first, y, margin),
              first + values.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] += cpu::discrete_gaussian(log2_stddev, key.bytes(), 7, first, i);
    }
    const std::vector<std::int64_t> actual = integers(y);
    for (std::size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(actual[i], values[i]) << "coordinate " << i << " at block " << first << " of 2^" << log2_stddev;
    }
  }

  std::unique_ptr<Stream> stream;
};

INSTANTIATE_TEST_SUITE_P(On, GridOn, testing::Values("cpu", "cuda"), [](const auto& info) { return info.param; });

TEST_P(GridOn, NoiseIsTheDocumentedFunctionOfTheKeystream) {
  for (const int log2_stddev : {5, 9, 21, 36}) {
    // Blocks on both sides of a carry into the counter's high word.
    for (const std::int64_t count : {1, 3, 4, 511, 40'003}) {
      expect_defined_noise(count, log2_stddev, 0xffffff000ULL, detail::discrete_gaussian_margin);
    }
  }
}

TEST_P(GridOn, NoiseIsTheSameWhereEveryAttemptIsDecidedByExactArithmetic) {
  for (const int log2_stddev : {5, 9, 21, 36}) expect_defined_noise(5003, log2_stddev, 0xffffff000ULL, 2.0);
}

// Two attempts that any 53 bits but the first would decide otherwise, once in 2^28, and one in the tail, once in 2^32:
// found by searching the keystream.
TEST_P(GridOn, NoiseComparesTheFirstBitsAndKnowsTheTail) {
  constexpr std::uint64_t rejected = 23'658'161, accepted = 49'869'229, tail = 746'950'744;
  for (const std::uint64_t block : {rejected, accepted, tail}) {
    expect_defined_noise(8, 21, block, detail::discrete_gaussian_margin);
  }
  // They are what was sought.
  std::array<std::uint32_t, 16> words;
  const auto bound_of = [&](const std::uint32_t* w) {
    const auto& table = cpu::discrete_gaussian_table();
    const std::uint32_t slot = w[0] >> 24, cell = (w[0] & 0xffffff) < table.threshold[slot] ? slot : table.alias[slot];
    const double start = cell / 32.0, u = std::ldexp(w[1] & 0xffff, -21);
    return table.acceptance[cell] * std::exp(-u * (start + 0.5 * u));
  };
  for (const auto& [block, word, is_below] : {std::tuple{rejected, 0, false}, {accepted, 8, true}}) {
    chacha20_block(RandomKey::from_seed(3).bytes(), block, 7, words);
    const std::uint32_t* w = words.data() + word;
    EXPECT_EQ(std::ldexp(w[2], -32) + std::ldexp(w[3], -64) < bound_of(w), is_below);
    EXPECT_EQ(std::ldexp(w[2] >> 6, -26) + std::ldexp(w[3] >> 5, -53) < bound_of(w), !is_below);
  }
  chacha20_block(RandomKey::from_seed(3).bytes(), tail, 7, words);
  EXPECT_EQ(words[8], 254u << 24);
}

TEST_P(GridOn, NoiseRepeatsFromTheSameCounters) {
  const RandomKey key = RandomKey::from_seed(3);
  const auto draw = [&](std::uint64_t counter) {
    const Tensor y = Tensor::zeros(*stream, DType::i64, {10'000});
    add_discrete_gaussian_noise(*stream, 21, key.bytes(), 7, counter, y);
    return integers(y);
  };
  const std::vector<std::int64_t> first = draw(5);
  EXPECT_EQ(draw(5), first);
  EXPECT_NE(draw(6), first);
}

// Few coordinates of many records, where a GPU shares the records out, and many coordinates; rows of whole vectors, and
// others.
TEST_P(GridOn, SumsAreOfRecordsThatWereRoundedEachByItself) {
  struct Sizes {
    std::int64_t count, size, p, q;
  };
  for (const auto& [count, size, p, q] :
       {Sizes{1, 1, 1, 1}, {33, 5, 2, 3}, {700, 1500, 3, 37}, {1025, 64, 8, 64}, {40, 300'000, 7, 1024}}) {
    SCOPED_TRACE(std::to_string(count) + " records of " + std::to_string(size));
    constexpr double spacing = 1.0 / 1000;
    auto values = random_floats(count * size, 1), g = random_floats(count * p, 2), x = random_floats(count * q, 3);
    std::vector<float> factors = random_floats(count, 4);
    if (count > 1) {
      const std::int64_t left_out = count / 2;
      factors[static_cast<std::size_t>(left_out)] = 0.0f;
      values[static_cast<std::size_t>(left_out * size)] = std::numeric_limits<float>::infinity();
      g[static_cast<std::size_t>(left_out * p)] = std::numeric_limits<float>::quiet_NaN();
      x[static_cast<std::size_t>(left_out * q)] = -std::numeric_limits<float>::infinity();
    }
    PerSampleGradients gradients{.sample_count = count, .tensors = {}};
    PerSampleGradient& plain = gradients.tensors.emplace_back();
    plain.shape = {size};
    plain.values = matrix(*stream, count, size, values);
    PerSampleGradient& outer = gradients.tensors.emplace_back();
    outer.shape = {p, q};
    outer.output_grads = matrix(*stream, count, p, g);
    outer.inputs = matrix(*stream, count, q, x);

    const std::int64_t start = -(std::int64_t{1} << 50);
    std::vector<std::int64_t> expected(static_cast<std::size_t>(size), start);
    std::vector<std::int64_t> expected_outer(static_cast<std::size_t>(p * q), start);
    const std::vector<Tensor> sums = {of(expected), of(expected_outer).reshape({p, q})};
    for (std::int64_t i = 0; i < count; ++i) {
      const auto row = static_cast<std::size_t>(i);
      const float factor = static_cast<float>(static_cast<double>(factors[row]) / spacing);
      if (factor == 0) continue;
      for (std::size_t j = 0; j < expected.size(); ++j) {
        expected[j] += std::llrint(factor * values[row * expected.size() + j]);
      }
      for (std::size_t e = 0; e < expected_outer.size(); ++e) {
        const std::size_t columns = static_cast<std::size_t>(q), rows = static_cast<std::size_t>(p);
        const float row_factor = factor * g[row * rows + e / columns];
        expected_outer[e] += std::llrint(row_factor * x[row * columns + e % columns]);
      }
    }
    add_rounded_sum(*stream, gradients, Tensor::from_host(*stream, std::span<const float>(factors)), spacing, sums);
    EXPECT_EQ(integers(sums[0]), expected);
    EXPECT_EQ(integers(sums[1]), expected_outer);
  }
}

TEST_P(GridOn, SumsRoundTiesToEvenAndHoldTheLargestCoordinates) {
  constexpr std::int64_t count = 1000, size = 8;
  const std::vector<float> row = {0x1p22f, -0x1p22f, 0.5f, 1.5f, -0.5f, -2.5f, 0.49999997f, 4194303.5f};
  std::vector<float> values;
  for (std::int64_t i = 0; i < count; ++i) values.insert(values.end(), row.begin(), row.end());
  PerSampleGradients gradients{.sample_count = count, .tensors = {}};
  gradients.tensors.emplace_back().shape = {size};
  gradients.tensors[0].values = matrix(*stream, count, size, values);
  const std::vector<Tensor> sums = {Tensor::zeros(*stream, DType::i64, {size})};
  const std::vector<float> ones(count, 1.0f);
  add_rounded_sum(*stream, gradients, Tensor::from_host(*stream, std::span<const float>(ones)), 1.0, sums);
  EXPECT_EQ(integers(sums[0]),
            (std::vector<std::int64_t>{count << 22, -(count << 22), 0, 2 * count, 0, -2 * count, 0, count << 22}));
}

TEST_P(GridOn, ScalesToFloatsOfBothKinds) {
  std::vector<std::int64_t> values = {3, -(std::int64_t{1} << 62), 0, (std::int64_t{1} << 53) + 1};
  for (std::int64_t i = 0; i < 1000; ++i) values.push_back(i * i * i * i * 12'345 - 7);
  constexpr double a = 1.0 / 3000;
  const Tensor grid = of(values);
  for (const DType dtype : {DType::f32, DType::f64}) {
    const Tensor y(stream->device(), dtype, {grid.element_count()});
    scale_grid(*stream, a, grid, y);
    const HostTensor actual = y.to_host(*stream);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double expected = a * static_cast<double>(values[i]);
      if (dtype == DType::f64) {
        ASSERT_EQ(actual.as<double>()[i], expected) << values[i];
      } else {
        ASSERT_EQ(actual.as<float>()[i], static_cast<float>(expected)) << values[i];
      }
    }
  }
}

TEST_P(GridOn, CountsWhatIsBelowALimitOnTopOfWhatWasCounted) {
  const Tensor count = of({1000});
  std::int64_t expected = 1000;
  for (const std::int64_t size : {1, 128, 1003}) {
    std::vector<float> values = random_floats(size, 1);
    values[0] = 1.0f;  // not below itself
    if (size > 1) values[1] = std::numeric_limits<float>::quiet_NaN();
    expected += std::ranges::count_if(values, [](float value) { return value < 1.0f; });
    add_count_below(*stream, Tensor::from_host(*stream, std::span<const float>(values)), 1.0f, count);
    EXPECT_EQ(integers(count), std::vector{expected}) << size;
  }
}

}  // namespace
}  // namespace trib::kernels
