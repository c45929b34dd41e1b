#include "common/random.h"

#include <gtest/gtest.h>
#include <openssl/evp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

namespace trib {
namespace {

using Block = std::array<std::uint32_t, 16>;

Block block(std::span<const std::uint8_t, 32> key, std::uint64_t counter, std::uint64_t stream) {
  Block out;
  chacha20_block(key, counter, stream, out);
  return out;
}

// OpenSSL's ChaCha20 keystream, from block `counter` of `stream`; its 16-byte IV is words 12 to 15.
std::vector<std::uint8_t> openssl_keystream(std::span<const std::uint8_t, 32> key, std::uint64_t counter,
                                            std::uint64_t stream, std::size_t length) {
  std::array<std::uint8_t, 16> iv;
  std::memcpy(iv.data(), &counter, 8);
  std::memcpy(iv.data() + 8, &stream, 8);
  std::vector<std::uint8_t> zeros(length), out(length);
  EVP_CIPHER_CTX* context = EVP_CIPHER_CTX_new();
  int written = 0;
  EXPECT_EQ(EVP_EncryptInit_ex(context, EVP_chacha20(), nullptr, key.data(), iv.data()), 1);
  EXPECT_EQ(EVP_EncryptUpdate(context, out.data(), &written, zeros.data(), static_cast<int>(length)), 1);
  EXPECT_EQ(static_cast<std::size_t>(written), length);
  EVP_CIPHER_CTX_free(context);
  return out;
}

// Hands out given numbers, and fails the test when they run out.
class ScriptedSource final : public RandomSource {
 public:
  explicit ScriptedSource(std::vector<std::uint64_t> numbers) : numbers_(std::move(numbers)) {}
  void fill(std::span<std::uint8_t> bytes) override {
    ASSERT_EQ(bytes.size(), sizeof(std::uint64_t));
    ASSERT_LT(used_, numbers_.size());
    std::memcpy(bytes.data(), &numbers_[used_++], bytes.size());
  }
  std::size_t used() const { return used_; }

