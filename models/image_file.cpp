#include "models/image_file.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstring>
#include <memory>
#include <string>

// libjpeg's header needs what <cstdio> declares.
// clang-format off
#include <cstdio>
#include <jpeglib.h>
#include <png.h>
// clang-format on

#include "common/files.h"

namespace trib::models {
namespace {

constexpr std::array<unsigned char, 8> png_magic = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
constexpr std::array<unsigned char, 3> jpeg_magic = {0xff, 0xd8, 0xff};

bool starts_with(std::span<const std::byte> bytes, std::span<const unsigned char> magic) {
  return bytes.size() >= magic.size() && std::memcmp(bytes.data(), magic.data(), magic.size()) == 0;
}

Status check_size(std::uint64_t width, std::uint64_t height, std::string_view name) {
  const auto side = static_cast<std::uint64_t>(longest_image_side);
  if (width >= 1 && height >= 1 && width <= side && height <= side &&
      width * height <= static_cast<std::uint64_t>(most_image_pixels))
    return {};
  return Error{
      Errc::limit_exceeded,
      fmt::format("{}: the picture is {}×{} pixels; a side may have 1 to {}, and the whole at most {}: make it "
                  "smaller",
                  name, width, height, longest_image_side, most_image_pixels)};
}

Error damaged(std::string_view name, std::string_view format, std::string_view what) {
  return {Errc::corrupt, fmt::format("{}: not a whole {} file: {}", name, format, what)};
}

// ---- JPEG. The library reports errors by a jump, so nothing with a destructor lives between it and the place it
// jumps to: run_jpeg() and run_png() hold plain values and references alone.

struct JpegErrors {
  jpeg_error_mgr base;
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
};

void jpeg_stop(j_common_ptr info) {
  auto* errors = reinterpret_cast<JpegErrors*>(info->err);
  errors->base.format_message(info, errors->message);
  std::longjmp(errors->jump, 1);
}
// A warning means that pixels were made up: half a picture is not the record.
void jpeg_message(j_common_ptr info, int level) {
  if (level < 0) jpeg_stop(info);
}

enum class JpegStep { header, pixels };

// With `header`, fills width, height and what the colours are; with `pixels`, `to`, of `components` bytes a pixel.
// False with errors.message set.
bool run_jpeg(jpeg_decompress_struct& info, JpegErrors& errors, JpegStep step, std::span<const std::byte> bytes,
              std::uint8_t* to) {
  if (setjmp(errors.jump) != 0) return false;
  if (step == JpegStep::header) {
    jpeg_create_decompress(&info);
    jpeg_mem_src(&info, reinterpret_cast<const unsigned char*>(bytes.data()), static_cast<unsigned long>(bytes.size()));
    jpeg_read_header(&info, TRUE);
    return true;
  }
  const bool four = info.jpeg_color_space == JCS_CMYK || info.jpeg_color_space == JCS_YCCK;
  info.out_color_space = four ? JCS_CMYK : JCS_RGB;
  info.dct_method = JDCT_ISLOW;  // the same numbers on every machine
  jpeg_start_decompress(&info);
  const std::size_t row = static_cast<std::size_t>(info.output_width) * (four ? 4 : 3);
  while (info.output_scanline < info.output_height) {
    JSAMPROW line = to + row * info.output_scanline;
    jpeg_read_scanlines(&info, &line, 1);
  }
  jpeg_finish_decompress(&info);
  return true;
}

Result<Image> decode_jpeg(std::span<const std::byte> bytes, std::string_view name) {
  jpeg_decompress_struct info{};
  JpegErrors errors{};
  info.err = jpeg_std_error(&errors.base);
  errors.base.error_exit = &jpeg_stop;
  errors.base.emit_message = &jpeg_message;
  const auto destroy = [](jpeg_decompress_struct* used) { jpeg_destroy_decompress(used); };
  const std::unique_ptr<jpeg_decompress_struct, decltype(destroy)> cleanup(&info, destroy);
  if (!run_jpeg(info, errors, JpegStep::header, bytes, nullptr)) return damaged(name, "JPEG", errors.message);
  TRIB_TRY(check_size(info.image_width, info.image_height, name));

  Image image{info.image_width, info.image_height, {}};
  const auto pixels = static_cast<std::size_t>(image.width * image.height);
  const bool four = info.jpeg_color_space == JCS_CMYK || info.jpeg_color_space == JCS_YCCK;
  image.rgb.resize(pixels * (four ? 4 : 3));
  if (!run_jpeg(info, errors, JpegStep::pixels, bytes, image.rgb.data())) return damaged(name, "JPEG", errors.message);
  if (four) {
    // Adobe stores 255 − ink, and black like another ink: what is left of white paper is the product.
    for (std::size_t i = 0; i < pixels; ++i) {
      const std::uint8_t* cmyk = &image.rgb[4 * i];
      const int black = cmyk[3];
      for (std::size_t c = 0; c < 3; ++c) {
        const int product = cmyk[c] * black;
        image.rgb[3 * i + c] = static_cast<std::uint8_t>((product + 127) / 255);
      }
    }
    image.rgb.resize(pixels * 3);
  }
  return image;
}

// ---- PNG.

struct PngSource {
  std::span<const std::byte> bytes;
  std::size_t done = 0;
  std::jmp_buf jump;
  char message[200] = {};
};

void png_stop(png_structp png, png_const_charp message) {
  auto* source = static_cast<PngSource*>(png_get_error_ptr(png));
  std::snprintf(source->message, sizeof source->message, "%s", message);
  std::longjmp(source->jump, 1);
}
void png_ignore(png_structp, png_const_charp) {}
void png_read_bytes(png_structp png, png_bytep to, std::size_t count) {
  auto* source = static_cast<PngSource*>(png_get_io_ptr(png));
  if (source->bytes.size() - source->done < count) png_error(png, "it ends too early");
  std::memcpy(to, source->bytes.data() + source->done, count);
  source->done += count;
}

bool read_png_header(png_structp png, png_infop info, PngSource& source) {
  if (setjmp(source.jump) != 0) return false;
  png_set_read_fn(png, &source, &png_read_bytes);
  png_set_user_limits(png, 0x7fffffff, 0x7fffffff);  // our own limits come with a better message
  png_read_info(png, info);
  return true;
}

// rows: one pointer a line, each to width·3 bytes.
bool read_png_pixels(png_structp png, png_infop info, PngSource& source, png_bytepp rows, std::size_t row_bytes) {
  if (setjmp(source.jump) != 0) return false;
  png_set_expand(png);  // palettes, 1 to 4 bits, and transparent colours
  png_set_strip_16(png);
  png_set_gray_to_rgb(png);
  png_set_strip_alpha(png);
  png_set_interlace_handling(png);
  png_read_update_info(png, info);
  if (png_get_rowbytes(png, info) != row_bytes) png_error(png, "its colours are of an unknown kind");
  png_read_image(png, rows);
  png_read_end(png, nullptr);
  return true;
}

Result<Image> decode_png(std::span<const std::byte> bytes, std::string_view name) {
  PngSource source{};
  source.bytes = bytes;
  png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &source, &png_stop, &png_ignore);
  png_infop info = png == nullptr ? nullptr : png_create_info_struct(png);
  struct Cleanup {
    png_structp* png;
    png_infop* info;
    ~Cleanup() { png_destroy_read_struct(png, info, nullptr); }
  } cleanup{&png, &info};
  if (info == nullptr) throw std::bad_alloc();
  if (!read_png_header(png, info, source)) return damaged(name, "PNG", source.message);
  TRIB_TRY(check_size(png_get_image_width(png, info), png_get_image_height(png, info), name));

