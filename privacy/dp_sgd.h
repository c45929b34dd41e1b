// One step of DP-SGD, apart from whose records it reads: the secret randomness, and the sums that become a noised mean.
// PrivacySession drives this; tasks use PrivacySession.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "common/random.h"
#include "kernels/per_sample.h"
#include "privacy/mechanism.h"

namespace trib::privacy {

// A 256-bit subkey for one purpose of one charge, wiped on destruction. A (job, round, data set) is charged once, so
// even a caller who hands the same key to two sessions never repeats a keystream.
class Subkey {
 public:
  // SHA-256 of the key, the purpose and the charge's identity.
  Subkey(const RandomKey& key, std::string_view purpose, const Charge& charge);
  Subkey(const Subkey&) = delete;
  Subkey& operator=(const Subkey&) = delete;
  ~Subkey();
  std::span<const std::uint8_t, 32> bytes() const { return bytes_; }

 private:
  std::array<std::uint8_t, 32> bytes_;
};

// Poisson sampling: every record joins independently with the same probability, decided by one 64-bit comparison
// with a ChaCha20 keystream of its own.
class PoissonSampler {
 public:
  PoissonSampler(const RandomKey& key, const Charge& charge);
  // The indices below `record_count` that joined, ascending. Fresh on every call.
  std::vector<std::size_t> sample(std::size_t record_count, double sample_rate);

 private:
  // ChaCha20 in counter mode over a subkey.
  class Stream final : public RandomSource {
   public:
    Stream(const RandomKey& key, const Charge& charge) : key_(key, "sampling", charge) {}
    ~Stream() override;
    void fill(std::span<std::uint8_t> bytes) override;

   private:
    Subkey key_;
    std::uint64_t counter_ = 0;
    std::array<std::uint32_t, 16> block_{};
    std::size_t consumed_ = sizeof(block_);  // bytes of block_ that were handed out
  };
  Stream stream_;
};

// The sum of clipped gradients over a step's micro-batches, and then its noised mean. Holds one float32 tensor a
// parameter, reused from step to step.
class GradientSum {
 public:
  GradientSum(const RandomKey& key, const Charge& charge);

  // Zero sums of the parameters' shapes on their device.
  void reset(kernels::Stream& stream, const std::vector<kernels::Tensor>& parameters);

  // Adds every sample's gradient, scaled so that its joint norm over all tensors is at most the clip norm. Returns how
  // many samples were clipped. Throws std::invalid_argument where `gradients` does not match the parameters.
  std::int64_t add_clipped(kernels::Stream& stream, const kernels::PerSampleGradients& gradients);

  // Once a step: adds N(0, (noise_multiplier·clip_norm)²) to every coordinate (not for MechanismKind::none) and divides
  // by the expected batch, sample_rate × declared_records.
  void finish(kernels::Stream& stream);

  const std::vector<kernels::Tensor>& tensors() const { return tensors_; }

 private:
  Mechanism mechanism_;
  double expected_batch_;
  Subkey noise_key_;
  std::uint64_t noise_counter_ = 0;  // the first block of the keystream that no step has used
  std::vector<kernels::Tensor> tensors_;
};

}  // namespace trib::privacy
