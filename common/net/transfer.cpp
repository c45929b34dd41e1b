#include "common/net/transfer.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "common/net/coroutine.h"
#include "common/net/packing.h"

namespace trib::net {
namespace {

// Tensors below this travel together in one chunk, so that many small ones do not each pay for a frame.
constexpr std::size_t small_tensor_bytes = 64u << 10;
constexpr std::size_t chunk_bytes = 1u << 20;

std::string to_bytes(const Sha256& digest) {
  return {reinterpret_cast<const char*>(digest.data()), digest.size()};
}

Result<Sha256> digest_from_bytes(std::string_view bytes, std::string_view what) {
  Sha256 digest{};
  if (bytes.size() != digest.size())
    return Error{Errc::protocol_error, "the " + std::string(what) + " of a transfer has " +
                                           std::to_string(bytes.size()) + " bytes, a SHA-256 has 32"};
  std::memcpy(digest.data(), bytes.data(), bytes.size());
  return digest;
}

// How an announced layout differs from the expected one: names the tensor.
Error describe_difference(const TensorSchema& announced, const TensorSchema& expected) {
  const auto text = [](const TensorSpec& spec) {
    return "'" + spec.name + "' " + std::string(to_string(spec.dtype)) + " " + to_string(spec.shape);
  };
  const auto& theirs = announced.specs();
  const auto& ours = expected.specs();
  for (std::size_t i = 0; i < std::max(theirs.size(), ours.size()); ++i) {
    if (i < theirs.size() && i < ours.size() && theirs[i] == ours[i]) continue;
    std::string problem;
    if (i >= ours.size() || (i < theirs.size() && theirs[i].name < ours[i].name))
      problem = "has the tensor " + text(theirs[i]) + ", which this job does not know";
    else if (i >= theirs.size() || theirs[i].name > ours[i].name)
      problem = "lacks the tensor " + text(ours[i]);
    else
      problem = "has the tensor " + text(theirs[i]) + " instead of " + text(ours[i]);
    return {Errc::protocol_error, "the transfer " + problem};
  }
  return {Errc::protocol_error, "the transfer's schema is the job's, but its hash is not"};
}

// The bytes of tensors, chunk by chunk.
class ChunkSource {
 public:
  explicit ChunkSource(const TensorMap& tensors) : tensor_(tensors.begin()), end_(tensors.end()) {}

  // Empty after the last; valid until the next call.
  std::span<const std::byte> next() {
    offset_ += given_;
    together_.clear();
    // Straight from a large tensor's memory; small ones are copied until the chunk is full or a large one follows.
    for (; tensor_ != end_; ++tensor_, position_ = 0) {
      const std::span<const std::byte> bytes = tensor_->second.bytes();
      if (bytes.size() >= small_tensor_bytes) {
        if (!together_.empty()) break;
        if (position_ == bytes.size()) continue;
        const auto piece = bytes.subspan(position_, std::min(bytes.size() - position_, chunk_bytes));
        position_ += piece.size();
        given_ = piece.size();
        return piece;
      }
      if (together_.size() + bytes.size() > chunk_bytes) break;
      together_.insert(together_.end(), bytes.begin(), bytes.end());
    }
    given_ = together_.size();
    return together_;
  }

  // Of the chunk that next() gave last.
  std::uint64_t offset() const { return offset_; }

