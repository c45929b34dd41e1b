#include <string>

#include "common/net/channel.h"

namespace trib::net {
namespace {

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

}  // namespace

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
  } else if (kind == static_cast<unsigned>(FrameKind::chunk)) {
    header.kind = FrameKind::chunk;
    if (header.payload_bytes <= chunk_header_bytes)
      return Error{Errc::protocol_error,
                   "a chunk frame of " + std::to_string(header.payload_bytes) + " bytes carries no tensor bytes"};
    if (header.payload_bytes - chunk_header_bytes > limits.chunk_bytes)
      return Error{Errc::limit_exceeded, "a chunk of " + std::to_string(header.payload_bytes - chunk_header_bytes) +
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

std::array<std::byte, FrameCodec::chunk_header_bytes> FrameCodec::make_chunk_header(std::uint32_t transfer_id,
                                                                                    std::uint64_t offset) {
  std::array<std::byte, chunk_header_bytes> bytes{};
  store_big_endian(transfer_id, bytes.data());
  store_big_endian(offset, bytes.data() + 4);
  return bytes;
}

}  // namespace trib::net
