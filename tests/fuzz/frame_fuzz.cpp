// Any bytes as a stream of frames: never more is believed than was sent, and limits hold before anything is allocated.
#include <gtest/gtest.h>

#include "common/net/channel.h"
#include "common/net/packing.h"
#include "tests/fuzz/fuzz_target.h"

namespace {

using trib::net::FrameCodec;
using trib::net::FrameKind;

constexpr std::size_t message_limit = 4096;

void require(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  trib::net::Limits limits;
  limits.message_bytes = message_limit;
  limits.chunk_bytes = message_limit;
  auto left = std::as_bytes(std::span(data, size));
  while (left.size() >= FrameCodec::header_bytes) {
    const auto header_bytes = left.first<FrameCodec::header_bytes>();
    const auto header = FrameCodec::parse_header(header_bytes, limits);
    if (!header) break;
    // What was parsed is written as it came, and within the limits.
    const auto written = FrameCodec::make_header(header->kind, header->payload_bytes);
    require(std::ranges::equal(written, header_bytes));
    require(header->payload_bytes <= message_limit + FrameCodec::packed_chunk_header_bytes);
    left = left.subspan(FrameCodec::header_bytes);
    if (left.size() < header->payload_bytes) break;
    const auto payload = left.first(header->payload_bytes);
    left = left.subspan(header->payload_bytes);
    if (header->kind == FrameKind::packed_chunk) {
      std::vector<std::byte> unpacked;
      const auto chunk = FrameCodec::unpack_chunk(payload, limits, unpacked);
      require(!chunk || (chunk->bytes.size() <= message_limit && chunk->bytes.data() == unpacked.data()));
      continue;
    }
    if (header->kind != FrameKind::chunk) continue;
    const auto chunk = FrameCodec::parse_chunk(payload);
    require(chunk.ok() && chunk->bytes.size() + FrameCodec::chunk_header_bytes == payload.size());
    const auto chunk_header = FrameCodec::make_chunk_header(chunk->transfer_id, chunk->offset);
    require(std::ranges::equal(chunk_header, payload.first(FrameCodec::chunk_header_bytes)));
  }
  return 0;
}

#ifndef TRIBUTARY_LIBFUZZER
TEST(FrameFuzz, SurvivesItsCorpus) {
  const std::string message("\0\0\0\3\1abc", 8);
  const std::string chunk("\0\0\0\15\2\0\0\0\1\0\0\0\0\0\0\0\0x", 18);
  const std::string oversized("\xff\xff\xff\xff\1", 5);
  std::vector<std::byte> packed;
  ASSERT_TRUE(trib::net::pack(std::vector<std::byte>(2048, std::byte{7}), packed));
  const auto as_text = [](const auto& bytes) {
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  const std::string packed_chunk =
      as_text(FrameCodec::make_header(FrameKind::packed_chunk, FrameCodec::packed_chunk_header_bytes + packed.size())) +
      as_text(FrameCodec::make_packed_chunk_header(1, 0, 2048)) + as_text(packed);
  EXPECT_GT(trib::fuzz::run_corpus({message, chunk, message + chunk + message, oversized, packed_chunk}, 20'000),
            100'000u);
}
#endif
