#include <gtest/gtest.h>

#include "common/net/channel.h"
#include "common/net/packing.h"

namespace trib::net {
namespace {

std::array<std::byte, 5> header(std::uint8_t a, std::uint8_t b, std::uint8_t c, std::uint8_t d, std::uint8_t kind) {
  return {std::byte{a}, std::byte{b}, std::byte{c}, std::byte{d}, std::byte{kind}};
}

TEST(Frame, HeaderIsLengthInBigEndianAndKind) {
  EXPECT_EQ(FrameCodec::make_header(FrameKind::message, 0x010203), header(0, 1, 2, 3, 1));
  const auto parsed = FrameCodec::parse_header(header(0, 1, 2, 3, 2), Limits{});
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(parsed->kind, FrameKind::chunk);
  EXPECT_EQ(parsed->payload_bytes, 0x010203u);
}

TEST(Frame, RefusesAnUnknownKind) {
  for (const std::uint8_t kind : {0, 4, 22, 255}) {  // 22: the first byte of a TLS record, a likely mistake
    const auto parsed = FrameCodec::parse_header(header(0, 0, 0, 1, kind), Limits{});
    ASSERT_FALSE(parsed.ok());
    EXPECT_EQ(parsed.error().code, Errc::protocol_error);
    EXPECT_NE(parsed.error().message.find(std::to_string(kind)), std::string::npos);
  }
}

TEST(Frame, RefusesAMessageOverItsLimitAndNamesTheLimit) {
  Limits limits;
  limits.message_bytes = 255;
  EXPECT_TRUE(FrameCodec::parse_header(header(0, 0, 0, 255, 1), limits).ok());
  const auto parsed = FrameCodec::parse_header(header(0, 0, 1, 0, 1), limits);
  ASSERT_FALSE(parsed.ok());
  EXPECT_EQ(parsed.error().code, Errc::limit_exceeded);
  EXPECT_NE(parsed.error().message.find("limits.message_bytes = 255"), std::string::npos) << parsed.error().message;
}

TEST(Frame, RefusesAChunkOverItsLimitOrWithoutBytes) {
  Limits limits;
  limits.chunk_bytes = 100;
  EXPECT_TRUE(FrameCodec::parse_header(header(0, 0, 0, 112, 2), limits).ok());
  EXPECT_EQ(FrameCodec::parse_header(header(0, 0, 0, 113, 2), limits).error().code, Errc::limit_exceeded);
  EXPECT_EQ(FrameCodec::parse_header(header(0, 0, 0, 12, 2), limits).error().code, Errc::protocol_error);
  EXPECT_EQ(FrameCodec::parse_header(header(0, 0, 0, 0, 2), limits).error().code, Errc::protocol_error);
}

TEST(Frame, APackedChunkIsUnpackedAndChecked) {
  std::vector<std::byte> bytes(8192), packed, unpacked;
  for (std::size_t i = 0; i < bytes.size(); i += 8) bytes[i] = static_cast<std::byte>(i / 8);
  ASSERT_TRUE(pack(bytes, packed));
  const auto payload = [&](std::uint32_t byte_count) {
    const auto chunk_header = FrameCodec::make_packed_chunk_header(7, 1 << 20, byte_count);
    std::vector<std::byte> all(chunk_header.begin(), chunk_header.end());
    all.insert(all.end(), packed.begin(), packed.end());
    return all;
  };
  const Chunk chunk = FrameCodec::unpack_chunk(payload(8192), Limits{}, unpacked).value();
  EXPECT_EQ(chunk.transfer_id, 7u);
  EXPECT_EQ(chunk.offset, 1u << 20);
  EXPECT_TRUE(std::ranges::equal(chunk.bytes, bytes));

  Limits limits;
  limits.chunk_bytes = 8191;
  const auto over = FrameCodec::unpack_chunk(payload(8192), limits, unpacked);
  EXPECT_EQ(over.error().code, Errc::limit_exceeded);
  EXPECT_NE(over.error().message.find("8192"), std::string::npos) << over.error().message;
  for (const std::uint32_t wrong : {0u, 8u, 8184u, 8200u})
    EXPECT_EQ(FrameCodec::unpack_chunk(payload(wrong), Limits{}, unpacked).error().code, Errc::protocol_error) << wrong;
  auto empty = payload(8192);
  empty.resize(FrameCodec::packed_chunk_header_bytes);
  EXPECT_EQ(FrameCodec::unpack_chunk(empty, Limits{}, unpacked).error().code, Errc::protocol_error);
  EXPECT_EQ(FrameCodec::parse_header(header(0, 0, 0, 16, 3), Limits{}).error().code, Errc::protocol_error);
  EXPECT_TRUE(FrameCodec::parse_header(header(0, 0, 0, 17, 3), Limits{}).ok());
}

TEST(Frame, AChunkCarriesItsTransferAndOffset) {
  const auto chunk_header = FrameCodec::make_chunk_header(0xAABBCCDD, 0x0102030405060708);
  std::vector<std::byte> payload(chunk_header.begin(), chunk_header.end());
  EXPECT_EQ(payload[0], std::byte{0xAA});
  EXPECT_EQ(payload[4], std::byte{0x01});
  EXPECT_FALSE(FrameCodec::parse_chunk(payload).ok());  // no tensor bytes
  payload.push_back(std::byte{7});
  const Chunk chunk = FrameCodec::parse_chunk(payload).value();
  EXPECT_EQ(chunk.transfer_id, 0xAABBCCDDu);
  EXPECT_EQ(chunk.offset, 0x0102030405060708u);
  ASSERT_EQ(chunk.bytes.size(), 1u);
  EXPECT_EQ(chunk.bytes[0], std::byte{7});
}

}  // namespace
}  // namespace trib::net