  Image image{png_get_image_width(png, info), png_get_image_height(png, info), {}};
  const std::size_t row_bytes = static_cast<std::size_t>(image.width) * 3;
  image.rgb.resize(row_bytes * static_cast<std::size_t>(image.height));
  std::vector<png_bytep> rows;
  for (std::int64_t y = 0; y < image.height; ++y)
    rows.push_back(image.rgb.data() + row_bytes * static_cast<std::size_t>(y));
  if (!read_png_pixels(png, info, source, rows.data(), row_bytes)) return damaged(name, "PNG", source.message);
  return image;
}

}  // namespace

Result<Image> decode_image(std::span<const std::byte> bytes, std::string_view name) {
  if (starts_with(bytes, png_magic)) return decode_png(bytes, name);
  if (starts_with(bytes, jpeg_magic)) return decode_jpeg(bytes, name);
  return Error{Errc::unsupported, fmt::format("{}: neither a JPEG nor a PNG file{}: convert it to one of these", name,
                                              bytes.empty() ? " (it is empty)" : "")};
}

Result<Image> read_image(const std::filesystem::path& path) {
  TRIB_ASSIGN(const std::string bytes, read_file(path));
  return decode_image(std::as_bytes(std::span(bytes)), path.native());
}

}  // namespace trib::models