 private:
  TensorMap::Storage::const_iterator tensor_, end_;
  std::size_t position_ = 0;  // in tensor_
  std::uint64_t offset_ = 0;
  std::size_t given_ = 0;
  std::vector<std::byte> together_;
};

}  // namespace

tributary::proto::TensorSchema to_proto(const TensorSchema& schema) {
  tributary::proto::TensorSchema message;
  for (const TensorSpec& spec : schema.specs()) {
    auto* tensor = message.add_tensors();
    tensor->set_name(spec.name);
    tensor->set_dtype(std::string(to_string(spec.dtype)));
    for (const std::int64_t dimension : spec.shape) tensor->add_shape(dimension);
  }
  return message;
}

Result<TensorSchema> from_proto(const tributary::proto::TensorSchema& message) {
  std::vector<TensorSpec> specs;
  std::set<std::string_view> names;
  std::size_t total = 0;
  for (const auto& tensor : message.tensors()) {
    const std::string where = "tensor '" + tensor.name() + "' of a schema";
    if (!names.insert(tensor.name()).second) return Error{Errc::protocol_error, where + " appears twice"};
    TensorSpec spec;
    spec.name = tensor.name();
    auto dtype = dtype_from_string(tensor.dtype());
    if (!dtype) return Error{Errc::protocol_error, dtype.error().with_context(where).message};
    spec.dtype = *dtype;
    spec.shape.assign(tensor.shape().begin(), tensor.shape().end());
    const auto bytes = checked_byte_count(spec.dtype, spec.shape);
    if (!bytes) return Error{Errc::protocol_error, bytes.error().with_context(where).message};
    if (__builtin_add_overflow(total, *bytes, &total))
      return Error{Errc::protocol_error, where + " takes the schema over 2^64 bytes"};
    specs.push_back(std::move(spec));
  }
  return TensorSchema(std::move(specs));
}

tributary::proto::Transfer announce(std::uint32_t transfer_id, const TensorMap& tensors, const TensorSchema& expected) {
  tributary::proto::Transfer transfer;
  const TensorSchema schema = tensors.schema();
  transfer.set_id(transfer_id);
  transfer.set_byte_count(schema.byte_count());
  Sha256Hasher hasher;
  for (const auto& [name, tensor] : tensors) hasher.update(tensor.bytes());
  transfer.set_sha256(to_bytes(hasher.finish()));
  transfer.set_schema_sha256(to_bytes(schema.hash()));
  if (schema != expected) *transfer.mutable_schema() = to_proto(schema);
  return transfer;
}

asio::awaitable<Status> send_tensors(Channel& channel, std::uint32_t transfer_id, const TensorMap& tensors,
                                     ChunkForm form) {
  ChunkSource chunks(tensors);
  for (auto bytes = chunks.next(); !bytes.empty(); bytes = chunks.next())
    TRIB_CO_TRY(co_await channel.send_chunk(transfer_id, chunks.offset(), bytes, form));
  co_return Status();
}

std::uint64_t frame_bytes(const TensorMap& tensors, ChunkForm form) {
  ChunkSource chunks(tensors);
  std::uint64_t total = 0;
  std::vector<std::byte> packed;
  for (auto bytes = chunks.next(); !bytes.empty(); bytes = chunks.next()) {
    total += FrameCodec::header_bytes;
    if (form == ChunkForm::packed && pack(bytes, packed))
      total += FrameCodec::packed_chunk_header_bytes + packed.size();
    else
      total += FrameCodec::chunk_header_bytes + bytes.size();
  }
  return total;
}

Status check_announcement(const tributary::proto::Transfer& transfer, const TensorSchema& expected,
                          std::size_t byte_limit) {
  TRIB_TRY(digest_from_bytes(transfer.sha256(), "checksum"));
  TRIB_ASSIGN(const Sha256 schema_sha256, digest_from_bytes(transfer.schema_sha256(), "schema hash"));
  if (schema_sha256 != expected.hash()) {
    if (!transfer.has_schema())
      return Error{Errc::protocol_error,
                   "the transfer's tensors are not this job's, and it does not say which they are"};
    TRIB_ASSIGN(const TensorSchema announced, from_proto(transfer.schema()));
    return describe_difference(announced, expected);
  }
  if (transfer.byte_count() != expected.byte_count())
    return Error{Errc::protocol_error, "the transfer announces " + std::to_string(transfer.byte_count()) +
                                           " bytes, its schema has " + std::to_string(expected.byte_count())};
  if (transfer.byte_count() > byte_limit)
    return Error{Errc::limit_exceeded, "a transfer of " + std::to_string(transfer.byte_count()) +
                                           " bytes is over limits.transfer_bytes = " + std::to_string(byte_limit)};
  return {};
}

Result<TensorReceiver> TensorReceiver::begin(const tributary::proto::Transfer& transfer, const TensorSchema& expected,
                                             std::size_t byte_limit) {
  TRIB_TRY(check_announcement(transfer, expected, byte_limit));
  TensorReceiver receiver;
  receiver.id_ = transfer.id();
  receiver.expected_bytes_ = transfer.byte_count();
  TRIB_ASSIGN(receiver.sha256_, digest_from_bytes(transfer.sha256(), "checksum"));
  for (const TensorSpec& spec : expected.specs()) receiver.tensors_[spec.name] = HostTensor(spec.dtype, spec.shape);
  receiver.current_ = receiver.tensors_.begin();
  return receiver;
}

Status check_chunk(const Chunk& chunk, std::uint32_t transfer_id, std::uint64_t received, std::uint64_t expected) {
  if (chunk.transfer_id != transfer_id)
    return Error{Errc::protocol_error, "a chunk of transfer " + std::to_string(chunk.transfer_id) +
                                           " came while transfer " + std::to_string(transfer_id) + " is under way"};
  if (chunk.offset != received)
    return Error{Errc::protocol_error, "a chunk starts at byte " + std::to_string(chunk.offset) + ", expected byte " +
                                           std::to_string(received) + ": chunks come in order and without gaps"};
  if (chunk.bytes.size() > expected - received)
    return Error{Errc::protocol_error, "a chunk ends at byte " + std::to_string(chunk.offset + chunk.bytes.size()) +
                                           " of a transfer of " + std::to_string(expected) + " bytes"};
  return {};
}

Result<bool> TensorReceiver::add(const Chunk& chunk) {
  TRIB_TRY(check_chunk(chunk, id_, received_, expected_bytes_));
  hasher_.update(chunk.bytes);
  received_ += chunk.bytes.size();
  std::span<const std::byte> left = chunk.bytes;
  while (!left.empty()) {
    const std::span<std::byte> to = current_->second.bytes().subspan(current_offset_);
    const std::size_t count = std::min(to.size(), left.size());
    if (count > 0) std::memcpy(to.data(), left.data(), count);
    left = left.subspan(count);
    current_offset_ += count;
    if (count == to.size()) {
      ++current_;
      current_offset_ = 0;
    }
  }
  return received_ == expected_bytes_;
}

Result<TensorMap> TensorReceiver::finish() {
  if (received_ != expected_bytes_)
    return Error{Errc::protocol_error, "the transfer ended after " + std::to_string(received_) + " of " +
                                           std::to_string(expected_bytes_) + " bytes"};
  const Sha256 actual = hasher_.finish();
  if (actual != sha256_)
    return Error{Errc::protocol_error, "the transfer's checksum is " + to_hex(actual) + ", announced was " +
                                           to_hex(sha256_) + ": send it again"};
  if (const Status finite = tensors_.check_finite(); !finite)
    return Error{Errc::protocol_error, finite.error().message};
  return std::move(tensors_);
}

}  // namespace trib::net
