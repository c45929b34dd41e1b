// The only door to a record. A PrivacySession exists only after the ledger has been charged, durably, for everything it
// will do; it draws the Poisson sample, clips, adds the noise, and alone can make a Contribution.
#pragma once

#include <algorithm>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/failpoint.h"
#include "common/random.h"
#include "common/result.h"
#include "common/tensor_map.h"
#include "kernels/collective.h"
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
  std::int64_t micro_batch = 0;   // how many records were worked on at once, at most, on one device
};

// A step that was submitted, and whose numbers the device may still have. Used on the session's thread; the session may
// have moved or gone, its clock must still be there.
class PendingStep {
 public:
  bool ready() const;  // whether report() need not wait
  // Waits until the (first) device has taken the step, and looks at its loss and at those of all steps before it that
  // nobody has looked at. Where this step's loss is not a finite number, Errc::invalid_argument names the step and what
  // to look at; where that of a step before it was not, Errc::limit_exceeded names that one. Either way the session is
  // abandoned: every later call fails, and nothing is contributed. A second call answers the same.
  Result<StepReport> report() const;

 private:
  friend class PrivacySession;
  struct Step;
  struct Round;  // what a session and its steps share
  PendingStep(std::shared_ptr<Round> round, std::shared_ptr<Step> step)
      : round_(std::move(round)), step_(std::move(step)) {}
  std::shared_ptr<Round> round_;
  std::shared_ptr<Step> step_;
};

// What the session asks a model for one micro-batch. A call that throws std::bad_alloc has done nothing: it is made
// again with half the records. Losses are per sample. Whatever else scales a gradient (LoRA's alpha/rank, ALLoRA's
// rescaling, a loss weight) is in what these functions give, before the clip: the clip is the last thing that happens
// to one record's gradient, and what is done with the noised mean afterwards is no part of the mechanism.
template <typename Record>
struct GradientFunctions {
  // Fills per-sample gradients of the *sum* loss for `records` (1 ≤ size ≤ micro_batch), and their losses. Need not
  // wait for the device; what is in `out` is read by what is submitted to the stream before the next call.
  std::function<void(std::span<const Record* const> records, kernels::PerSampleGradients& out)> per_sample;
  // Adds the gradient of the sum loss to `sums` (one tensor a parameter) and the sum of the losses to `loss` (one
  // float64): the cheaper way where nothing is clipped. Used by sessions that are not private. Throws std::bad_alloc
  // only before it has added anything.
  std::function<void(std::span<const Record* const> records, const std::vector<kernels::Tensor>& sums,
                     const kernels::Tensor& loss)>
      summed;
  // How many records one call may take.
  std::int64_t micro_batch = 64;
  // Optional: sorts a sample so that micro-batches pack well (by token count); order never affects the mechanism.
  std::function<void(std::vector<const Record*>& sample)> arrange;
};

// One of several equal models, each on a device of its own, that share the records of a step. What it refers to
// outlives the step.
template <typename Record>
struct Replica {
  kernels::Stream& stream;
  const std::vector<kernels::Tensor>& parameters;
  const GradientFunctions<Record>& functions;
  // As in dp_sgd_step(); called on the calling thread, for one replica after the other.
  const std::function<void(const std::vector<kernels::Tensor>& gradients)>& update;
};

// What the session asks a task for a sum over all records (release_sum).
template <typename Record>
struct SummandFunctions {
  // Fills what each of `records` (1 ≤ size ≤ micro_batch) adds, in the form of per-sample gradients. Scaling comes
  // before the clip here too. A record that adds nothing may be left out: one summand, if only of zeros, must be there.
  std::function<void(std::span<const Record* const> records, kernels::PerSampleGradients& out)> per_record;
  // How many records one call may take.
  std::int64_t micro_batch = 64;
  // Optional: adds what `records` add to `sums`, one float64 tensor a shape on the stream's device: exact, and as fast
  // as a matrix product. Used by sessions that are not private, which clip nothing.
  std::function<void(std::span<const Record* const> records, const std::vector<kernels::Tensor>& sums)> summed = {};
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
  // A micro-batch for which memory does not suffice is halved, for this step and those after it, with a line in the
  // log. A loss that is not a finite number abandons the session before anything of the round is contributed:
  // Errc::invalid_argument names the step and what to look at, and every later call fails (PendingStep::report()).
  template <typename Record>
  Result<StepReport> dp_sgd_step(kernels::Stream& stream, const RecordStore<Record>& records,
                                 const std::vector<kernels::Tensor>& parameters,
                                 const GradientFunctions<Record>& functions,
                                 const std::function<void(const std::vector<kernels::Tensor>& gradients)>& update);

