#include "tasks/features/image_extractor.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "kernels/lanes.h"
#include "models/image_encoder.h"

namespace trib::tasks::features {
namespace {

class ImageExtractor final : public FeatureExtractor {
 public:
  ImageExtractor(std::unique_ptr<models::ImageEncoder> encoder, std::string identity)
      : encoder_(std::move(encoder)), identity_(std::move(identity)), host_(kernels::cpu_device().make_stream()) {}

  ItemKind kind() const override { return ItemKind::image; }
  std::int64_t width() const override { return encoder_->width(); }
  const std::string& identity() const override { return identity_; }

  Result<HostTensor> extract(std::span<const Item> items, Progress& progress) override {
    HostTensor all(DType::f32, {static_cast<std::int64_t>(items.size()), width()});
    auto place = all.as<float>().begin();
    const auto at_once = static_cast<std::size_t>(encoder_->suggested_batch());
    for (std::size_t first = 0; first < items.size(); first += at_once) {
      if (progress.cancelled()) return Error{Errc::cancelled, "the extraction was cancelled"};
      progress.fraction("features", static_cast<double>(first) / static_cast<double>(items.size()));
      TRIB_ASSIGN(const HostTensor pixels, read(items.subspan(first, std::min(at_once, items.size() - first))));
      place = std::ranges::copy(encoder_->features(pixels).as<float>(), place).out;
    }
    progress.fraction("features", 1.0);
    return all;
  }

 private:
  // Reads, resizes and normalizes on all threads of the CPU. Of several errors, the first item's is given.
  Result<HostTensor> read(std::span<const Item> items) const {
    const models::ImageProcessor& processor = encoder_->processor();
    const std::int64_t size = processor.size;
    HostTensor pixels(DType::f32, {static_cast<std::int64_t>(items.size()), size, size, 3});
    const auto values = static_cast<std::size_t>(size * size * 3);
    const int lanes =
        static_cast<int>(std::min<std::size_t>(items.size(), static_cast<std::size_t>(kernels::lane_count(*host_))));
    std::vector<std::optional<Error>> errors(items.size());
    kernels::for_each_lane(*host_, lanes, [&](kernels::Stream&, int lane) {
      for (auto i = static_cast<std::size_t>(lane); i < items.size(); i += static_cast<std::size_t>(lanes)) {
        const Result<models::Image> image = models::read_image(items[i].image);
        const Status done =
            image ? processor.apply(*image, pixels.as<float>().subspan(i * values, values)) : Status(image.error());
        if (!done) errors[i] = done.error().with_context(items[i].name);
      }
    });
    for (const std::optional<Error>& error : errors)
      if (error) return *error;
    return pixels;
  }

  std::unique_ptr<models::ImageEncoder> encoder_;
  std::string identity_;
  std::unique_ptr<kernels::Stream> host_;
};

}  // namespace

Result<std::shared_ptr<FeatureExtractor>> load_image_extractor(const BaseModel& backbone, const FeaturesConfig& config,
                                                               kernels::Device& device) {
  using models::Precision;
  if (config.precision != Precision::fp32 && config.precision != Precision::tf32) {
    return Error{Errc::invalid_argument, "features.precision must be \"fp32\" or \"tf32\" for a backbone of pictures"};
  }
  const bool tf32 = config.precision == Precision::tf32;
  Result<std::unique_ptr<models::ImageEncoder>> encoder =
      models::load_image_encoder(device, backbone.directory, config.image_size,
                                 tf32 ? kernels::Float32Products::tf32 : kernels::Float32Products::exact);
  if (!encoder && encoder.error().code == Errc::invalid_argument && config.image_size > 0)
    return encoder.error().with_context(fmt::format("features.image_size is {}", config.image_size));
  if (!encoder) return encoder.error();
  const std::string identity =
      to_hex(sha256(fmt::format("tributary features 1\nbackbone {}\npixels {}\nprecision {}\n", to_hex(backbone.hash),
                                (*encoder)->processor().description(), tf32 ? "tf32" : "fp32")));
  return std::shared_ptr<FeatureExtractor>(std::make_shared<ImageExtractor>(*std::move(encoder), identity));
}

}  // namespace trib::tasks::features
