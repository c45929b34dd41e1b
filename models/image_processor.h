// What happens to a picture before a network sees it, as Hugging Face's image processors do it on Pillow.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "common/result.h"
#include "models/image_file.h"

namespace trib::models {

enum class Resampling { bilinear, bicubic };

// As Pillow's resize() does it, with antialiasing: a triangle or a cubic (a = −1/2) over as many source pixels as a
// target pixel covers, first along rows, then along columns, rounded to 8 bits after each, in
// fixed point.
Image resize(const Image& image, std::int64_t width, std::int64_t height, Resampling resampling);

struct ImageProcessor {
  std::int64_t resize_to = 224;  // pixels, both ways or, with `keeps_shape`, of the shorter side
  bool keeps_shape = false;
  std::int64_t size = 224;  // of the square that the network takes, cut out of the middle
  Resampling resampling = Resampling::bilinear;
  double scale = 1.0 / 255.0;                                                 // (value·scale − mean) / deviation
  std::array<double, 3> mean = {0.5, 0.5, 0.5}, deviation = {0.5, 0.5, 0.5};  // of red, green and blue
  bool blue_first = false;  // the network's channels are blue, green, red

  // preprocessor_config.json of a model's directory. Errc::not_found, io_error, corrupt, or unsupported with the key.
  static Result<ImageProcessor> read(const std::filesystem::path& directory);
  // The same for pictures that are brought to `pixels` both ways, nothing cut off.
  ImageProcessor with_size(std::int64_t pixels) const;
  // One line that says all of it: what makes features different.
  std::string description() const;

  // Writes (size, size, 3) values. Errc::invalid_argument for a picture whose sides differ too much to keep its shape.
  Status apply(const Image& image, std::span<float> to) const;
};

}  // namespace trib::models
