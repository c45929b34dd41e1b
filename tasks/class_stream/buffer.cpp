#include "tasks/class_stream/buffer.h"

#include <spdlog/fmt/fmt.h>

#include <cmath>

#include "common/random.h"
#include "kernels/gemm.h"

namespace trib::tasks::class_stream {
namespace {

constexpr std::uint64_t buffer_stream = 0x6275'6666'6572;  // of the seed; "buffer"

}  // namespace

Buffer::Buffer(kernels::Stream& stream, std::int64_t input_width, std::int64_t width, std::uint64_t seed)
    : input_width_(input_width) {
  if (width == 0) return;
  const RandomKey key = RandomKey::from_seed(seed, buffer_stream);
  layer_ = std::make_shared<const kernels::RandomFeatures>(stream, key.bytes(), 0, input_width, width);
  stream.synchronize();  // others use it on streams of their own
}

void Buffer::set_center(kernels::Stream& stream, const HostTensor& center) {
  center_ = kernels::Tensor::from_host(stream, HostTensor::from_f32({1, width()}, center.as<float>()));
}

kernels::Tensor Buffer::apply(kernels::Stream& stream, const kernels::Tensor& inputs) const {
  if (!layer_ && !has_center()) return inputs;
  const std::int64_t records = inputs.dim(0);
  kernels::Tensor features(stream.device(), DType::f32, {records, width()});
  if (layer_) {
    layer_->apply(stream, inputs, features);
  } else {
    features.copy_from(stream, inputs);
  }
  if (has_center()) {
    const std::vector<float> ones(static_cast<std::size_t>(records), 1.0f);
    const kernels::Tensor column = kernels::Tensor::from_host(stream, HostTensor::from_f32({1, records}, ones));
    kernels::matmul_transposed(stream, -1.0f, kernels::MatrixView(column), kernels::MatrixView(center_), true,
                               kernels::MatrixView(features));
  }
  return features;
}

Sha256 Buffer::identity(kernels::Stream& stream, const std::string& items) const {
  Sha256Hasher hasher;
  hasher.update(fmt::format("analytic_cil {}:{} {} {} ", items.size(), items, input_width_, width()));
  if (layer_) hasher.update(std::as_bytes(layer_->weights().to_host(stream).bytes()));
  return hasher.finish();
}

Result<Buffer> shared_buffer(kernels::Stream& stream, const Config& config, std::int64_t input_width,
                             SharedResources& shared) {
  const std::string key = fmt::format("analytic_cil/buffer/{}/{}/{}/{}", input_width, config.buffer_width,
                                      config.buffer_seed, fmt::ptr(&stream.device()));
  using Made = Result<std::shared_ptr<Buffer>>;
  TRIB_ASSIGN(const std::shared_ptr<Buffer> buffer, shared.get<Buffer>(key, [&]() -> Made {
    return std::make_shared<Buffer>(stream, input_width, config.buffer_width, config.buffer_seed);
  }));
  return *buffer;
}

Status check_features(kernels::Stream& stream, const Config& config, const ItemFeatures& items, const Buffer& buffer) {
  if (!config.features_sha256) return {};
  const Sha256 own = buffer.identity(stream, items.identity());
  if (own == *config.features_sha256) return {};
  return Error{Errc::unsupported,
               fmt::format("the features here are not the job's: they are {} (SHA-256 {}), and the job names {} "
                           "(features.sha256). Sums of different features have no meaning; install the backbone and "
                           "the version that the job was submitted with",
                           items.identity(), to_hex(own), to_hex(*config.features_sha256))};
}

kernels::Tensor clip_rows(kernels::Stream& stream, const kernels::Tensor& features, double clip_norm,
                          privacy::Clipping rule) {
  HostTensor rows = features.to_host(stream);
  const auto width = static_cast<std::size_t>(features.dim(1));
  const std::span<float> values = rows.as<float>();
  constexpr double stability = 0.01;
  for (std::size_t first = 0; first < values.size(); first += width) {
    const std::span<float> row = values.subspan(first, width);
    double squared = 0.0;
    for (const float value : row) squared += static_cast<double>(value) * static_cast<double>(value);
    const double norm = std::sqrt(squared);
    double factor = 0.0;  // of features that are not finite: the record is left out, which clipping allows
    if (std::isfinite(norm)) {
      factor = rule == privacy::Clipping::automatic ? clip_norm / (norm + stability)
                                                    : (norm > clip_norm ? clip_norm / norm : 1.0);
    }
    for (float& value : row) value = factor == 0.0 ? 0.0f : static_cast<float>(factor * static_cast<double>(value));
  }
  return kernels::Tensor::from_host(stream, rows);
}

}  // namespace trib::tasks::class_stream
