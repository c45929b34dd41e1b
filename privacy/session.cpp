#include "privacy/session.h"

#include <spdlog/fmt/fmt.h>

#include <cmath>

namespace trib::privacy {

struct PrivacySession::Impl {
  Impl(const Charge& paid, const RandomKey& key, const Clock& given_clock)
      : clock(given_clock), charge(paid), steps_left(paid.mechanism.steps), sampler(key, paid), sum(key, paid) {}

  const Clock& clock;
  MonotonicTime step_began{};
  Charge charge;
  std::int64_t steps_left;
  bool contributed = false;
  PoissonSampler sampler;
  GradientSum sum;
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

GradientSum& PrivacySession::gradient_sum() {
  return impl_->sum;
}

PendingStep PrivacySession::pending_step(kernels::Stream& stream, std::size_t sample_count) {
  PendingStep pending;
  pending.numbers_ = impl_->sum.numbers(stream);
  pending.known_.step = impl_->charge.mechanism.steps - impl_->steps_left;
  pending.known_.sample_count = static_cast<std::int64_t>(sample_count);
  pending.clock_ = &impl_->clock;
  pending.began_ = impl_->step_began;
  return pending;
}

StepReport PendingStep::report() const {
  StepReport report = known_;
  const double loss = numbers_.loss();
  const std::int64_t clipped = numbers_.clipped_count();
  report.seconds = std::chrono::duration<double>(clock_->now() - began_).count();
  if (report.sample_count > 0) {
    report.mean_loss = loss / static_cast<double>(report.sample_count);
    report.clipped_fraction = static_cast<double>(clipped) / static_cast<double>(report.sample_count);
  }
  return report;
}

Result<Contribution> PrivacySession::contribute(TensorMap tensors, double weight) {
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