  // The same step on several devices: replica r takes every r-th micro-batch, clips and sums its records on its own
  // device, and the integer sums are added up by `collective` (of the replicas' streams in their order). The noise is
  // added once, at the first replica, and all of them receive the same noised mean. What comes out is, bit for bit,
  // what one device gives for the same micro-batches, except for sums in floating point (NoiseKind::float_gaussian, or
  // no privacy; the report's mean loss), whose order differs. The first replica's functions say how large a micro-batch
  // is and how a sample is arranged; it is small enough for every replica to have one.
  template <typename Record>
  Result<StepReport> dp_sgd_step(std::span<const Replica<Record>> replicas, kernels::Collective* collective,
                                 const RecordStore<Record>& records);

  // The same two without waiting for a device: dp_sgd_step() is the report of what these submit. The next step may be
  // submitted before this one is reported, and `update` need not wait either. A loss is on the device until report()
  // looks at it, so after a step whose loss is not finite `update` is called, for it and for steps that were submitted
  // before its report; none of this leaves: such a session is abandoned by the report, contribute() demands that every
  // step whose `update` was called has been looked at by a report, and the report of each later step fails too. Where
  // a call throws, its step is spent; if it threw in or after `update`, the session has no contribution.
  template <typename Record>
  Result<PendingStep> submit_dp_sgd_step(
      kernels::Stream& stream, const RecordStore<Record>& records, const std::vector<kernels::Tensor>& parameters,
      const GradientFunctions<Record>& functions,
      const std::function<void(const std::vector<kernels::Tensor>& gradients)>& update);
  template <typename Record>
  Result<PendingStep> submit_dp_sgd_step(std::span<const Replica<Record>> replicas, kernels::Collective* collective,
                                         const RecordStore<Record>& records);

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

  // Wraps what training made of noised gradients. Every step that was submitted must have been looked at by a report():
  // otherwise the call fails with Errc::internal and abandons the session. Consumes the session: a second call, and any
  // further step, fails with Errc::limit_exceeded. `tensors` (float32 or float64, finite) are multiplied by `weight`
  // (above 0) here.
  Result<Contribution> contribute(TensorMap tensors, double weight);

  // Restores a contribution from the outbox: bytes that an earlier session of this site already made and charged.
  static Contribution restore(TensorMap tensors, double weight, bool is_private);

