// UTF-8, read strictly (RFC 3629): no overlong forms, no surrogates, nothing past U+10FFFF.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace trib {

struct Utf8CodePoint {
  char32_t value = 0;
  std::size_t byte_count = 0;  // 1 to 4; 0 if the bytes at this place are not UTF-8
};

// The code point that starts at text[position]; position < text.size().
constexpr Utf8CodePoint decode_utf8(std::string_view text, std::size_t position) {
  const auto byte_at = [&](std::size_t offset) {
    return position + offset < text.size() ? static_cast<unsigned char>(text[position + offset]) : 0u;
  };
  const unsigned lead = byte_at(0);
  if (lead < 0x80) return {lead, 1};
  std::size_t byte_count = 0;
  char32_t value = 0, smallest = 0;
  if (lead >= 0xC2 && lead <= 0xDF) {
    byte_count = 2, value = lead & 0x1F, smallest = 0x80;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    byte_count = 3, value = lead & 0x0F, smallest = 0x800;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    byte_count = 4, value = lead & 0x07, smallest = 0x10000;
  } else {
    return {};
  }
  for (std::size_t i = 1; i < byte_count; ++i) {
    const unsigned next = byte_at(i);
    if ((next & 0xC0) != 0x80) return {};
    value = (value << 6) | (next & 0x3F);
  }
  const bool is_surrogate = value >= 0xD800 && value <= 0xDFFF;
  if (value < smallest || value > 0x10FFFF || is_surrogate) return {};
  return {value, byte_count};
}

// The position of the first byte that is not UTF-8, if there is one.
constexpr std::optional<std::size_t> find_invalid_utf8(std::string_view text) {
  for (std::size_t position = 0; position < text.size();) {
    const Utf8CodePoint code_point = decode_utf8(text, position);
    if (code_point.byte_count == 0) return position;
    position += code_point.byte_count;
  }
  return std::nullopt;
}

}  // namespace trib
