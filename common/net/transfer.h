// Tensors over a channel: a tributary::proto::Transfer announces them, chunks carry them.
#pragma once

#include <memory>
#include <optional>

#include "common/hash.h"
#include "common/net/channel.h"
#include "common/tensor_map.h"
#include "proto/tributary.pb.h"

namespace trib::net {

tributary::proto::TensorSchema to_proto(const TensorSchema& schema);
Result<TensorSchema> from_proto(const tributary::proto::TensorSchema& schema);

// The announcement of `tensors`. The schema itself is included only where it is not `expected`.
tributary::proto::Transfer announce(std::uint32_t transfer_id, const TensorMap& tensors, const TensorSchema& expected);

// Sends the tensors' bytes as chunks of at most 1 MiB, reading straight from the memory of large tensors.
asio::awaitable<Status> send_tensors(Channel& channel, std::uint32_t transfer_id, const TensorMap& tensors,
                                     ChunkForm form = ChunkForm::plain);

// What these chunks come to with their frames' headers, before TLS.
std::uint64_t frame_bytes(const TensorMap& tensors, ChunkForm form);

// What must hold of an announcement and of a chunk before a byte of it is kept; TensorReceiver checks both.
Status check_announcement(const tributary::proto::Transfer& transfer, const TensorSchema& expected,
                          std::size_t byte_limit);
Status check_chunk(const Chunk& chunk, std::uint32_t transfer_id, std::uint64_t received, std::uint64_t expected);

// Takes in one announced transfer, chunk by chunk, straight into the tensors' memory; nothing is believed before it is
// checked. Not thread-safe.
class TensorReceiver {
 public:
  // Errc::protocol_error or limit_exceeded: the schema is not `expected` (names the tensor and how it differs), or more
  // than `byte_limit` bytes.
  static Result<TensorReceiver> begin(const tributary::proto::Transfer& transfer, const TensorSchema& expected,
                                      std::size_t byte_limit);
  // Chunks come in order and without gaps; anything else is Errc::protocol_error. True when the last byte is in.
  Result<bool> add(const Chunk& chunk);
  std::uint64_t bytes_received() const { return received_; }
  std::uint64_t bytes_expected() const { return expected_bytes_; }
  // After the last chunk: checks the SHA-256 and that every element is finite (names the tensor).
  Result<TensorMap> finish();

 private:
  TensorReceiver() = default;
  std::uint32_t id_ = 0;
  std::uint64_t received_ = 0, expected_bytes_ = 0;
  Sha256 sha256_{};
  Sha256Hasher hasher_;
  TensorMap tensors_;
  TensorMap::Storage::iterator current_{};
  std::size_t current_offset_ = 0;
};

}  // namespace trib::net
