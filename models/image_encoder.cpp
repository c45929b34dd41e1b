#include "models/image_encoder.h"

#include <spdlog/fmt/fmt.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/json/object.hpp>
#include <new>
#include <utility>

#include "kernels/lanes.h"
#include "models/json_file.h"
#include "models/squeezenet.h"
#include "models/vit.h"

namespace trib::models {

using kernels::Stream;
using kernels::Tensor;
using kernels::Workspace;

struct ImageEncoder::Lane {
  explicit Lane(kernels::Device& device) : workspace(device) {}
  Workspace workspace;
};
void ImageEncoder::LaneDeleter::operator()(Lane* lane) const {
  delete lane;
}

ImageEncoder::ImageEncoder(kernels::Device& device, ImageProcessor processor, std::int64_t images_at_once)
    : stream_(device.make_stream()), processor_(processor), images_at_once_(images_at_once) {}

std::int64_t ImageEncoder::suggested_batch() const {
  return 4 * images_at_once_ * kernels::lane_count(*stream_);
}

HostTensor ImageEncoder::features(const HostTensor& pixels) {
  const std::int64_t size = processor_.size, count = pixels.shape().front(), values = size * size * 3;
  if (pixels.element_count() != count * values || pixels.dtype() != DType::f32)
    throw std::invalid_argument("features: pixels " + to_string(pixels.shape()) + " are not those of the processor");
  for (;;) {
    try {
      const Tensor out(stream_->device(), DType::f32, {count, width()});
      const std::int64_t chunks = (count + images_at_once_ - 1) / images_at_once_;
      const int lane_count = static_cast<int>(std::min<std::int64_t>(chunks, kernels::lane_count(*stream_)));
      while (static_cast<int>(lanes_.size()) < lane_count) lanes_.emplace_back(new Lane(stream_->device()));
      kernels::for_each_lane(*stream_, lane_count, [&](Stream& lane_stream, int index) {
        Workspace& workspace = lanes_[static_cast<std::size_t>(index)]->workspace;
        for (std::int64_t chunk = index; chunk < chunks; chunk += lane_count) {
          const std::int64_t first = chunk * images_at_once_, images = std::min(images_at_once_, count - first);
          HostTensor part(DType::f32, {images * size * size, 3});
          std::ranges::copy(pixels.as<float>().subspan(static_cast<std::size_t>(first * values),
                                                       static_cast<std::size_t>(images * values)),
                            part.as<float>().begin());
          workspace.reset();
          const Tensor x = workspace.take(DType::f32, part.shape());
          x.copy_from_host(lane_stream, part);
          forward(lane_stream, workspace, x, images, out.rows(first, images));
        }
      });
      return out.to_host(*stream_);
    } catch (const std::bad_alloc&) {
      lanes_.clear();
      stream_->device().trim();
      if (images_at_once_ <= 1) throw;
      images_at_once_ /= 2;
      spdlog::warn("{} ran out of memory: going on with {} pictures at once", stream_->device().name(),
                   images_at_once_);
    }
  }
}

HostTensor window_weights(const HostTensor& weights) {
  const Shape& shape = weights.shape();
  const std::int64_t outputs = shape[0], channels = shape[1], pixels = shape[2] * shape[3];
  HostTensor result(DType::f32, {pixels * channels, outputs});
  const std::span<const float> from = weights.as<float>();
  const std::span<float> to = result.as<float>();
  for (std::int64_t o = 0; o < outputs; ++o)
    for (std::int64_t c = 0; c < channels; ++c)
      for (std::int64_t p = 0; p < pixels; ++p)
        to[static_cast<std::size_t>((p * channels + c) * outputs + o)] =
            from[static_cast<std::size_t>((o * channels + c) * pixels + p)];
  return result;
}

Result<std::unique_ptr<ImageEncoder>> load_image_encoder(kernels::Device& device,
                                                         const std::filesystem::path& directory,
                                                         std::int64_t image_size, kernels::Float32Products products) {
  const std::filesystem::path path = directory / "config.json";
  TRIB_ASSIGN(const boost::json::object config, read_json_object(path));
  TRIB_ASSIGN(ImageProcessor processor, ImageProcessor::read(directory));
  if (image_size > 0) processor = processor.with_size(image_size);
  const std::string type = text_at(config, "model_type");
  if (type == "squeezenet") return load_squeezenet(device, directory, processor, products);
  if (type == "vit") return load_vit(device, directory, processor, products);
  return Error{Errc::unsupported, fmt::format("{}: \"model_type\" is \"{}\"; pictures go through \"squeezenet\" or "
                                              "\"vit\"",
                                              path.native(), type)};
}

}  // namespace trib::models
