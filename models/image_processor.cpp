#include "models/image_processor.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <cmath>
#include <vector>

#include "models/json_file.h"

namespace trib::models {
namespace {

double triangle(double x) {
  return std::max(0.0, 1.0 - std::abs(x));
}
double cubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
  return 0.0;
}

// A picture that is resized by its shorter side keeps a longer side of at most so many times that.
constexpr std::int64_t most_sides_apart = 64;

// The source pixels that make one target pixel, with weights in fixed point that add up to about 1.
constexpr int fraction_bits = 22;
struct Share {
  std::int64_t first = 0;
  std::vector<std::int64_t> weights;
};

std::vector<Share> shares(std::int64_t from, std::int64_t to, Resampling resampling) {
  const double step = static_cast<double>(from) / static_cast<double>(to), widening = std::max(step, 1.0),
               support = (resampling == Resampling::bilinear ? 1.0 : 2.0) * widening;
  std::vector<Share> result(static_cast<std::size_t>(to));
  for (std::int64_t i = 0; i < to; ++i) {
    const double center = (static_cast<double>(i) + 0.5) * step;
    const auto first = std::max<std::int64_t>(0, static_cast<std::int64_t>(center - support + 0.5)),
               last = std::min<std::int64_t>(from, static_cast<std::int64_t>(center + support + 0.5));
    std::vector<double> weights;
    double sum = 0.0;
    for (std::int64_t j = first; j < last; ++j) {
      const double distance = (static_cast<double>(j) - center + 0.5) * (1.0 / widening);
      weights.push_back(resampling == Resampling::bilinear ? triangle(distance) : cubic(distance));
      sum += weights.back();
    }
    Share& share = result[static_cast<std::size_t>(i)];
    share.first = first;
    for (const double weight : weights) {
      const double scaled = weight / sum * static_cast<double>(1 << fraction_bits);
      share.weights.push_back(static_cast<std::int64_t>(scaled < 0.0 ? scaled - 0.5 : scaled + 0.5));
    }
  }
  return result;
}

// `lines` lines of `from` pixels become lines of `shares.size()`; a pixel's neighbours in a line are `pixel` bytes
// apart, lines `line` bytes.
void resample(const std::uint8_t* from, std::int64_t from_pixel, std::int64_t from_line,
              const std::vector<Share>& shares, std::int64_t lines, std::uint8_t* to, std::int64_t to_pixel,
              std::int64_t to_line) {
  for (std::int64_t l = 0; l < lines; ++l)
    for (std::size_t i = 0; i < shares.size(); ++i) {
      const Share& share = shares[i];
      std::int64_t sums[3] = {std::int64_t{1} << (fraction_bits - 1), std::int64_t{1} << (fraction_bits - 1),
                              std::int64_t{1} << (fraction_bits - 1)};
      const std::uint8_t* source = from + l * from_line + share.first * from_pixel;
      for (const std::int64_t weight : share.weights) {
        for (int c = 0; c < 3; ++c) sums[c] += weight * source[c];
        source += from_pixel;
      }
      std::uint8_t* target = to + l * to_line + static_cast<std::int64_t>(i) * to_pixel;
      for (int c = 0; c < 3; ++c)
        target[c] = static_cast<std::uint8_t>(std::clamp<std::int64_t>(sums[c] >> fraction_bits, 0, 255));
    }
}

Error refuse(const std::filesystem::path& path, std::string_view problem) {
  return {Errc::unsupported, fmt::format("{}: {}", path.native(), problem)};
}

Result<std::int64_t> pixels(const boost::json::value& value, std::string_view key, const std::filesystem::path& path) {
  if (value.is_int64() && value.get_int64() >= 1 && value.get_int64() <= 4096) return value.get_int64();
  return corrupt_file(path, fmt::format("\"{}\" must be a number of pixels, 1 to 4096", key));
}

// "size" or "crop_size": a number, or an object with "height" and "width", or with "shortest_edge".
struct Size {
  std::int64_t pixels = 0;
  bool is_shortest_edge = false;
};
Result<Size> size_at(const boost::json::object& config, std::string_view key, const std::filesystem::path& path) {
  const boost::json::value* value = config.if_contains(key);
  if (value == nullptr) return corrupt_file(path, fmt::format("\"{}\" is missing", key));
  Size size;
  if (!value->is_object()) {
    TRIB_ASSIGN(size.pixels, pixels(*value, key, path));
    return size;
  }
  const boost::json::object& object = value->get_object();
  if (const auto* edge = object.if_contains("shortest_edge")) {
    TRIB_ASSIGN(size.pixels, pixels(*edge, key, path));
    size.is_shortest_edge = true;
    return size;
  }
  const boost::json::value *height = object.if_contains("height"), *width = object.if_contains("width");
  if (height == nullptr || width == nullptr)
    return corrupt_file(path, fmt::format("\"{}\" must have \"height\" and \"width\", or \"shortest_edge\"", key));
  TRIB_ASSIGN(size.pixels, pixels(*height, key, path));
  TRIB_ASSIGN(const std::int64_t across, pixels(*width, key, path));
  if (across != size.pixels) return refuse(path, fmt::format("\"{}\" is not square", key));
  return size;
}

bool flag(const boost::json::object& config, std::string_view key, bool fallback) {
  const boost::json::value* value = config.if_contains(key);
  return value != nullptr && value->is_bool() ? value->get_bool() : fallback;
}

Status three_numbers(const boost::json::object& config, std::string_view key, std::array<double, 3>& to,
                     const std::filesystem::path& path) {
  TRIB_ASSIGN(const boost::json::array* values, array_at(config, key, path));
  const bool fits = values->size() == 3 && std::ranges::all_of(*values, [](const boost::json::value& value) {
                      return value.is_number() && std::isfinite(value.to_number<double>());
                    });
  if (!fits) return corrupt_file(path, fmt::format("\"{}\" must be three numbers", key));
  for (std::size_t i = 0; i < 3; ++i) to[i] = (*values)[i].to_number<double>();
  return {};
}

}  // namespace

