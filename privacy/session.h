// The only door to a record. A PrivacySession exists only after the ledger has been charged, durably, for everything it
// will do; it draws the Poisson sample, clips, adds the noise, and alone can make a Contribution.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/failpoint.h"
#include "common/random.h"
#include "common/result.h"
#include "common/tensor_map.h"
#include "kernels/per_sample.h"
#include "privacy/dp_sgd.h"
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

// What one step did. All but `step` is computed from records, so it is for the site's own screen and never sent.
struct StepReport {
  std::int64_t step = 0;          // 1-based within the round
  std::int64_t sample_count = 0;  // of the realized Poisson sample
  double mean_loss = 0.0;         // over the sample; 0 if it is empty
  double clipped_fraction = 0.0;  // of the sample
  double seconds = 0.0;           // by the session's clock, until the report was asked for
};

// A step that was submitted, and whose numbers the device still has.
class PendingStep {
 public:
  bool ready() const { return numbers_.ready(); }  // whether report() need not wait
  // Waits until the device has taken the step. The session's clock must still be there.
  StepReport report() const;

 private:
  friend class PrivacySession;
  PendingStep() = default;
  StepNumbers numbers_;
  StepReport known_;
  const Clock* clock_ = nullptr;
  MonotonicTime began_{};
};

// What the session asks a model for one micro-batch. Losses are per sample. Whatever else scales a gradient (LoRA's
// alpha/rank, ALLoRA's rescaling, a loss weight) is in what these functions give, before the clip: the clip is the last
// thing that happens to one record's gradient, and what is done with the noised mean afterwards is no part of the
// mechanism.
template <typename Record>
struct GradientFunctions {
  // Fills per-sample gradients of the *sum* loss for `records` (1 ≤ size ≤ micro_batch), and their losses. Need not
  // wait for the device.
  std::function<void(std::span<const Record* const> records, kernels::PerSampleGradients& out)> per_sample;
  // Adds the gradient of the sum loss to `sums` (one tensor a parameter) and the sum of the losses to `loss` (one
  // float64): the cheaper way where nothing is clipped. Used by sessions that are not private.
  std::function<void(std::span<const Record* const> records, const std::vector<kernels::Tensor>& sums,
                     const kernels::Tensor& loss)>
      summed;
  // How many records one call may take.
  std::int64_t micro_batch = 64;
  // Optional: sorts a sample so that micro-batches pack well (by token count); order never affects the mechanism.
  std::function<void(std::vector<const Record*>& sample)> arrange;
};

// What the session asks a task for a sum over all records (release_sum).
template <typename Record>
struct SummandFunctions {
  // Fills what each of `records` (1 ≤ size ≤ micro_batch) adds, in the form of per-sample gradients. Scaling comes
  // before the clip here too.
  std::function<void(std::span<const Record* const> records, kernels::PerSampleGradients& out)> per_record;
  // How many records one call may take.
  std::int64_t micro_batch = 64;
};

class PrivacySession {
 public:
  // Opens the door for one round: charges `charge` to the ledger (fsynced; over the cap of the data set it returns
  // Errc::over_budget with the figures and nothing is charged) and only then returns a session. A charge whose
  // mechanism is `none` needs `allow_non_private` of the site's own configuration (Errc::permission_denied otherwise).
  // `random_key` comes from the system in daemons; a simulation may seed it, and says so in its report.
  // `clock` times the steps.
  static Result<PrivacySession> open(Ledger& ledger, const Charge& charge, bool allow_non_private,
                                     const RandomKey& random_key, const Clock& clock);
  PrivacySession(PrivacySession&&) noexcept;
  PrivacySession& operator=(PrivacySession&&) noexcept;
  ~PrivacySession();

  const Charge& charge() const;
  bool is_private() const;
  std::int64_t steps_left() const;  // of the planned ones

  // One step: Poisson sample at the charge's rate, per-sample gradients by micro-batches, one joint clip by the
  // charge's rule, rounding to the grid, sum, noise on every coordinate (dp_sgd.h), division by the *expected* batch
  // (sample_rate × declared records). An empty sample adds noise and counts. `update` receives the noised mean
  // gradient, one tensor a parameter in their order, valid until it returns, and applies it: post-processing.
  // Errc::limit_exceeded if no planned step is left. A session that is not private takes the same samples and divides
  // the same way, without noise, and clips only where its mechanism has a clip norm.
  template <typename Record>
  Result<StepReport> dp_sgd_step(kernels::Stream& stream, const RecordStore<Record>& records,
                                 const std::vector<kernels::Tensor>& parameters,
                                 const GradientFunctions<Record>& functions,
                                 const std::function<void(const std::vector<kernels::Tensor>& gradients)>& update);

  // The same without waiting for the device: the next step may be submitted meanwhile, and `update` submits too.
  template <typename Record>
  Result<PendingStep> submit_dp_sgd_step(
      kernels::Stream& stream, const RecordStore<Record>& records, const std::vector<kernels::Tensor>& parameters,
      const GradientFunctions<Record>& functions,
      const std::function<void(const std::vector<kernels::Tensor>& gradients)>& update);