 private:
  struct Impl;
  explicit PrivacySession(std::unique_ptr<Impl> impl);
  Status check_is_whole_sum() const;
  // Takes one planned step and draws its sample: indices below `record_count`.
  Result<std::vector<std::size_t>> begin_step(std::size_t record_count);
  // Adds what `part` contributes at one replica.
  template <typename Record>
  void add_records(const Replica<Record>& replica, GradientSum& sum, std::span<const Record* const> part);
  GradientSum& gradient_sum(std::size_t replica = 0);
  bool clips() const { return charge().mechanism.clip_norm > 0.0; }  // always, where it is private
  // The largest micro-batch for which memory has sufficed so far; unbounded while it always has.
  std::size_t largest_micro_batch() const;
  std::size_t halve_micro_batch(kernels::Stream& stream, std::size_t failed);
  // The step that is about to have an effect: without its report nothing is contributed.
  PendingStep pending_step(std::size_t sample_count);
  // All of it is submitted, and its numbers are on their way.
  void complete(const PendingStep& pending, const GradientSum& sum, kernels::Stream& stream, std::size_t micro_batch);
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
Result<StepReport> PrivacySession::dp_sgd_step(std::span<const Replica<Record>> replicas,
                                               kernels::Collective* collective, const RecordStore<Record>& records) {
  TRIB_ASSIGN(const PendingStep step, submit_dp_sgd_step(replicas, collective, records));
  return step.report();
}

template <typename Record>
Result<PendingStep> PrivacySession::submit_dp_sgd_step(
    kernels::Stream& stream, const RecordStore<Record>& records, const std::vector<kernels::Tensor>& parameters,
    const GradientFunctions<Record>& functions,
    const std::function<void(const std::vector<kernels::Tensor>& gradients)>& update) {
  const Replica<Record> only{stream, parameters, functions, update};
  return submit_dp_sgd_step(std::span<const Replica<Record>>(&only, 1), nullptr, records);
}

template <typename Record>
Result<PendingStep> PrivacySession::submit_dp_sgd_step(std::span<const Replica<Record>> replicas,
                                                       kernels::Collective* collective,
                                                       const RecordStore<Record>& records) {
  TRIB_ASSIGN(const std::vector<std::size_t> chosen, begin_step(records.records_.size()));
  std::vector<const Record*> sample;
  sample.reserve(chosen.size());
  for (const std::size_t index : chosen) sample.push_back(&records.records_[index]);
  const GradientFunctions<Record>& functions = replicas.front().functions;
  if (functions.arrange) functions.arrange(sample);

  const std::size_t count = replicas.size();
  std::vector<Shape> shapes;
  for (const kernels::Tensor& parameter : replicas.front().parameters) shapes.push_back(parameter.shape());
  std::vector<GradientSum*> sums;
  for (std::size_t r = 0; r < count; ++r) {
    sums.push_back(&gradient_sum(r));
    sums[r]->reset(replicas[r].stream, shapes);
  }
  // Micro-batches of nearly one size, the same for every number of devices that does not bound it: a device does the
  // same work again rather than that of a small rest.
  const std::size_t share = (sample.size() + count - 1) / count;
  const std::size_t most = std::max<std::size_t>(
      1, std::min({share, static_cast<std::size_t>(std::max<std::int64_t>(1, functions.micro_batch)),
                   largest_micro_batch()}));
  const std::size_t parts = std::max<std::size_t>(1, (sample.size() + most - 1) / most);
  const std::size_t micro_batch = std::max<std::size_t>(1, (sample.size() + parts - 1) / parts);
  std::vector<std::exception_ptr> failures(count);
  const auto work = [&](std::size_t r) {
    try {
      for (std::size_t first = r * micro_batch; first < sample.size(); first += count * micro_batch) {
        add_records(
            replicas[r], *sums[r],
            std::span<const Record* const>(sample).subspan(first, std::min(micro_batch, sample.size() - first)));
      }
    } catch (...) {
      failures[r] = std::current_exception();
    }
  };
  std::vector<std::jthread> threads;
  for (std::size_t r = 1; r < count; ++r) threads.emplace_back(work, r);
  work(0);
  threads.clear();
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
  if (count > 1) GradientSum::gather(*collective, sums);
  TRIB_FAILPOINT("session.before_noise");
  sums[0]->finish_mean(replicas[0].stream);
  if (count > 1) GradientSum::share_mean(*collective, sums);
  TRIB_FAILPOINT("session.before_update");
  PendingStep pending = pending_step(sample.size());
  for (std::size_t r = 0; r < count; ++r) replicas[r].update(sums[r]->tensors());
  complete(pending, *sums[0], replicas[0].stream, micro_batch);
  return pending;
}

template <typename Record>
void PrivacySession::add_records(const Replica<Record>& replica, GradientSum& sum,
                                 std::span<const Record* const> part) {
  std::size_t at_once = std::min(part.size(), largest_micro_batch());
  for (std::size_t first = 0; first < part.size();) {
    const auto records = part.subspan(first, std::min(at_once, part.size() - first));
    kernels::PerSampleGradients gradients;
    try {
      if (clips()) {
        replica.functions.per_sample(records, gradients);
      } else {
        replica.functions.summed(records, sum.tensors(), sum.loss());
      }
    } catch (const std::bad_alloc&) {
      // Nothing of these records is in the sum yet: what follows is not tried twice.
      if (records.size() == 1) throw;
      at_once = halve_micro_batch(replica.stream, records.size());
      continue;
    }
    if (clips()) {
      // Without them a step that went wrong would not be seen.
      if (!gradients.losses.defined()) throw std::invalid_argument("per-sample gradients came without their losses");
      sum.add_clipped(replica.stream, gradients);
    }
    first += records.size();
  }
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

  const auto micro_batch = static_cast<std::size_t>(std::max<std::int64_t>(1, functions.micro_batch));
  const auto in_parts = [&](const auto& add) {
    for (std::size_t first = 0; first < all.size(); first += micro_batch)
      add(std::span<const Record* const>(all).subspan(first, std::min(micro_batch, all.size() - first)));
  };
  std::vector<HostTensor> released;
  if (!is_private() && functions.summed) {
    std::vector<kernels::Tensor> sums;
    for (const Shape& shape : shapes) sums.push_back(kernels::Tensor::zeros(stream, DType::f64, shape));
    in_parts([&](std::span<const Record* const> part) { functions.summed(part, sums); });
    TRIB_FAILPOINT("session.before_noise");
    for (const kernels::Tensor& sum : sums) released.push_back(sum.to_host(stream));
  } else {
    GradientSum& sum = gradient_sum();
    sum.reset(stream, shapes);
    kernels::PerSampleGradients summands;
    in_parts([&](std::span<const Record* const> part) {
      functions.per_record(part, summands);
      if (is_private()) {
        sum.add_clipped(stream, summands);
      } else {
        sum.add_unclipped(stream, summands);
      }
    });
    TRIB_FAILPOINT("session.before_noise");
    released = sum.finish_sum(stream);
  }
  TRIB_FAILPOINT("session.after_release");
  return released;
}

}  // namespace trib::privacy
