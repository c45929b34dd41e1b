#include "privacy/dp_sgd.h"

#include <openssl/crypto.h>
#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "common/hash.h"
#include "kernels/grid.h"

namespace trib::privacy {
namespace {

constexpr std::uint64_t kNoiseStream = 1;
constexpr std::uint64_t kSamplingStream = 2;
constexpr double kAutomaticStability = 0.01;
// Tensors begin at multiples of so many coordinates: on 64 bytes, where vector loads may begin. The noise falls on the
// gaps too, which nobody reads.
constexpr std::int64_t kPlace = 16;

// Breaches of the mechanism, on which tests/privacy proves that its falsification tests see them. They are compiled
// into that folder's own variants of this file and nowhere else.
#if defined(TRIB_MUTATE_NOISE)
constexpr double kNoiseScale = 0.9;
#else
constexpr double kNoiseScale = 1.0;
#endif
#if defined(TRIB_MUTATE_SKIP_CLIP)
kernels::Tensor mutate_one_in_a_hundred(kernels::Stream& stream, const kernels::Tensor& factors) {
  static ChaCha20Random random(RandomKey::from_seed(7));
  HostTensor mutated = factors.to_host(stream);
  for (float& factor : mutated.as<float>()) {
    if (random.below(100) == 0) factor = 1.0f;
  }
  return kernels::Tensor::from_host(stream, mutated);
}
#endif

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

NoiseGrid noise_grid(const Mechanism& mechanism, std::int64_t coordinates) {
  if (coordinates < 1 || coordinates > std::int64_t{1} << 40) {
    throw std::invalid_argument(fmt::format("a sum has 1 to 2^40 coordinates, not {}", coordinates));
  }
  const double sigma = mechanism.noise_multiplier * kNoiseScale;
  // The finest grid on which C, times C/γ ≤ 2^22, still fits: 2^k = sigma·(C/γ + √d/2).
  NoiseGrid grid;
  grid.log2_stddev = std::ilogb(sigma * static_cast<double>(kernels::max_grid_coordinate));
  grid.spacing = sigma * mechanism.clip_norm /
                 (std::ldexp(1.0, grid.log2_stddev) - sigma * 0.5 * std::sqrt(static_cast<double>(coordinates)));
  return grid;
}

void GradientSum::reset(kernels::Stream& stream, const std::vector<Shape>& shapes) {
  exact_.clear();
  const bool fits = std::ranges::equal(shapes, tensors_, [&](const Shape& shape, const kernels::Tensor& sum) {
    return shape == sum.shape() && &stream.device() == &sum.device();
  });
  if (!fits || !loss_.defined()) {
    tensors_.clear();
    sums_.clear();
    places_.clear();
    std::int64_t coordinates = 0, size = 0;
    for (const Shape& shape : shapes) {
      places_.push_back(size);
      coordinates += element_count(shape);
      size += (element_count(shape) + kPlace - 1) / kPlace * kPlace;
    }
    all_ = kernels::Tensor(stream.device(), DType::f32, {size});
    if (is_on_grid()) grid_ = kernels::Tensor(stream.device(), DType::i64, {size});
    for (std::size_t t = 0; t < shapes.size(); ++t) {
      const std::int64_t count = element_count(shapes[t]);
      tensors_.push_back(all_.rows(places_[t], count).reshape(shapes[t]));
      if (is_on_grid()) sums_.push_back(grid_.rows(places_[t], count).reshape(shapes[t]));
    }
    clipped_ = kernels::Tensor(stream.device(), DType::i64, {1});
    loss_ = kernels::Tensor(stream.device(), DType::f64, {1});
    if (is_on_grid()) noise_grid_ = noise_grid(mechanism_, coordinates);
  }
  (is_on_grid() ? grid_ : all_).zero(stream);
  clipped_.zero(stream);
  loss_.zero(stream);
}

void GradientSum::check_fit(const kernels::PerSampleGradients& gradients) const {
  // A tensor that the clip does not see would leave unbounded.
  bool fits = gradients.tensors.size() == tensors_.size();
  for (std::size_t t = 0; fits && t < tensors_.size(); ++t) fits = gradients.tensors[t].shape == tensors_[t].shape();
  if (!fits) throw std::invalid_argument("per-sample gradients do not have the parameters' number and shapes");
}

void GradientSum::add_clipped(kernels::Stream& stream, const kernels::PerSampleGradients& gradients) {
  check_fit(gradients);
  kernels::Device& device = stream.device();
  const kernels::Tensor squared_norms(device, DType::f32, {gradients.sample_count});
  kernels::Tensor factors(device, DType::f32, {gradients.sample_count});
  kernels::joint_squared_norms(stream, gradients, squared_norms);
  kernels::clip_factors(
      stream, squared_norms, mechanism_.clip_norm,
      mechanism_.clipping == Clipping::flat ? kernels::ClippingRule::flat : kernels::ClippingRule::automatic,
      kAutomaticStability, factors);
#if defined(TRIB_MUTATE_SKIP_CLIP)
  factors = mutate_one_in_a_hundred(stream, factors);
#endif
  if (is_on_grid()) {
    kernels::add_rounded_sum(stream, gradients, factors, noise_grid_.spacing, sums_);
  } else {
    kernels::add_weighted_sum(stream, gradients, factors, tensors_);
  }
  kernels::add_count_below(stream, factors, 1.0f, clipped_);
  if (gradients.losses.defined()) kernels::add_sum(stream, gradients.losses, loss_);
}

StepNumbers GradientSum::numbers(kernels::Stream& stream) const {
  StepNumbers numbers;
  numbers.loss_ = loss_.read(stream);
  numbers.clipped_ = clipped_.read(stream);
  return numbers;
}

bool StepNumbers::ready() const {
  return loss_->ready() && clipped_->ready();
}

double StepNumbers::loss() const {
  double value;
  std::memcpy(&value, loss_->bytes().data(), sizeof value);
  return value;
}

std::int64_t StepNumbers::clipped_count() const {
  std::int64_t value;
  std::memcpy(&value, clipped_->bytes().data(), sizeof value);
  return value;
}

void GradientSum::add_unclipped(kernels::Stream& stream, const kernels::PerSampleGradients& gradients) {
  check_fit(gradients);
  const std::vector<float> ones(static_cast<std::size_t>(gradients.sample_count), 1.0f);
  all_.zero(stream);
  kernels::add_weighted_sum(stream, gradients, kernels::Tensor::from_host(stream, std::span<const float>(ones)),
                            tensors_);
  // Micro-batches in float64: a count goes on beyond 2^24.
  const HostTensor part = all_.to_host(stream);
  for (std::size_t t = 0; t < tensors_.size(); ++t) {
    if (exact_.size() == t) exact_.emplace_back(DType::f64, tensors_[t].shape());
    const auto to = exact_[t].as<double>();
    const auto from = part.as<float>().subspan(static_cast<std::size_t>(places_[t]), to.size());
    for (std::size_t i = 0; i < from.size(); ++i) to[i] += static_cast<double>(from[i]);
  }
}

void GradientSum::add_noise(kernels::Stream& stream) {
  if (mechanism_.kind == MechanismKind::none) return;
  if (is_on_grid()) {
    noise_counter_ = kernels::add_discrete_gaussian_noise(stream, noise_grid_.log2_stddev, noise_key_.bytes(),
                                                          kNoiseStream, noise_counter_, grid_);
    return;
  }
  const double stddev = mechanism_.noise_multiplier * kNoiseScale * mechanism_.clip_norm;
  noise_counter_ = kernels::add_gaussian_noise(stream, stddev, noise_key_.bytes(), kNoiseStream, noise_counter_, all_);
}

void GradientSum::gather(kernels::Collective& collective, const std::vector<GradientSum*>& parts) {
  std::vector<std::vector<kernels::Tensor>> tensors;
  for (const GradientSum* part : parts) {
    tensors.push_back({part->is_on_grid() ? part->grid_ : part->all_, part->clipped_, part->loss_});
  }
  collective.add_to_first(tensors);
}

void GradientSum::share_mean(kernels::Collective& collective, const std::vector<GradientSum*>& parts) {
  std::vector<std::vector<kernels::Tensor>> tensors;
  for (const GradientSum* part : parts) tensors.push_back({part->all_});
  collective.copy_from_first(tensors);
}

void GradientSum::finish_mean(kernels::Stream& stream) {
  add_noise(stream);
  if (is_on_grid()) {
    kernels::scale_grid(stream, noise_grid_.spacing / expected_batch_, grid_, all_);
  } else {
    kernels::scale(stream, 1.0 / expected_batch_, all_);
  }
}

std::vector<HostTensor> GradientSum::finish_sum(kernels::Stream& stream) {
  if (mechanism_.kind == MechanismKind::none && !exact_.empty()) return std::exchange(exact_, {});
  add_noise(stream);
  HostTensor all;
  if (is_on_grid()) {
    const kernels::Tensor scaled(stream.device(), DType::f64, grid_.shape());
    kernels::scale_grid(stream, noise_grid_.spacing, grid_, scaled);
    all = scaled.to_host(stream);
  } else {
    const HostTensor narrow = all_.to_host(stream);
    all = HostTensor(DType::f64, narrow.shape());
    std::ranges::copy(narrow.as<float>(), all.as<double>().begin());
  }
  std::vector<HostTensor> sums;
  for (std::size_t t = 0; t < tensors_.size(); ++t) {
    const auto to = sums.emplace_back(DType::f64, tensors_[t].shape()).as<double>();
    std::ranges::copy(all.as<double>().subspan(static_cast<std::size_t>(places_[t]), to.size()), to.begin());
  }
  return sums;
}

}  // namespace trib::privacy
