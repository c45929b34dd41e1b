// One step of DP-SGD, apart from whose records it reads: the secret randomness, and the sums that become a noised mean.
// PrivacySession drives this; tasks use PrivacySession.
//
// The mechanism (NoiseKind::discrete_gaussian). Per-sample norms and sums come from the same float32 numbers; a record
// is clipped to C·(1 − 1e-5), which leaves room for every rounding before the grid. It is then rounded to the nearest
// point of γℤ^d, d the number of trained coordinates: that moves it by at most γ√d/2, so one record changes the sum by
// at most Δ = C + γ√d/2. Sums are int64. On each coordinate comes a discrete Gaussian N_Z(0, s²), s = 2^k grid points,
// exactly sampled (kernels/grid.h). γ is chosen so that γs/Δ is the noise multiplier: what is charged is what is done.
// Scaling to float and dividing by the expected batch are post-processing.
//
// Why the accountant may take it for the continuous Gaussian. Let μ ∈ ℤ^d, ‖μ‖ ≤ Δ/γ, be what a record adds, P the
// noise and L(x) = P(x − μ)/P(x). As jμ is a lattice point, Σ_x P(x)·L(x)^j = exp((j² − j)‖μ‖²/2s²)·Σ_x P(x − jμ) =
// exp((j² − j)‖μ‖²/2s²): the continuous value, exactly. The Rényi divergence of the subsampled mechanism at an integer
// order is a sum of such terms, by the binomial theorem, so it is exactly the continuous one's, and largest at ‖μ‖ =
// Δ/γ; x → μ − x maps the lattice to itself, so the order of the neighbours matters as little as there (Mironov, Talwar
// and Zhang 2019). At q = 1 it is the bound of Canonne, Kamath and Steinke (2020). At a fractional order the lattice
// sum differs from the integral by its aliasing terms (Poisson summation): e^{−2π²s²} from the Gaussian, and
// e^{−2π²s²γ/Δ} from where 1 − q + q·L(x) vanishes, at the imaginary distance πs²γ/Δ. Here s ≥ 2^16 and s²γ/Δ =
// s·noise_multiplier ≥ 2^10: both are below 10^−8000.
//
// That is the RDP accountant's side, by which caps count. The tight accountant's figure, which stands beside it, takes
// the Gaussian for continuous: one step's hockey-stick divergence on the lattice differs from the integral by terms of
// relative size 1/s² ≤ 2^−32 (a sum in place of an integral, with a kink). We have no proof for what composition makes
// of them; T of them add up to 2e-5 of delta at 100,000 steps, less than the 1e-4 of epsilon that we state.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "common/random.h"
#include "common/tensor_map.h"
#include "kernels/collective.h"
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

// The grid of a mechanism that trains so many coordinates: a function of public values alone.
struct NoiseGrid {
  int log2_stddev = 0;  // k: the noise's standard deviation is 2^k grid points, from 2^16 to 2^36
  double spacing = 0.0;  // γ. C/γ is between 2^21 − √d/2 and 2^22, so that Δ exceeds C by 4e-5 for 27,000 coordinates
};
// `mechanism` as check_charge() accepts it, with the discrete Gaussian; 1 ≤ coordinates ≤ 2^40.
NoiseGrid noise_grid(const Mechanism& mechanism, std::int64_t coordinates);

// What a step counted, on its way from the device.
class StepNumbers {
 public:
  bool ready() const;
  // Each waits until the device has done what was counted, which it has where ready() says so.
  double loss() const;                 // summed over the samples
  std::int64_t clipped_count() const;  // how many samples add_clipped() made shorter

 private:
  friend class GradientSum;
  std::unique_ptr<kernels::HostRead> loss_, clipped_;
};

// The sum of clipped gradients over a step's micro-batches, and then its noised mean. Holds one float32 vector with all
// parameters one behind the other and, for noise on a grid, one of int64, reused from step to step: what happens to all
// coordinates alike is one operation. A sum holds 2^40 records. Nothing here waits for the device but finish_sum(),
// add_unclipped() and StepNumbers.
class GradientSum {
 public:
  GradientSum(const RandomKey& key, const Charge& charge);

  // Zero sums of these shapes on the stream's device.
  void reset(kernels::Stream& stream, const std::vector<Shape>& shapes);

  // Adds every sample's gradient, scaled so that its joint norm over all tensors is at most the clip norm, and the
  // losses where `gradients` has them. Throws std::invalid_argument where `gradients` does not match the shapes.
  void add_clipped(kernels::Stream& stream, const kernels::PerSampleGradients& gradients);
  // The same without a clip, for MechanismKind::none.
  void add_unclipped(kernels::Stream& stream, const kernels::PerSampleGradients& gradients);

  // The sum of the losses so far, one float64 on the device, for those who add to it themselves.
  const kernels::Tensor& loss() const { return loss_; }
  // Copies what was counted since reset() to the host, behind what was submitted so far. Does not wait.
  StepNumbers numbers(kernels::Stream& stream) const;

  // Once a step: adds the noise to every coordinate (not for MechanismKind::none) and divides by the expected batch,
  // sample_rate × declared_records. The result is tensors().
  void finish_mean(kernels::Stream& stream);
  // Once a step, instead: adds the noise and returns the sum itself, one float64 tensor a shape.
  std::vector<HostTensor> finish_sum(kernels::Stream& stream);

  const std::vector<kernels::Tensor>& tensors() const { return tensors_; }

  // For equal sums on several devices, in the order of the collective's streams: before the noise, everything is added
  // up into the first, exactly where it is on the grid; after finish_mean() of the first, all receive its mean.
  static void gather(kernels::Collective& collective, const std::vector<GradientSum*>& parts);
  static void share_mean(kernels::Collective& collective, const std::vector<GradientSum*>& parts);

 private:
  void add_noise(kernels::Stream& stream);
  bool is_on_grid() const {
    return mechanism_.kind != MechanismKind::none && mechanism_.noise == NoiseKind::discrete_gaussian;
  }
  void check_fit(const kernels::PerSampleGradients& gradients) const;

  Mechanism mechanism_;
  double expected_batch_;
  Subkey noise_key_;
  std::uint64_t noise_counter_ = 0;  // the first block of the keystream that no step has used
  NoiseGrid noise_grid_;
  kernels::Tensor all_, grid_;            // every parameter's coordinates, each from a multiple of 16 on
  std::vector<kernels::Tensor> tensors_;  // float32, in all_: the mean; sums too, where there is no grid
  std::vector<kernels::Tensor> sums_;     // int64, in grid_: the sums on a grid
  std::vector<std::int64_t> places_;      // where each begins
  kernels::Tensor clipped_, loss_;  // one int64 and one float64, on the device so that no micro-batch waits for it
  std::vector<HostTensor> exact_;   // float64: sums of whole micro-batches without privacy (add_unclipped)
};

}  // namespace trib::privacy
