#include "privacy/session.h"

#include <spdlog/fmt/fmt.h>

#include <atomic>
#include <cmath>
#include <deque>
#include <limits>
#include <optional>

#include "common/log.h"

namespace trib::privacy {

struct PendingStep::Step {
  StepReport known;  // but for what the device counted
  MonotonicTime began{};
  StepNumbers numbers;
  bool complete = false;  // all of it was submitted, `numbers` too
};

struct PendingStep::Round {
  explicit Round(const Clock& given_clock, const Charge& charge)
      : clock(given_clock), job(charge.job), number(charge.round), steps(charge.mechanism.steps) {}

  // Waits for the losses of the steps up to this one and looks at them.
  void look_at(std::int64_t last_step) {
    while (!unseen.empty() && unseen.front()->known.step <= last_step) {
      const Step& step = *unseen.front();
      if (!step.complete) {
        abandon(step.known.step, Error{Errc::unavailable, fmt::format("step {} of {} failed in its update, so the "
                                                                      "round is abandoned",
                                                                      step.known.step, steps)});
      } else if (const double loss = step.numbers.loss(); !std::isfinite(loss)) {
        abandon(step.known.step,
                Error{Errc::invalid_argument,
                      fmt::format("step {} of {}: the loss is {}, not a finite number, so the round is abandoned. Look "
                                  "at the learning rate (a smaller one), the precision (fp32 instead of a narrower "
                                  "one), and whether the model as it came, base and adapter, gives finite outputs here",
                                  step.known.step, steps, loss)});
      }
      unseen.pop_front();
    }
  }
  // The first reason stays.
  void abandon(std::int64_t step, Error reason) {
    if (abandoned_at) return;
    abandoned_at = step;
    why = std::move(reason);
  }
  Error is_abandoned() const {
    return {Errc::limit_exceeded,
            fmt::format("round {} of job '{}' was abandoned at step {}", number, job, abandoned_at.value_or(0))};
  }

  const Clock& clock;
  std::string job;
  std::int64_t number, steps;
  std::deque<std::shared_ptr<Step>> unseen;  // that had an effect, and whose losses nobody has looked at, in order
  std::optional<std::int64_t> abandoned_at;
  Error why;  // where it was abandoned
};

bool PendingStep::ready() const {
  return step_->complete && step_->numbers.ready();
}

Result<StepReport> PendingStep::report() const {
  const std::int64_t number = step_->known.step;
  round_->look_at(number);
  if (round_->abandoned_at == number) return round_->why;
  if (round_->abandoned_at && *round_->abandoned_at < number) return round_->is_abandoned();
  StepReport report = step_->known;
  const std::int64_t clipped = step_->numbers.clipped_count();
  report.seconds = std::chrono::duration<double>(round_->clock.now() - step_->began).count();
  if (report.sample_count > 0) {
    report.mean_loss = step_->numbers.loss() / static_cast<double>(report.sample_count);
    report.clipped_fraction = static_cast<double>(clipped) / static_cast<double>(report.sample_count);
  }
  return report;
}

struct PrivacySession::Impl {
  Impl(const Charge& paid, const RandomKey& key, const Clock& given_clock)
      : clock(given_clock),
        charge(paid),
        steps_left(paid.mechanism.steps),
        random_key(key),
        sampler(key, paid),
        round(std::make_shared<PendingStep::Round>(given_clock, paid)) {
    sums.emplace_back(key, paid);
  }

