// The only door to a record. A PrivacySession exists only after the ledger has been charged, durably, for everything it
// will do; it draws the Poisson sample, clips, adds the noise, and alone can make a Contribution.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/random.h"
#include "common/result.h"
#include "common/tensor_map.h"
#include "kernels/per_sample.h"
#include "privacy/ledger.h"
#include "privacy/mechanism.h"

namespace trib::privacy {

// The records of one data set at one site. Nothing but a PrivacySession can read them; the exact number of records is
// as secret as they are (use the declared size).
template <typename Record>
class RecordStore {
 public:
  explicit RecordStore(std::vector<Record> records) : records_(std::move(records)) {}
  RecordStore(const RecordStore&) = delete;
  RecordStore& operator=(const RecordStore&) = delete;

 private:
  friend class PrivacySession;
  std::vector<Record> records_;
};

// What a site sends: tensors already multiplied by their weight, and the weight. Only PrivacySession makes one, so
// nothing leaves a site un-noised by mistake.
class Contribution {
 public:
  const TensorMap& tensors() const { return tensors_; }
  double weight() const { return weight_; }
  bool is_private() const { return private_; }

 private:
  friend class PrivacySession;
  Contribution(TensorMap tensors, double weight, bool is_private)
      : tensors_(std::move(tensors)), weight_(weight), private_(is_private) {}
  TensorMap tensors_;
  double weight_;
  bool private_;
};

// What one DP-SGD step did that may be shown: nothing here is computed from records except for the site's own eyes.
struct StepReport {
  std::int64_t step = 0;            // 1-based within the round
  std::int64_t sample_count = 0;    // realized Poisson sample: for the site only
  double mean_loss = 0.0;           // over the sample: for the site only
  double clipped_fraction = 0.0;    // for the site only
};

// What the session asks a model for one micro-batch. Losses are per sample.
template <typename Record>
struct GradientFunctions {
  // Fills per-sample gradients of the *sum* loss for `records` (1 ≤ size ≤ micro_batch) and returns the sum of the losses.
  std::function<double(std::span<const Record* const> records, kernels::PerSampleGradients& out)> per_sample;
  // Adds the gradient of the sum loss to `sums` (one tensor a parameter) and returns the sum of the losses: the cheaper
  // way where nothing is clipped. Used by sessions that are not private.
  std::function<double(std::span<const Record* const> records, const std::vector<kernels::Tensor>& sums)> summed;
  // How many records one call may take.
  std::int64_t micro_batch = 64;
  // Optional: sorts a sample so that micro-batches pack well (by token count); order never affects the mechanism.
  std::function<void(std::vector<const Record*>& sample)> arrange;
};

class PrivacySession {
 public:
  // Opens the door for one round: charges `charge` to the ledger (fsynced; over the cap of the data set it returns
  // Errc::over_budget with the figures and nothing is charged) and only then returns a session. A charge whose mechanism is
  // `none` needs `allow_non_private` of the site's own configuration (Errc::permission_denied otherwise).
  // `random` is ChaCha20 keyed by the system in daemons; a simulation may seed it, and says so in its report.
  static Result<PrivacySession> open(Ledger& ledger, const Charge& charge, bool allow_non_private, RandomKey random_key,
                                     const Clock& clock);
  PrivacySession(PrivacySession&&) noexcept;
  PrivacySession& operator=(PrivacySession&&) noexcept;
  ~PrivacySession();

  const Charge& charge() const;
  bool is_private() const;
  std::int64_t steps_left() const;  // of the planned ones

  // One step: Poisson sample at the charge's rate, per-sample gradients by micro-batches, one joint clip, sum, noise
  // N(0, (noise_multiplier·clip_norm)²) on every coordinate, division by the *expected* batch (sample_rate × declared
  // records). An empty sample adds noise and counts. `update` receives the noised mean gradient, one tensor a
  // parameter, and applies it: post-processing. Errc::limit_exceeded if no planned step is left.
  template <typename Record>
  Result<StepReport> dp_sgd_step(kernels::Stream& stream, const RecordStore<Record>& records,
                                 const std::vector<kernels::Tensor>& parameters, const GradientFunctions<Record>& functions,
                                 const std::function<void(const std::vector<kernels::Tensor>& gradients)>& update);

  // Wraps what training made of noised gradients. Consumes the session's right to contribute: a second call fails.
  // `tensors` are multiplied by `weight` here.
  Result<Contribution> contribute(TensorMap tensors, double weight);

  // Restores a contribution from the outbox: bytes that an earlier session of this site already made and charged.
  static Contribution restore(TensorMap tensors, double weight, bool is_private);

 private:
  struct Impl;
  explicit PrivacySession(std::unique_ptr<Impl> impl);
  // The non-template part of a step, over an index set.
  std::vector<std::size_t> draw_sample(std::size_t record_count);
  std::unique_ptr<Impl> impl_;
};

}  // namespace trib::privacy
