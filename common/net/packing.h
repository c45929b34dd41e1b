// Lossless packing of tensor bytes for the wire. The floats of a sum have nearly the same sign and exponent, and noise
// on a lattice leaves low bits at zero: of eight bytes, some say little. Here the bytes of one rank within every eight
// are gathered into a plane, which Zstandard codes where that helps. It suits float64 and float32 alike, and asks
// neither for types nor for alignment. The length that results depends on the values, as their sender should know.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/result.h"

namespace trib::net {

// Below this packing is not worth its header.
constexpr std::size_t least_packed_bytes = 1024;

// Writes to `packed` what unpack() turns into `bytes` again: eight planes, each a length (32 bits, big-endian) and as
// many bytes, raw where the length is the plane's own; then the last bytes.size() % 8 bytes as they are. False where
// that would not be smaller; `packed` is then of no use.
bool pack(std::span<const std::byte> bytes, std::vector<std::byte>& packed);

// Fills `bytes`, whose size the caller knows and has checked. Errc::protocol_error if `packed` is not what pack() makes
// of as many bytes; never reads or writes beyond either.
Status unpack(std::span<const std::byte> packed, std::span<std::byte> bytes);

}  // namespace trib::net