 private:
  std::vector<std::uint64_t> numbers_;
  std::size_t used_ = 0;
};

constexpr std::uint64_t largest = std::numeric_limits<std::uint64_t>::max();

TEST(ChaCha20, MatchesTheBlockOfRfc8439Section232) {
  std::array<std::uint8_t, 32> key;
  std::iota(key.begin(), key.end(), std::uint8_t{0});
  // The RFC's 32-bit counter 1 and nonce 00000009 0000004a 00000000 (bytes) are our words 12 to 15.
  const Block expected{0xe4e7f110, 0x15593bd1, 0x1fdd0f50, 0xc47120a3, 0xc7f4d1c7, 0x0368c033, 0x9aaa2204, 0x4e6cd4c3,
                       0x466482d2, 0x09aa9f07, 0x05d7c214, 0xa2028bd9, 0xd19c12b5, 0xb94e16de, 0xe883d0cb, 0x4e3c50a2};
  EXPECT_EQ(block(key, 0x09000000'00000001, 0x00000000'4a000000), expected);
}

TEST(ChaCha20, MatchesTheZeroKeyBlocksOfRfc8439AppendixA1) {
  const std::array<std::uint8_t, 32> key{};
  const Block first{0xade0b876, 0x903df1a0, 0xe56a5d40, 0x28bd8653, 0xb819d2bd, 0x1aed8da0, 0xccef36a8, 0xc70d778b,
                    0x7c5941da, 0x8d485751, 0x3fe02477, 0x374ad8b8, 0xf4b8436a, 0x1ca11815, 0x69b687c3, 0x8665eeb2};
  const Block second{0xbee7079f, 0x7a385155, 0x7c97ba98, 0x0d082d73, 0xa0290fcb, 0x6965e348, 0x3e53c612, 0xed7aee32,
                     0x7621b729, 0x434ee69c, 0xb03371d5, 0xd539d874, 0x281fed31, 0x45fb0a51, 0x1f0ae1ac, 0x6f4d794b};
  EXPECT_EQ(block(key, 0, 0), first);
  EXPECT_EQ(block(key, 1, 0), second);
}

TEST(ChaCha20, PlacesCounterAndStreamAsOpenSslDoes) {
  const RandomKey key = RandomKey::from_seed(1);
  for (const std::uint64_t counter : {0ull, 7ull, 0xffffffffull, 0x1'00000000ull, 0xfedcba98'76543210ull}) {
    for (const std::uint64_t stream : {0ull, 1ull, 0x01234567'89abcdefull}) {
      const Block ours = block(key.bytes(), counter, stream);
      const auto expected = openssl_keystream(key.bytes(), counter, stream, sizeof ours);
      EXPECT_EQ(std::memcmp(ours.data(), expected.data(), sizeof ours), 0) << counter << " " << stream;
    }
  }
}

TEST(ChaCha20Random, IsTheKeystreamOfStreamZeroHoweverItIsCut) {
  const RandomKey key = RandomKey::from_seed(2);
  ChaCha20Random source(key);
  std::vector<std::uint8_t> drawn(300'000);
  std::span<std::uint8_t> rest(drawn);
  for (std::size_t length = 0; !rest.empty(); length = (length * 5 + 3) % 4099) {
    source.fill(rest.first(std::min(length, rest.size())));
    rest = rest.subspan(std::min(length, rest.size()));
  }
  EXPECT_EQ(drawn, openssl_keystream(key.bytes(), 0, 0, drawn.size()));
}

TEST(ChaCha20Random, NumbersComeFromTheSameStreamAsBytes) {
  const RandomKey key = RandomKey::from_seed(8);
  ChaCha20Random source(key);
  std::vector<std::uint8_t> drawn(8 * 1000 + 3 * 1000);  // crosses refills at every offset
  for (std::size_t i = 0; i < drawn.size(); i += 11) {
    const std::uint64_t number = source.next();
    std::memcpy(&drawn[i], &number, sizeof number);
    source.fill(std::span(drawn).subspan(i + 8, 3));
  }
  EXPECT_EQ(drawn, openssl_keystream(key.bytes(), 0, 0, drawn.size()));
}

TEST(RandomKey, FromSystemDiffersEachTime) {
  EXPECT_FALSE(std::ranges::equal(RandomKey::from_system().bytes(), RandomKey::from_system().bytes()));
}

TEST(RandomKey, FromSeedDependsOnSeedAndStreamOnly) {
  const auto key = [](std::uint64_t seed, std::uint64_t stream) {
    const RandomKey made = RandomKey::from_seed(seed, stream);
    return std::vector<std::uint8_t>(made.bytes().begin(), made.bytes().end());
  };
  EXPECT_EQ(key(1, 2), key(1, 2));
  EXPECT_NE(key(1, 2), key(2, 1));
  EXPECT_NE(key(1, 0), key(0, 1));
}

TEST(RandomSource, BernoulliComparesAll64Bits) {
  ScriptedSource below_half({(std::uint64_t{1} << 63) - 1});
  EXPECT_TRUE(below_half.bernoulli(0.5));
  ScriptedSource at_half({std::uint64_t{1} << 63});
  EXPECT_FALSE(at_half.bernoulli(0.5));
  ScriptedSource zero({0});
  EXPECT_TRUE(zero.bernoulli(0x1p-64));
  ScriptedSource one({1});
  EXPECT_FALSE(one.bernoulli(0x1p-64));
}

TEST(RandomSource, BernoulliIsExactAtZeroAndOne) {
  ScriptedSource smallest({0});
  EXPECT_FALSE(smallest.bernoulli(0.0));
  ScriptedSource all_ones({largest});
  EXPECT_TRUE(all_ones.bernoulli(1.0));
}

TEST(RandomSource, BernoulliDrawsTheSameBitsForEveryProbability) {
  ScriptedSource source({1, 2, 3});
  source.bernoulli(0.0);
  source.bernoulli(0.3);
  source.bernoulli(1.0);
  EXPECT_EQ(source.used(), 3u);
}

TEST(RandomSource, BernoulliRefusesWhatIsNoProbability) {
  ScriptedSource source({});
  for (const double bad : {-0.1, 1.1, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_THROW(source.bernoulli(bad), std::invalid_argument) << bad;
  }
}

TEST(RandomSource, BernoulliHitsItsRate) {
  ChaCha20Random source(RandomKey::from_seed(3));
  constexpr int draws = 200'000;
  for (const double probability : {0.01, 0.3, 0.9}) {
    int hits = 0;
    for (int i = 0; i < draws; ++i) hits += source.bernoulli(probability);
    const double deviation = std::sqrt(draws * probability * (1 - probability));
    EXPECT_NEAR(hits, draws * probability, 5 * deviation) << probability;
  }
}

TEST(RandomSource, BelowRejectsTheDrawsThatWouldBias) {
  ScriptedSource source({0, 1});  // 2^64 mod 3 = 1 draw is surplus: 0
  EXPECT_EQ(source.below(3), 0u);
  EXPECT_EQ(source.used(), 2u);
}

TEST(RandomSource, BelowCoversItsRangeEvenly) {
  ChaCha20Random source(RandomKey::from_seed(4));
  constexpr std::uint64_t bound = 10;
  constexpr int draws = 100'000;
  std::array<int, bound> counts{};
  for (int i = 0; i < draws; ++i) ++counts.at(source.below(bound));
  double chi_squared = 0;
  for (const int count : counts) chi_squared += std::pow(count - draws / 10.0, 2) / (draws / 10.0);
  EXPECT_LT(chi_squared, 33.72);  // 9 degrees of freedom, one in ten thousand
}

TEST(RandomSource, BelowReachesBothEnds) {
  ScriptedSource source({largest, largest, 1});
  EXPECT_EQ(source.below(largest), largest - 1);
  EXPECT_EQ(source.below(1), 0u);
  EXPECT_THROW(source.below(0), std::invalid_argument);
}

TEST(RandomSource, UniformIsNeverZeroNorOne) {
  ScriptedSource ones({largest});
  EXPECT_EQ(ones.uniform(), 1.0 - 0x1p-53);
  ScriptedSource zeros({0, 0x7ff, 0x800});  // the first two have no bit among the upper 53
  EXPECT_EQ(zeros.uniform(), 0x1p-53);
}

TEST(RandomSource, UniformHasTheMomentsOfAUniform) {
  ChaCha20Random source(RandomKey::from_seed(5));
  constexpr int draws = 200'000;
  double sum = 0, squares = 0;
  for (int i = 0; i < draws; ++i) {
    const double x = source.uniform();
    sum += x;
    squares += x * x;
  }
  EXPECT_NEAR(sum / draws, 1.0 / 2, 5 * std::sqrt(1.0 / 12 / draws));
  EXPECT_NEAR(squares / draws, 1.0 / 3, 5 * std::sqrt(4.0 / 45 / draws));
}

TEST(RandomSource, ShufflesAsAStandardGenerator) {
  ChaCha20Random source(RandomKey::from_seed(6));
  std::vector<int> numbers(100);
  std::iota(numbers.begin(), numbers.end(), 0);
  auto shuffled = numbers;
  std::shuffle(shuffled.begin(), shuffled.end(), static_cast<RandomSource&>(source));
  EXPECT_NE(shuffled, numbers);
  EXPECT_TRUE(std::ranges::is_permutation(shuffled, numbers));
}

}  // namespace
}  // namespace trib
