// Random numbers that privacy may rest on: ChaCha20 keystreams, keyed by the operating system.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "common/result.h"

namespace trib {

// A 256-bit ChaCha20 key. Never logged, never stored; wiped on destruction.
class RandomKey {
 public:
  static RandomKey from_system();                          // getrandom(2)
  static RandomKey from_seed(std::uint64_t seed, std::uint64_t stream = 0);  // tests and `trib simulate --seed` only
  RandomKey(const RandomKey&) = default;
  RandomKey& operator=(const RandomKey&) = default;
  ~RandomKey();
  std::span<const std::uint8_t, 32> bytes() const { return bytes_; }

 private:
  RandomKey() = default;
  std::array<std::uint8_t, 32> bytes_{};
};

// A source of uniform bits. Implementations are not thread-safe; give each thread its own.
class RandomSource {
 public:
  using result_type = std::uint64_t;  // a UniformRandomBitGenerator, for std::shuffle
  virtual ~RandomSource() = default;
  virtual void fill(std::span<std::uint8_t> bytes) = 0;
  std::uint64_t next();
  std::uint64_t operator()() { return next(); }
  static constexpr result_type min() { return 0; }
  static constexpr result_type max() { return ~std::uint64_t{0}; }

  // Uniform in [0, bound), without modulo bias. bound > 0.
  std::uint64_t below(std::uint64_t bound);
  // True with probability `probability`, by one 64-bit comparison (granularity 2^-64; exact at 0 and 1).
  bool bernoulli(double probability);
  // Uniform in (0, 1) with 53 random bits; never 0, never 1. For simulation and jitter; privacy uses bernoulli() and
  // the noise samplers of privacy/.
  double uniform();
};

// ChaCha20 (RFC 8439 block function, 64-bit block counter) as a random source. No (key, counter) pair is used twice:
// the counter only grows, and a source cannot be copied.
class ChaCha20Random final : public RandomSource {
 public:
  explicit ChaCha20Random(const RandomKey& key);
  ChaCha20Random(const ChaCha20Random&) = delete;
  ChaCha20Random& operator=(const ChaCha20Random&) = delete;
  ~ChaCha20Random() override;
  void fill(std::span<std::uint8_t> bytes) override;

 private:
  void refill();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// One ChaCha20 block: 16 words for (key, 64-bit counter, 64-bit stream id). The function that devices implement too.
void chacha20_block(std::span<const std::uint8_t, 32> key, std::uint64_t counter, std::uint64_t stream,
                    std::span<std::uint32_t, 16> out);

}  // namespace trib