Image resize(const Image& image, std::int64_t width, std::int64_t height, Resampling resampling) {
  Image across{width, image.height, {}};
  if (width == image.width) {
    across.rgb = image.rgb;
  } else {
    across.rgb.resize(static_cast<std::size_t>(width * image.height * 3));
    resample(image.rgb.data(), 3, image.width * 3, shares(image.width, width, resampling), image.height,
             across.rgb.data(), 3, width * 3);
  }
  if (height == image.height) return across;
  Image result{width, height, {}};
  result.rgb.resize(static_cast<std::size_t>(width * height * 3));
  resample(across.rgb.data(), width * 3, 3, shares(image.height, height, resampling), width, result.rgb.data(),
           width * 3, 3);
  return result;
}

Result<ImageProcessor> ImageProcessor::read(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "preprocessor_config.json";
  TRIB_ASSIGN(const boost::json::object config, read_json_object(path));
  ImageProcessor processor;
  if (!flag(config, "do_resize", true)) return refuse(path, "\"do_resize\" is false; pictures have to get one size");
  TRIB_ASSIGN(const Size size, size_at(config, "size", path));
  processor.resize_to = processor.size = size.pixels;
  processor.keeps_shape = size.is_shortest_edge;
  if (flag(config, "do_center_crop", false)) {
    TRIB_ASSIGN(const Size crop, size_at(config, "crop_size", path));
    processor.size = crop.pixels;
    if (crop.is_shortest_edge || processor.size > processor.resize_to)
      return refuse(path, "\"crop_size\" must be a square that is not larger than \"size\"");
  } else if (processor.keeps_shape) {
    return refuse(path, "\"size\" keeps the picture's shape, and \"do_center_crop\" does not make it square");
  }
  if (const boost::json::value* resample = config.if_contains("resample")) {
    if (!resample->is_int64() || (resample->get_int64() != 2 && resample->get_int64() != 3))
      return refuse(path, "\"resample\" must be 2 (bilinear) or 3 (bicubic)");
    processor.resampling = resample->get_int64() == 2 ? Resampling::bilinear : Resampling::bicubic;
  }
  processor.scale = 1.0;
  if (flag(config, "do_rescale", true)) {
    processor.scale = 1.0 / 255.0;
    if (const boost::json::value* factor = config.if_contains("rescale_factor")) {
      if (!factor->is_number()) return corrupt_file(path, "\"rescale_factor\" must be a number");
      processor.scale = factor->to_number<double>();
    }
  }
  processor.mean = {0, 0, 0};
  processor.deviation = {1, 1, 1};
  if (flag(config, "do_normalize", true)) {
    TRIB_TRY(three_numbers(config, "image_mean", processor.mean, path));
    TRIB_TRY(three_numbers(config, "image_std", processor.deviation, path));
    if (std::ranges::any_of(processor.deviation, [](double value) { return value <= 0.0; }))
      return corrupt_file(path, "\"image_std\" must be above 0");
  }
  processor.blue_first = flag(config, "do_flip_channel_order", false);
  return processor;
}

ImageProcessor ImageProcessor::with_size(std::int64_t pixels) const {
  ImageProcessor other = *this;
  other.resize_to = other.size = pixels;
  other.keeps_shape = false;
  return other;
}

std::string ImageProcessor::description() const {
  return fmt::format(
      "pillow resize 1, {} {} to {}, middle {}, scale {:.17g}, mean {:.17g} {:.17g} {:.17g}, deviation {:.17g} {:.17g} "
      "{:.17g}, {} first",
      resampling == Resampling::bilinear ? "bilinear" : "bicubic", keeps_shape ? "shorter side" : "both sides",
      resize_to, size, scale, mean[0], mean[1], mean[2], deviation[0], deviation[1], deviation[2],
      blue_first ? "blue" : "red");
}

Status ImageProcessor::apply(const Image& image, std::span<float> to) const {
  if (to.size() != static_cast<std::size_t>(size * size * 3))
    throw std::invalid_argument("apply: another size is needed");
  std::int64_t width = resize_to, height = resize_to;
  if (keeps_shape) {
    if (std::max(image.width, image.height) > most_sides_apart * std::min(image.width, image.height)) {
      return Error{Errc::invalid_argument,
                   fmt::format("the picture is {}×{} pixels: one side may be at most {} times the other", image.width,
                               image.height, most_sides_apart)};
    }
    // The longer side is cut down to a whole number, as get_resize_output_image_size() does.
    if (image.width <= image.height) {
      height = resize_to * image.height / image.width;
    } else {
      width = resize_to * image.width / image.height;
    }
  }
  const Image resized = resize(image, width, height, resampling);
  const std::int64_t top = (height - size) / 2, left = (width - size) / 2;
  float factors[3], offsets[3];
  for (std::size_t c = 0; c < 3; ++c) {
    factors[c] = static_cast<float>(scale / deviation[c]);
    offsets[c] = static_cast<float>(-mean[c] / deviation[c]);
  }
  float* out = to.data();
  for (std::int64_t y = 0; y < size; ++y) {
    const std::uint8_t* pixel = resized.rgb.data() + ((top + y) * width + left) * 3;
    for (std::int64_t x = 0; x < size; ++x, pixel += 3)
      for (std::size_t c = 0; c < 3; ++c) {
        const std::size_t channel = blue_first ? 2 - c : c;
        *out++ = static_cast<float>(pixel[channel]) * factors[channel] + offsets[channel];
      }
  }
  return {};
}

}  // namespace trib::models
