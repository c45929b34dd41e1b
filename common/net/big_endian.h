// Integers on the wire.
#pragma once

#include <cstddef>

namespace trib::net {

template <typename Integer>
void store_big_endian(Integer value, std::byte* to) {
  for (std::size_t i = 0; i < sizeof(Integer); ++i)
    to[i] = static_cast<std::byte>(value >> (8 * (sizeof(Integer) - 1 - i)));
}

template <typename Integer>
Integer load_big_endian(const std::byte* from) {
  Integer value = 0;
  for (std::size_t i = 0; i < sizeof(Integer); ++i) value = (value << 8) | static_cast<Integer>(from[i]);
  return value;
}

}  // namespace trib::net
