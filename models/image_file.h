// JPEG and PNG files as pixels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace trib::models {

struct Image {
  std::int64_t width = 0, height = 0;
  std::vector<std::uint8_t> rgb;  // (height, width, 3)
};

// Larger pictures are refused before anything is decoded.
inline constexpr std::int64_t longest_image_side = 16'384, most_image_pixels = 64 * 1024 * 1024;

// Reads a picture by the first bytes of its file, whatever it is called. Gray, palette, 16-bit and transparent PNG and
// gray, CMYK and YCCK JPEG become 8-bit RGB as Pillow's convert("RGB") makes it: 16 bits keep their high byte,
// transparency is dropped, CMYK is taken as inverted ink. A colour profile, gamma and a camera's orientation are not
// looked at. Errors name the file: Errc::not_found, io_error, unsupported (neither JPEG nor PNG), limit_exceeded (the
// size of the picture), corrupt (cut short or damaged, with the decoder's words).
Result<Image> read_image(const std::filesystem::path& path);
Result<Image> decode_image(std::span<const std::byte> bytes, std::string_view name_for_errors);

}  // namespace trib::models
