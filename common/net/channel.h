// Framed messages over a byte stream: TLS between machines, a Unix socket to the operator's command.
//
// A frame is a 5-byte header and a payload: payload length (32 bits, big-endian), kind (8 bits). Messages are Protobuf;
// tensors are raw chunks, so nothing is copied into a message and no message grows with the model.
#pragma once

#include <google/protobuf/message_lite.h>

#include <array>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/result.h"

namespace trib::net {

namespace asio = boost::asio;

enum class FrameKind : std::uint8_t {
  message = 1,  // one Protobuf message; which type, the protocol (ALPN) and the direction say
  chunk = 2,    // transfer id (32 bits, big-endian), offset (64 bits, big-endian), up to 1 MiB of tensor bytes
  // Transfer id, offset, number of tensor bytes (32 bits, big-endian), and these bytes as packing.h packs them.
  packed_chunk = 3,
};

// How tensor bytes travel. Packing takes the sender 1.4 to 2 seconds a gigabyte (docs/performance.md) and loses
// nothing; a chunk that it would not make smaller is sent as it is.
enum class ChunkForm { plain, packed };

struct Limits {
  std::size_t message_bytes = 4u << 20;    // limits.message_bytes
  std::size_t chunk_bytes = 1u << 20;      // payload of one chunk, without its 12-byte header
  Milliseconds idle_timeout{60'000};       // limits.idle_timeout: no byte while receive() waits for so long ends it
  Milliseconds write_timeout{60'000};      // limits.write_timeout: of one frame
  Milliseconds handshake_timeout{10'000};  // limits.handshake_timeout
};

struct Chunk {
  std::uint32_t transfer_id = 0;
  std::uint64_t offset = 0;
  std::span<const std::byte> bytes;  // valid until the next receive()
};

struct Frame {
  FrameKind kind = FrameKind::message;  // a packed chunk is received as a chunk
  std::span<const std::byte> message;   // valid until the next receive()
  Chunk chunk;
};

// Who is at the other end, from its certificate; empty on a Unix socket.
struct PeerIdentity {
  std::string name;         // subject CN: the site's name
  std::string role;         // subject OU: "site", "operator" or "aggregator"
  std::string serial;       // hex
  std::string fingerprint;  // SHA-256 of the certificate, hex
  WallTime not_before{}, not_after{};
};

// One connection. receive() by one coroutine at a time; send() from any coroutine of the same executor: frames are
// queued and written whole, in order. All calls run on executor(), which runs one thing at a time (a strand, or an
// io_context with one thread). After an error the channel is of no more use, but that the peer may be told why it was
// not understood (protocol_error, limit_exceeded): then sending still works. Errors:
// Errc::protocol_error (bad header, wrong kind), limit_exceeded (names the limit), deadline_exceeded (a timeout,
// named), unavailable (the peer went away), unauthenticated or permission_denied (the peer refused our certificate, and
// why), cancelled (close() was called).
class Channel {
 public:
  virtual ~Channel() = default;
  virtual asio::awaitable<Result<Frame>> receive() = 0;
  virtual asio::awaitable<Status> send(const google::protobuf::MessageLite& message) = 0;
  virtual asio::awaitable<Status> send_chunk(std::uint32_t transfer_id, std::uint64_t offset,
                                             std::span<const std::byte> bytes, ChunkForm form = ChunkForm::plain) = 0;
  virtual void close() = 0;  // idempotent; pending calls end with Errc::cancelled
  // For a last message that must arrive: ends our direction, discards what still comes until the peer closes too or
  // `patience` is over, then closes. A plain close() with unread input resets the connection, and what was sent is
  // lost.
  virtual asio::awaitable<void> finish(Milliseconds patience) = 0;
  virtual const PeerIdentity& peer() const = 0;
  virtual std::string protocol() const = 0;  // the negotiated ALPN; empty on a Unix socket
  virtual std::string remote_address() const = 0;
  // Bytes on the wire in either direction, TLS and framing included.
  virtual std::uint64_t bytes_sent() const = 0;
  virtual std::uint64_t bytes_received() const = 0;
  virtual asio::any_io_executor executor() = 0;
};

// Parses a message frame as `Message`. Errc::protocol_error if the frame is a chunk or does not parse.
template <typename Message>
Result<Message> parse_message(const Frame& frame) {
  if (frame.kind != FrameKind::message)
    return Error{Errc::protocol_error, "expected a message, received a tensor chunk"};
  Message message;
  if (!message.ParseFromArray(frame.message.data(), static_cast<int>(frame.message.size())))
    return Error{Errc::protocol_error,
                 "a message of " + std::to_string(frame.message.size()) + " bytes does not parse"};
  return message;
}

// How frames look in bytes.
class FrameCodec {
 public:
  static constexpr std::size_t header_bytes = 5;
  static constexpr std::size_t chunk_header_bytes = 12;
  static constexpr std::size_t packed_chunk_header_bytes = 16;
  struct Header {
    FrameKind kind = FrameKind::message;
    std::uint32_t payload_bytes = 0;
  };
  // Checks kind and length against the limits before anything is allocated.
  static Result<Header> parse_header(std::span<const std::byte, header_bytes> bytes, const Limits& limits);
  static std::array<std::byte, header_bytes> make_header(FrameKind kind, std::size_t payload_bytes);
  static Result<Chunk> parse_chunk(std::span<const std::byte> payload);
  // The chunk of a packed chunk's payload; its bytes are those of `unpacked`.
  static Result<Chunk> unpack_chunk(std::span<const std::byte> payload, const Limits& limits,
                                    std::vector<std::byte>& unpacked);
  static std::array<std::byte, chunk_header_bytes> make_chunk_header(std::uint32_t transfer_id, std::uint64_t offset);
  static std::array<std::byte, packed_chunk_header_bytes> make_packed_chunk_header(std::uint32_t transfer_id,
                                                                                   std::uint64_t offset,
                                                                                   std::uint32_t byte_count);
};

}  // namespace trib::net
