#include <algorithm>
#include <string>

#include "common/net/big_endian.h"
#include "common/net/channel.h"
#include "common/net/packing.h"

namespace trib::net {
Result<FrameCodec::Header> FrameCodec::parse_header(std::span<const std::byte, header_bytes> bytes,
                                                    const Limits& limits) {
  Header header;
  header.payload_bytes = load_big_endian<std::uint32_t>(bytes.data());
  const auto kind = std::to_integer<unsigned>(bytes[4]);
  if (kind == static_cast<unsigned>(FrameKind::message)) {
    header.kind = FrameKind::message;
    if (header.payload_bytes > limits.message_bytes)
      return Error{Errc::limit_exceeded,
                   "a message of " + std::to_string(header.payload_bytes) +
                       " bytes is over limits.message_bytes = " + std::to_string(limits.message_bytes)};
  } else if (kind == static_cast<unsigned>(FrameKind::chunk) ||
             kind == static_cast<unsigned>(FrameKind::packed_chunk)) {
    header.kind = static_cast<FrameKind>(kind);
    const std::size_t before = header.kind == FrameKind::chunk ? chunk_header_bytes : packed_chunk_header_bytes;
    if (header.payload_bytes <= before)
      return Error{Errc::protocol_error,
                   "a chunk frame of " + std::to_string(header.payload_bytes) + " bytes carries no tensor bytes"};
    if (header.payload_bytes - before > limits.chunk_bytes)
      return Error{Errc::limit_exceeded, "a chunk of " + std::to_string(header.payload_bytes - before) +
                                             " bytes is over the protocol's limit of " +
                                             std::to_string(limits.chunk_bytes)};
  } else {
    return Error{Errc::protocol_error, "a frame of unknown kind " + std::to_string(kind) +
                                           ": the peer does not speak this protocol, or bytes were lost"};
  }
  return header;
}

std::array<std::byte, FrameCodec::header_bytes> FrameCodec::make_header(FrameKind kind, std::size_t payload_bytes) {
  std::array<std::byte, header_bytes> bytes{};
  store_big_endian(static_cast<std::uint32_t>(payload_bytes), bytes.data());
  bytes[4] = static_cast<std::byte>(kind);
  return bytes;
}

Result<Chunk> FrameCodec::parse_chunk(std::span<const std::byte> payload) {
  if (payload.size() <= chunk_header_bytes)
    return Error{Errc::protocol_error,
                 "a chunk frame of " + std::to_string(payload.size()) + " bytes carries no tensor bytes"};
  Chunk chunk;
  chunk.transfer_id = load_big_endian<std::uint32_t>(payload.data());
  chunk.offset = load_big_endian<std::uint64_t>(payload.data() + 4);
  chunk.bytes = payload.subspan(chunk_header_bytes);
  return chunk;
}

Result<Chunk> FrameCodec::unpack_chunk(std::span<const std::byte> payload, const Limits& limits,
                                       std::vector<std::byte>& unpacked) {
  if (payload.size() <= packed_chunk_header_bytes)
    return Error{Errc::protocol_error,
                 "a chunk frame of " + std::to_string(payload.size()) + " bytes carries no tensor bytes"};
  TRIB_ASSIGN(Chunk chunk, parse_chunk(payload));
  const auto bytes = load_big_endian<std::uint32_t>(chunk.bytes.data());
  if (bytes > limits.chunk_bytes)
    return Error{Errc::limit_exceeded, "a packed chunk of " + std::to_string(bytes) +
                                           " bytes is over the protocol's limit of " +
                                           std::to_string(limits.chunk_bytes)};
  if (bytes < least_packed_bytes)
    return Error{Errc::protocol_error, "a packed chunk says that it has " + std::to_string(bytes) + " bytes; below " +
                                           std::to_string(least_packed_bytes) + " a chunk is not packed"};
  unpacked.resize(bytes);
  TRIB_TRY(unpack(payload.subspan(packed_chunk_header_bytes), unpacked));
  chunk.bytes = unpacked;
  return chunk;
}

std::array<std::byte, FrameCodec::chunk_header_bytes> FrameCodec::make_chunk_header(std::uint32_t transfer_id,
                                                                                    std::uint64_t offset) {
  std::array<std::byte, chunk_header_bytes> bytes{};
  store_big_endian(transfer_id, bytes.data());
  store_big_endian(offset, bytes.data() + 4);
  return bytes;
}

std::array<std::byte, FrameCodec::packed_chunk_header_bytes> FrameCodec::make_packed_chunk_header(
    std::uint32_t transfer_id, std::uint64_t offset, std::uint32_t byte_count) {
  std::array<std::byte, packed_chunk_header_bytes> bytes{};
  std::ranges::copy(make_chunk_header(transfer_id, offset), bytes.begin());
  store_big_endian(byte_count, bytes.data() + chunk_header_bytes);
  return bytes;
}

}  // namespace trib::net