  const Clock& clock;
  MonotonicTime step_began{};
  Charge charge;
  std::int64_t steps_left;
  bool contributed = false;
  RandomKey random_key;
  PoissonSampler sampler;
  std::shared_ptr<PendingStep::Round> round;
  std::deque<GradientSum> sums;  // of each replica; noise is added to the first
  std::atomic<std::size_t> largest_micro_batch{std::numeric_limits<std::size_t>::max()};
};

PrivacySession::PrivacySession(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
PrivacySession::PrivacySession(PrivacySession&&) noexcept = default;
PrivacySession& PrivacySession::operator=(PrivacySession&&) noexcept = default;
PrivacySession::~PrivacySession() = default;

Result<PrivacySession> PrivacySession::open(Ledger& ledger, const Charge& charge, bool allow_non_private,
                                            const RandomKey& random_key, const Clock& clock) {
  if (charge.mechanism.kind == MechanismKind::none && !allow_non_private) {
    return Error{
        Errc::permission_denied,
        fmt::format("job '{}' would read data set '{}' without privacy, which this site's configuration does not "
                    "allow; the job can ask for differential privacy, or the site's owner can allow it",
                    charge.job, charge.data_set)};
  }
  TRIB_TRY(ledger.charge(charge));
  TRIB_FAILPOINT("session.after_charge");
  return PrivacySession(std::make_unique<Impl>(charge, random_key, clock));
}

const Charge& PrivacySession::charge() const {
  return impl_->charge;
}

bool PrivacySession::is_private() const {
  return impl_->charge.mechanism.kind != MechanismKind::none;
}

std::int64_t PrivacySession::steps_left() const {
  return impl_->steps_left;
}

Status PrivacySession::check_is_whole_sum() const {
  if (impl_->charge.mechanism.sample_rate == 1.0) return {};
  return Error{Errc::invalid_argument,
               fmt::format("a sum over all records needs a charge with sample_rate 1, but round {} of job '{}' was "
                           "charged with {}",
                           impl_->charge.round, impl_->charge.job, impl_->charge.mechanism.sample_rate)};
}

Result<std::vector<std::size_t>> PrivacySession::begin_step(std::size_t record_count) {
  if (impl_->round->abandoned_at) return impl_->round->is_abandoned();
  if (impl_->contributed || impl_->steps_left == 0) {
    return Error{Errc::limit_exceeded,
                 fmt::format("round {} of job '{}' has no step left: {} were charged, and {}", impl_->charge.round,
                             impl_->charge.job, impl_->charge.mechanism.steps,
                             impl_->contributed ? "the round's contribution was made" : "all were taken")};
  }
  --impl_->steps_left;
  impl_->step_began = impl_->clock.now();
  std::vector<std::size_t> chosen = impl_->sampler.sample(record_count, impl_->charge.mechanism.sample_rate);
  TRIB_FAILPOINT("session.after_sample");
  return chosen;
}

GradientSum& PrivacySession::gradient_sum(std::size_t replica) {
  while (impl_->sums.size() <= replica) impl_->sums.emplace_back(impl_->random_key, impl_->charge);
  return impl_->sums[replica];
}

std::size_t PrivacySession::largest_micro_batch() const {
  return impl_->largest_micro_batch;
}

std::size_t PrivacySession::halve_micro_batch(kernels::Stream& stream, std::size_t failed) {
  stream.device().trim();
  const std::size_t half = (failed + 1) / 2;
  std::size_t known = impl_->largest_micro_batch;
  while (half < known && !impl_->largest_micro_batch.compare_exchange_weak(known, half)) {
  }
  spdlog::warn("{} has no memory for {} records at once: going on with {}", stream.device().name(), failed, half);
  return half;
}

PendingStep PrivacySession::pending_step(std::size_t sample_count) {
  auto step = std::make_shared<PendingStep::Step>();
  step->known.step = impl_->charge.mechanism.steps - impl_->steps_left;
  step->known.sample_count = static_cast<std::int64_t>(sample_count);
  step->began = impl_->step_began;
  impl_->round->unseen.push_back(step);
  return PendingStep(impl_->round, step);
}

void PrivacySession::complete(const PendingStep& pending, const GradientSum& sum, kernels::Stream& stream,
                              std::size_t micro_batch) {
  pending.step_->numbers = sum.numbers(stream);
  pending.step_->known.micro_batch = static_cast<std::int64_t>(std::min(micro_batch, largest_micro_batch()));
  pending.step_->complete = true;
}

Result<Contribution> PrivacySession::contribute(TensorMap tensors, double weight) {
  PendingStep::Round& round = *impl_->round;
  if (!round.abandoned_at && !round.unseen.empty()) {
    const std::int64_t step = round.unseen.front()->known.step;
    round.abandon(step, Error{Errc::internal, fmt::format("step {} of {} of round {} of job '{}' was submitted and its "
                                                          "loss never looked at: the round is abandoned. Ask every "
                                                          "step for its report before the contribution",
                                                          step, round.steps, round.number, round.job)});
    return round.why;
  }
  if (round.abandoned_at) return round.is_abandoned();
  if (impl_->contributed) {
    return Error{Errc::limit_exceeded, fmt::format("round {} of job '{}' made its contribution before",
                                                   impl_->charge.round, impl_->charge.job)};
  }
  if (!(weight > 0.0 && std::isfinite(weight))) {
    return Error{Errc::invalid_argument,
                 fmt::format("a contribution's weight must be above 0 and finite, but is {}", weight)};
  }
  for (auto& [name, tensor] : tensors) {
    if (tensor.dtype() == DType::f32) {
      for (float& value : tensor.as<float>()) value = static_cast<float>(weight * static_cast<double>(value));
    } else if (tensor.dtype() == DType::f64) {
      for (double& value : tensor.as<double>()) value *= weight;
    } else {
      return Error{Errc::invalid_argument, fmt::format("tensor '{}' is {}, but what is summed must be F32 or F64", name,
                                                       to_string(tensor.dtype()))};
    }
  }
  if (const Status finite = tensors.check_finite(); !finite) {
    return finite.error().with_context("the contribution cannot be sent; lower the learning rate");
  }
  impl_->contributed = true;
  TRIB_FAILPOINT("session.after_contribute");
  return Contribution(std::move(tensors), weight, is_private());
}

Contribution PrivacySession::restore(TensorMap tensors, double weight, bool is_private) {
  return {std::move(tensors), weight, is_private};
}

}  // namespace trib::privacy
