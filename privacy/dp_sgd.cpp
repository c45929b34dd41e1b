#include "privacy/dp_sgd.h"

#include <openssl/crypto.h>
#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "common/hash.h"

namespace trib::privacy {
namespace {

constexpr std::uint64_t kNoiseStream = 1;
constexpr std::uint64_t kSamplingStream = 2;

}  // namespace

Subkey::Subkey(const RandomKey& key, std::string_view purpose, const Charge& charge) {
  // Lengths keep two different identities from spelling the same text.
  bytes_ = Sha256Hasher()
               .update(std::as_bytes(key.bytes()))
               .update(fmt::format("tributary {} {}:{} {} {}:{}", purpose, charge.job.size(), charge.job, charge.round,
                                   charge.data_set.size(), charge.data_set))
               .finish();
}

Subkey::~Subkey() {
  OPENSSL_cleanse(bytes_.data(), bytes_.size());
}

PoissonSampler::PoissonSampler(const RandomKey& key, const Charge& charge) : stream_(key, charge) {}

std::vector<std::size_t> PoissonSampler::sample(std::size_t record_count, double sample_rate) {
  std::vector<std::size_t> chosen;
  for (std::size_t i = 0; i < record_count; ++i) {
    if (stream_.bernoulli(sample_rate)) chosen.push_back(i);
  }
  return chosen;
}

PoissonSampler::Stream::~Stream() {
  OPENSSL_cleanse(block_.data(), sizeof(block_));
}

void PoissonSampler::Stream::fill(std::span<std::uint8_t> bytes) {
  while (!bytes.empty()) {
    if (consumed_ == sizeof(block_)) {
      chacha20_block(key_.bytes(), counter_++, kSamplingStream, block_);
      consumed_ = 0;
    }
    const std::size_t count = std::min(bytes.size(), sizeof(block_) - consumed_);
    std::memcpy(bytes.data(), reinterpret_cast<const std::uint8_t*>(block_.data()) + consumed_, count);
    consumed_ += count;
    bytes = bytes.subspan(count);
  }
}

GradientSum::GradientSum(const RandomKey& key, const Charge& charge)
    : mechanism_(charge.mechanism),
      expected_batch_(charge.mechanism.sample_rate * static_cast<double>(charge.declared_records)),
      noise_key_(key, "noise", charge) {}

void GradientSum::reset(kernels::Stream& stream, const std::vector<kernels::Tensor>& parameters) {
  const bool fits = std::equal(parameters.begin(), parameters.end(), tensors_.begin(), tensors_.end(),
                               [](const kernels::Tensor& parameter, const kernels::Tensor& sum) {
                                 return parameter.shape() == sum.shape() && &parameter.device() == &sum.device();
                               });
  if (fits) {
    for (const kernels::Tensor& sum : tensors_) sum.zero(stream);
    return;
  }
  tensors_.clear();
  for (const kernels::Tensor& parameter : parameters) {
    tensors_.push_back(kernels::Tensor::zeros(stream, DType::f32, parameter.shape()));
  }
}

std::int64_t GradientSum::add_clipped(kernels::Stream& stream, const kernels::PerSampleGradients& gradients) {
  // A tensor that the clip does not see would leave unbounded.
  bool fits = gradients.tensors.size() == tensors_.size();
  for (std::size_t t = 0; fits && t < tensors_.size(); ++t) fits = gradients.tensors[t].shape == tensors_[t].shape();
  if (!fits) throw std::invalid_argument("per-sample gradients do not have the parameters' number and shapes");

  kernels::Device& device = stream.device();
  const kernels::Tensor squared_norms(device, DType::f32, {gradients.sample_count});
  const kernels::Tensor factors(device, DType::f32, {gradients.sample_count});
  kernels::joint_squared_norms(stream, gradients, squared_norms);
  kernels::clip_factors(stream, squared_norms, mechanism_.clip_norm, kernels::ClippingRule::flat, 0.0, factors);
  kernels::add_weighted_sum(stream, gradients, factors, tensors_);
  const HostTensor on_host = factors.to_host(stream);
  return std::ranges::count_if(on_host.as<float>(), [](float factor) { return factor < 1.0f; });
}

void GradientSum::finish(kernels::Stream& stream) {
  for (const kernels::Tensor& sum : tensors_) {
    if (mechanism_.kind != MechanismKind::none) {
      noise_counter_ = kernels::add_gaussian_noise(stream, mechanism_.noise_multiplier * mechanism_.clip_norm,
                                                   noise_key_.bytes(), kNoiseStream, noise_counter_, sum);
    }
    kernels::scale(stream, 1.0 / expected_batch_, sum);
  }
}

}  // namespace trib::privacy
