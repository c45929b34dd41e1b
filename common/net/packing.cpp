#include "common/net/packing.h"

#include <zstd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <string>

#include "common/net/big_endian.h"

namespace trib::net {
namespace {

constexpr std::size_t planes = 8, length_bytes = 4;
constexpr int level = 1;  // what is coded is the distribution of a plane's bytes, and no level finds more than that

struct FreeContext {
  void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
  void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
};

// One of each for every thread that needs it: they take longer to make than a chunk to code.
ZSTD_CCtx* compression_context() {
  thread_local const std::unique_ptr<ZSTD_CCtx, FreeContext> context(ZSTD_createCCtx());
  return context.get();
}
ZSTD_DCtx* decompression_context() {
  thread_local const std::unique_ptr<ZSTD_DCtx, FreeContext> context(ZSTD_createDCtx());
  return context.get();
}

std::vector<std::byte>& plane_scratch() {
  thread_local std::vector<std::byte> scratch;
  return scratch;
}

void gather(std::span<const std::byte> bytes, std::size_t rank, std::span<std::byte> plane) {
  for (std::size_t i = 0; i < plane.size(); ++i) plane[i] = bytes[i * planes + rank];
}

void scatter(std::span<const std::byte> plane, std::size_t rank, std::span<std::byte> bytes) {
  for (std::size_t i = 0; i < plane.size(); ++i) bytes[i * planes + rank] = plane[i];
}

Error not_packed(std::string problem) {
  return {Errc::protocol_error, "a packed chunk " + std::move(problem)};
}

}  // namespace

bool pack(std::span<const std::byte> bytes, std::vector<std::byte>& packed) {
  const std::size_t plane_bytes = bytes.size() / planes;
  if (bytes.size() < least_packed_bytes || compression_context() == nullptr) return false;
  const std::span<const std::byte> rest = bytes.subspan(plane_bytes * planes);
  auto& plane = plane_scratch();
  plane.resize(plane_bytes);
  packed.resize(planes * (length_bytes + plane_bytes) + rest.size());
  std::size_t at = 0;
  for (std::size_t rank = 0; rank < planes; ++rank) {
    gather(bytes, rank, plane);
    std::byte* const coded = packed.data() + at + length_bytes;
    // An error, too, where it does not fit: what saves less than a 32nd is not worth decoding.
    std::size_t length = ZSTD_compressCCtx(compression_context(), coded, plane_bytes - plane_bytes / 32, plane.data(),
                                           plane_bytes, level);
    if (ZSTD_isError(length) != 0) {
      length = plane_bytes;
      std::memcpy(coded, plane.data(), plane_bytes);
    }
    store_big_endian(static_cast<std::uint32_t>(length), packed.data() + at);
    at += length_bytes + length;
  }
  std::ranges::copy(rest, packed.begin() + static_cast<std::ptrdiff_t>(at));
  packed.resize(at + rest.size());
  return packed.size() < bytes.size();
}

Status unpack(std::span<const std::byte> packed, std::span<std::byte> bytes) {
  const std::size_t plane_bytes = bytes.size() / planes;
  if (decompression_context() == nullptr) return Error{Errc::unavailable, "no memory to unpack a chunk"};
  auto& plane = plane_scratch();
  plane.resize(plane_bytes);
  for (std::size_t rank = 0; rank < planes; ++rank) {
    if (packed.size() < length_bytes) return not_packed("ends before its plane " + std::to_string(rank));
    const std::size_t length = load_big_endian<std::uint32_t>(packed.data());
    packed = packed.subspan(length_bytes);
    if (length > plane_bytes || length > packed.size())
      return not_packed("gives plane " + std::to_string(rank) + " of " + std::to_string(plane_bytes) + " bytes " +
                        std::to_string(length) + " bytes, and has " + std::to_string(packed.size()));
    const std::span<const std::byte> coded = packed.first(length);
    packed = packed.subspan(length);
    if (length == plane_bytes) {
      scatter(coded, rank, bytes);
      continue;
    }
    const std::size_t decoded =
        ZSTD_decompressDCtx(decompression_context(), plane.data(), plane_bytes, coded.data(), coded.size());
    if (ZSTD_isError(decoded) != 0)
      return not_packed("has a plane " + std::to_string(rank) + " that does not decode: " + ZSTD_getErrorName(decoded));
    if (decoded != plane_bytes)
      return not_packed("has " + std::to_string(decoded) + " bytes in plane " + std::to_string(rank) + " instead of " +
                        std::to_string(plane_bytes));
    scatter(plane, rank, bytes);
  }
  const std::span<std::byte> rest = bytes.subspan(plane_bytes * planes);
  if (packed.size() != rest.size())
    return not_packed("has " + std::to_string(packed.size()) + " bytes after its planes instead of " +
                      std::to_string(rest.size()));
  std::ranges::copy(packed, rest.begin());
  return {};
}

}  // namespace trib::net
