#include "common/net/packing.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "common/net/big_endian.h"

namespace trib::net {
namespace {

template <typename T>
std::vector<std::byte> bytes_of(const std::vector<T>& values) {
  std::vector<std::byte> bytes(values.size() * sizeof(T));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

std::vector<double> normal_values(std::size_t count, double mean, double deviation) {
  std::mt19937_64 random(3);
  std::normal_distribution<double> normal(mean, deviation);
  std::vector<double> values(count);
  for (double& value : values) value = normal(random);
  return values;
}

// The share of its size that a vector is packed into, after unpacking gave the same bytes.
double packed_share(const std::vector<std::byte>& bytes) {
  std::vector<std::byte> packed;
  if (!pack(bytes, packed)) return 1.0;
  EXPECT_LT(packed.size(), bytes.size());
  std::vector<std::byte> unpacked(bytes.size(), std::byte{0xAA});
  const Status status = unpack(packed, unpacked);
  EXPECT_TRUE(status.ok()) << status.error().message;
  EXPECT_EQ(unpacked, bytes);
  return static_cast<double>(packed.size()) / static_cast<double>(bytes.size());
}

TEST(Packing, OfSumsInFloat64SavesTheirExponents) {
  // Sign and exponent are 12 of 64 bits and nearly constant; 52 are noise, 81 %.
  EXPECT_LT(packed_share(bytes_of(normal_values(100'000, 1000.0, 50.0))), 0.85);
  // A normal's exponent has 2.1 bits of entropy and its sign one (sum over binades of the distribution): 55 of 64.
  EXPECT_LT(packed_share(bytes_of(normal_values(100'000, 0.0, 1.0))), 0.90);
}

TEST(Packing, OfALatticeSavesTheZerosBelowItsStep) {
  std::vector<double> values = normal_values(100'000, 0.0, 4096.0);
  for (double& value : values) value = std::nearbyint(value * 16.0) / 16.0;  // 17.0 bits of entropy of 64
  EXPECT_LT(packed_share(bytes_of(values)), 0.40);
}

TEST(Packing, OfFloat32SavesTheirExponents) {
  std::vector<float> values;
  for (const double value : normal_values(100'000, 0.0, 0.01)) values.push_back(static_cast<float>(value));
  EXPECT_LT(packed_share(bytes_of(values)), 0.90);
}

TEST(Packing, IsExactForEverySizeAndForZeros) {
  const auto all = bytes_of(normal_values(1000, 5.0, 1.0));
  for (std::size_t size = 0; size < 3000; size += size < 1020 || size > 1050 ? 17 : 1)
    packed_share({all.begin(), all.begin() + static_cast<std::ptrdiff_t>(size)});
  EXPECT_LT(packed_share(std::vector<std::byte>(1 << 20)), 0.001);
}

TEST(Packing, DeclinesWhatItWouldNotMakeSmaller) {
  std::mt19937_64 random(1);
  std::vector<std::uint64_t> noise(10'000);
  for (auto& word : noise) word = random();
  std::vector<std::byte> packed;
  EXPECT_FALSE(pack(bytes_of(noise), packed));
  EXPECT_FALSE(pack(std::vector<std::byte>(least_packed_bytes - 1), packed));
}

TEST(Packing, RefusesWhatItDidNotMake) {
  const auto bytes = bytes_of(normal_values(1000, 5.0, 1.0));
  std::vector<std::byte> packed, unpacked(bytes.size());
  ASSERT_TRUE(pack(bytes, packed));
  const auto refused = [&](std::span<const std::byte> what, std::size_t size) {
    std::vector<std::byte> to(size);
    const Status status = unpack(what, to);
    return !status.ok() && status.error().code == Errc::protocol_error && !status.error().message.empty();
  };
  for (std::size_t length = 0; length < packed.size(); ++length)
    EXPECT_TRUE(refused(std::span(packed).first(length), bytes.size())) << length;
  auto longer = packed;
  longer.push_back(std::byte{0});
  EXPECT_TRUE(refused(longer, bytes.size()));
  for (const std::size_t size : {bytes.size() - 8, bytes.size() + 8, bytes.size() * 100, std::size_t{0}})
    EXPECT_TRUE(refused(packed, size)) << size;
  auto beyond = packed;
  store_big_endian(std::uint32_t{0xFFFFFFFF}, beyond.data());
  EXPECT_TRUE(refused(beyond, bytes.size()));
  // A changed bit is either refused or ends within the bounds; the transfer's SHA-256 tells the rest.
  for (std::size_t at = 0; at < packed.size(); at += 7) {
    auto changed = packed;
    changed[at] ^= std::byte{0x10};
    (void)unpack(changed, unpacked);
  }
}

}  // namespace
}  // namespace trib::net