  // One sum over all records, noised once: for tasks with a closed form, and for counts. What a record adds, one tensor
  // a shape, is clipped jointly to the charge's clip norm, and the sum gets the noise of the charge's multiplier on
  // every coordinate. Takes one planned step, so a charge of one step releases one sum and nothing more. Returns
  // float64 tensors of `shapes`, not divided by anything. Errc::invalid_argument unless the charge's sample_rate is 1:
  // a sum that a sample stands for is dp_sgd_step. Errc::limit_exceeded if no planned step is left. A session that is
  // not private gives the exact sum.
  template <typename Record>
  Result<std::vector<HostTensor>> release_sum(kernels::Stream& stream, const RecordStore<Record>& records,
                                              const std::vector<Shape>& shapes,
                                              const SummandFunctions<Record>& functions);

  // Wraps what training made of noised gradients. Consumes the session: a second call, and any further step, fails with
  // Errc::limit_exceeded. `tensors` (float32 or float64, finite) are multiplied by `weight` (above 0) here.
  Result<Contribution> contribute(TensorMap tensors, double weight);

  // Restores a contribution from the outbox: bytes that an earlier session of this site already made and charged.
  static Contribution restore(TensorMap tensors, double weight, bool is_private);

 private:
  struct Impl;
  explicit PrivacySession(std::unique_ptr<Impl> impl);
  Status check_is_whole_sum() const;
  // Takes one planned step and draws its sample: indices below `record_count`.
  Result<std::vector<std::size_t>> begin_step(std::size_t record_count);
  GradientSum& gradient_sum();
  // What is left to report once a step's work is submitted.
  PendingStep pending_step(kernels::Stream& stream, std::size_t sample_count);
  std::unique_ptr<Impl> impl_;
};

template <typename Record>
Result<StepReport> PrivacySession::dp_sgd_step(
    kernels::Stream& stream, const RecordStore<Record>& records, const std::vector<kernels::Tensor>& parameters,
    const GradientFunctions<Record>& functions,
    const std::function<void(const std::vector<kernels::Tensor>& gradients)>& update) {
  TRIB_ASSIGN(const PendingStep step, submit_dp_sgd_step(stream, records, parameters, functions, update));
  return step.report();
}

template <typename Record>
Result<PendingStep> PrivacySession::submit_dp_sgd_step(
    kernels::Stream& stream, const RecordStore<Record>& records, const std::vector<kernels::Tensor>& parameters,
    const GradientFunctions<Record>& functions,
    const std::function<void(const std::vector<kernels::Tensor>& gradients)>& update) {
  TRIB_ASSIGN(const std::vector<std::size_t> chosen, begin_step(records.records_.size()));
  std::vector<const Record*> sample;
  sample.reserve(chosen.size());
  for (const std::size_t index : chosen) sample.push_back(&records.records_[index]);
  if (functions.arrange) functions.arrange(sample);

  GradientSum& sum = gradient_sum();
  std::vector<Shape> shapes;
  for (const kernels::Tensor& parameter : parameters) shapes.push_back(parameter.shape());
  sum.reset(stream, shapes);
  kernels::PerSampleGradients gradients;
  const std::span<const Record* const> all(sample);
  // Micro-batches of nearly one size: a device does the same work again rather than that of a small rest.
  const auto most = static_cast<std::size_t>(std::max<std::int64_t>(1, functions.micro_batch));
  const std::size_t parts = std::max<std::size_t>(1, (all.size() + most - 1) / most),
                    micro_batch = (all.size() + parts - 1) / parts;
  const bool clips = charge().mechanism.clip_norm > 0.0;  // always, where it is private
  for (std::size_t first = 0; first < all.size(); first += micro_batch) {
    const auto part = all.subspan(first, std::min(micro_batch, all.size() - first));
    if (clips) {
      gradients.losses = {};
      functions.per_sample(part, gradients);
      sum.add_clipped(stream, gradients);
    } else {
      functions.summed(part, sum.tensors(), sum.loss());
    }
  }
  TRIB_FAILPOINT("session.before_noise");
  sum.finish_mean(stream);
  TRIB_FAILPOINT("session.before_update");
  update(sum.tensors());

  return pending_step(stream, all.size());
}

template <typename Record>
Result<std::vector<HostTensor>> PrivacySession::release_sum(kernels::Stream& stream, const RecordStore<Record>& records,
                                                            const std::vector<Shape>& shapes,
                                                            const SummandFunctions<Record>& functions) {
  TRIB_TRY(check_is_whole_sum());
  TRIB_ASSIGN(const std::vector<std::size_t> chosen, begin_step(records.records_.size()));
  std::vector<const Record*> all;
  all.reserve(chosen.size());
  for (const std::size_t index : chosen) all.push_back(&records.records_[index]);

  GradientSum& sum = gradient_sum();
  sum.reset(stream, shapes);
  kernels::PerSampleGradients summands;
  const auto micro_batch = static_cast<std::size_t>(std::max<std::int64_t>(1, functions.micro_batch));
  for (std::size_t first = 0; first < all.size(); first += micro_batch) {
    functions.per_record(std::span<const Record* const>(all).subspan(first, std::min(micro_batch, all.size() - first)),
                         summands);
    if (is_private()) {
      sum.add_clipped(stream, summands);
    } else {
      sum.add_unclipped(stream, summands);
    }
  }
  TRIB_FAILPOINT("session.before_noise");
  std::vector<HostTensor> released = sum.finish_sum(stream);
  TRIB_FAILPOINT("session.after_release");
  return released;
}

}  // namespace trib::privacy
