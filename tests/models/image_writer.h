// Pictures for tests, written by the format's own library.
#pragma once

#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

// libjpeg's header needs what <cstdio> declares.
// clang-format off
#include <cstdio>
#include <jpeglib.h>
#include <png.h>
// clang-format on

#include "common/files.h"
#include "models/image_file.h"

namespace trib::models {

// `rows` are the lines as PNG has them: packed bits, big-endian 16 bits.
struct PngContent {
  int width = 0, height = 0, bits = 8, color = PNG_COLOR_TYPE_RGB;
  std::vector<std::uint8_t> rows;
  std::vector<png_color> palette = {};
  std::vector<std::uint8_t> palette_alpha = {};
  bool interlaced = false;
};

inline std::string png_bytes(const PngContent& content) {
  std::string bytes;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(png);
  if (setjmp(png_jmpbuf(png))) throw std::runtime_error("png_bytes: libpng refused");
  png_set_write_fn(
      png, &bytes,
      [](png_structp p, png_bytep data, std::size_t count) {
        static_cast<std::string*>(png_get_io_ptr(p))->append(reinterpret_cast<const char*>(data), count);
      },
      nullptr);
  png_set_IHDR(png, info, static_cast<png_uint_32>(content.width), static_cast<png_uint_32>(content.height),
               content.bits, content.color, content.interlaced ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  if (!content.palette.empty())
    png_set_PLTE(png, info, content.palette.data(), static_cast<int>(content.palette.size()));
  if (!content.palette_alpha.empty())
    png_set_tRNS(png, info, content.palette_alpha.data(), static_cast<int>(content.palette_alpha.size()), nullptr);
  const std::size_t row = content.rows.size() / static_cast<std::size_t>(content.height);
  std::vector<png_bytep> lines;
  for (int y = 0; y < content.height; ++y)
    lines.push_back(const_cast<png_bytep>(content.rows.data()) + row * static_cast<std::size_t>(y));
  png_set_rows(png, info, lines.data());
  png_write_png(png, info, PNG_TRANSFORM_IDENTITY, nullptr);
  png_destroy_write_struct(&png, &info);
  return bytes;
}

// `pixels` with as many bytes a pixel as the colour space has: JCS_RGB, JCS_GRAYSCALE, or JCS_CMYK as Adobe stores it.
inline std::string jpeg_bytes(int width, int height, J_COLOR_SPACE space, const std::vector<std::uint8_t>& pixels) {
  jpeg_compress_struct info{};
  jpeg_error_mgr errors{};
  info.err = jpeg_std_error(&errors);
  jpeg_create_compress(&info);
  unsigned char* buffer = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&info, &buffer, &size);
  info.image_width = static_cast<JDIMENSION>(width);
  info.image_height = static_cast<JDIMENSION>(height);
  info.input_components = space == JCS_RGB ? 3 : space == JCS_CMYK ? 4 : 1;
  info.in_color_space = space;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, 100, TRUE);
  jpeg_start_compress(&info, TRUE);
  while (info.next_scanline < info.image_height) {
    JSAMPROW line = const_cast<JSAMPROW>(pixels.data()) + static_cast<std::size_t>(info.next_scanline) *
                                                              static_cast<std::size_t>(width * info.input_components);
    jpeg_write_scanlines(&info, &line, 1);
  }
  jpeg_finish_compress(&info);
  std::string bytes(reinterpret_cast<char*>(buffer), size);
  jpeg_destroy_compress(&info);
  std::free(buffer);
  return bytes;
}

inline Result<Image> decode(const std::string& bytes) {
  return decode_image(std::as_bytes(std::span(bytes)), "picture");
}

}  // namespace trib::models
