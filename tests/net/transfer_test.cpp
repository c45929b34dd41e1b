#include "common/net/transfer.h"

#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include "tests/net/net_support.h"

namespace trib::net {
namespace {

TensorMap example_tensors() {
  TensorMap tensors;
  std::vector<float> big(700'000);
  for (std::size_t i = 0; i < big.size(); ++i) big[i] = static_cast<float>(i % 1000) * 0.5f;
  tensors["adapter.b"] = HostTensor::from_f32({1000, 700}, big);
  tensors["bias"] = HostTensor::from_f32({3}, std::array<float, 3>{1, 2, 3});
  tensors["empty"] = HostTensor(DType::f32, {0, 4});
  tensors["rotation"] = HostTensor::from_f64({2, 2}, std::array<double, 4>{1, 0, 0, 1});
  return tensors;
}

constexpr std::size_t no_limit = std::numeric_limits<std::size_t>::max();

std::vector<std::byte> bytes_of(const TensorMap& tensors) {
  std::vector<std::byte> bytes;
  for (const auto& [name, tensor] : tensors) bytes.insert(bytes.end(), tensor.bytes().begin(), tensor.bytes().end());
  return bytes;
}

// Feeds all bytes in chunks of `step`.
Result<TensorMap> feed(TensorReceiver& receiver, std::uint32_t id, std::span<const std::byte> bytes, std::size_t step) {
  for (std::size_t at = 0; at < bytes.size(); at += step)
    TRIB_TRY(receiver.add({id, at, bytes.subspan(at, std::min(step, bytes.size() - at))}));
  return receiver.finish();
}

TEST(Transfer, ArrivesEqualOverAChannel) {
  asio::io_context context;
  ChannelPair pair = make_channel_pair(context);
  const TensorMap tensors = example_tensors();
  const auto announcement = announce(3, tensors, tensors.schema());
  EXPECT_FALSE(announcement.has_schema());
  const auto sent = start(context, send_tensors(*pair.a, 3, tensors));
  auto receiver = TensorReceiver::begin(announcement, tensors.schema(), no_limit).value();
  bool complete = false;
  while (!complete) complete = receiver.add(run(context, pair.b->receive())->chunk).value();
  EXPECT_EQ(receiver.finish().value(), tensors);
  EXPECT_TRUE(wait_for(context, sent).ok());
  EXPECT_EQ(pair.a->bytes_sent(), frame_bytes(tensors, ChunkForm::plain));
}

TEST(Transfer, PackedArrivesEqualInFewerBytes) {
  asio::io_context context;
  ChannelPair pair = make_channel_pair(context);
  TensorMap tensors = example_tensors();
  std::vector<double> gram(300'000);
  for (std::size_t i = 0; i < gram.size(); ++i) gram[i] = 1000.0 + std::sin(static_cast<double>(i));
  tensors["gram"] = HostTensor::from_f64({300'000}, gram);
  tensors["noise"] = HostTensor(DType::f32, {40'000});  // is sent as it is
  std::mt19937 random(1);
  for (float& value : tensors["noise"].as<float>()) do
      value = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    while (!std::isfinite(value));

  const auto sent = start(context, send_tensors(*pair.a, 3, tensors, ChunkForm::packed));
  auto receiver = TensorReceiver::begin(announce(3, tensors, tensors.schema()), tensors.schema(), no_limit).value();
  bool complete = false;
  while (!complete) {
    const Frame frame = run(context, pair.b->receive()).value();
    EXPECT_EQ(frame.kind, FrameKind::chunk);
    complete = receiver.add(frame.chunk).value();
  }
  EXPECT_EQ(receiver.finish().value(), tensors);
  EXPECT_TRUE(wait_for(context, sent).ok());
  EXPECT_EQ(pair.a->bytes_sent(), frame_bytes(tensors, ChunkForm::packed));
  EXPECT_LT(static_cast<double>(pair.a->bytes_sent()), 0.9 * static_cast<double>(tensors.byte_count()));
}

TEST(Transfer, OfManySmallTensorsCostsLittleMoreThanTheirBytes) {
  asio::io_context context;
  ChannelPair pair = make_channel_pair(context);
  TensorMap tensors;
  for (int i = 0; i < 2000; ++i) tensors["layer." + std::to_string(i)] = HostTensor(DType::f32, {16, 8});
  const auto sent = start(context, send_tensors(*pair.a, 1, tensors));
  auto receiver = TensorReceiver::begin(announce(1, tensors, tensors.schema()), tensors.schema(), no_limit).value();
  bool complete = false;
  while (!complete) complete = receiver.add(run(context, pair.b->receive())->chunk).value();
  EXPECT_TRUE(wait_for(context, sent).ok());
  EXPECT_LE(static_cast<double>(pair.a->bytes_sent()), 1.001 * static_cast<double>(tensors.byte_count()));
}

TEST(Transfer, ChunksMayBeOfAnySize) {
  const TensorMap tensors = example_tensors();
  const auto bytes = bytes_of(tensors);
  for (const std::size_t step : {std::size_t{999}, std::size_t{65536}, bytes.size()}) {
    auto receiver = TensorReceiver::begin(announce(1, tensors, tensors.schema()), tensors.schema(), no_limit).value();
    EXPECT_EQ(feed(receiver, 1, bytes, step).value(), tensors) << step;
  }
}

// What the receiver says to a sender whose tensors are `theirs`.
Error refusal(const TensorMap& theirs, const TensorMap& ours) {
  return TensorReceiver::begin(announce(1, theirs, ours.schema()), ours.schema(), no_limit).error();
}

TEST(Transfer, NamesTheTensorThatDiffers) {
  const TensorMap ours = example_tensors();
  TensorMap renamed = ours;
  renamed.erase("bias");
  renamed["biaz"] = HostTensor(DType::f32, {3});
  EXPECT_NE(refusal(renamed, ours).message.find("lacks the tensor 'bias' F32 [3]"), std::string::npos)
      << refusal(renamed, ours).message;
  TensorMap extra = ours;
  extra["another"] = HostTensor(DType::f32, {3});
  EXPECT_NE(refusal(extra, ours).message.find("'another'"), std::string::npos);
  TensorMap reshaped = ours;
  reshaped["bias"] = HostTensor(DType::f32, {1, 3});
  EXPECT_NE(refusal(reshaped, ours).message.find("'bias' F32 [1, 3] instead of 'bias' F32 [3]"), std::string::npos);
  TensorMap retyped = ours;
  retyped["bias"] = HostTensor(DType::f16, {3});
  EXPECT_NE(refusal(retyped, ours).message.find("'bias' F16 [3] instead of"), std::string::npos);
  EXPECT_EQ(refusal(retyped, ours).code, Errc::protocol_error);
}

TEST(Transfer, RefusesAnAnnouncementThatContradictsItself) {
  const TensorMap tensors = example_tensors();
  const TensorSchema schema = tensors.schema();
  auto wrong_size = announce(1, tensors, schema);
  wrong_size.set_byte_count(wrong_size.byte_count() + 1);
  EXPECT_EQ(TensorReceiver::begin(wrong_size, schema, no_limit).error().code, Errc::protocol_error);
  auto no_checksum = announce(1, tensors, schema);
  no_checksum.clear_sha256();
  EXPECT_EQ(TensorReceiver::begin(no_checksum, schema, no_limit).error().code, Errc::protocol_error);
  auto unknown_schema = announce(1, tensors, schema);
  unknown_schema.set_schema_sha256(std::string(32, 'x'));
  EXPECT_EQ(TensorReceiver::begin(unknown_schema, schema, no_limit).error().code, Errc::protocol_error);
}

TEST(Transfer, RefusesMoreThanTheLimitBeforeAllocating) {
  const TensorMap tensors = example_tensors();
  const auto begun = TensorReceiver::begin(announce(1, tensors, tensors.schema()), tensors.schema(), 1000);
  ASSERT_FALSE(begun.ok());
  EXPECT_EQ(begun.error().code, Errc::limit_exceeded);
  EXPECT_NE(begun.error().message.find("limits.transfer_bytes = 1000"), std::string::npos) << begun.error().message;
}

TEST(Transfer, RefusesChunksThatAreReorderedRepeatedForeignOrTooLong) {
  const TensorMap tensors = example_tensors();
  const auto bytes = bytes_of(tensors);
  const std::span<const std::byte> all(bytes);
  const auto begin = [&] {
    return TensorReceiver::begin(announce(1, tensors, tensors.schema()), tensors.schema(), no_limit).value();
  };
  auto gap = begin();
  EXPECT_TRUE(gap.add({1, 0, all.first(10)}).ok());
  EXPECT_EQ(gap.add({1, 20, all.subspan(20, 10)}).error().code, Errc::protocol_error);
  auto repeated = begin();
  EXPECT_TRUE(repeated.add({1, 0, all.first(10)}).ok());
  EXPECT_EQ(repeated.add({1, 0, all.first(10)}).error().code, Errc::protocol_error);
  auto foreign = begin();
  EXPECT_EQ(foreign.add({2, 0, all.first(10)}).error().code, Errc::protocol_error);
  auto too_long = begin();
  EXPECT_TRUE(too_long.add({1, 0, all.first(all.size() - 1)}).ok());
  EXPECT_EQ(too_long.add({1, all.size() - 1, all.first(2)}).error().code, Errc::protocol_error);
}

TEST(Transfer, RefusesATruncatedTransfer) {
  const TensorMap tensors = example_tensors();
  const auto bytes = bytes_of(tensors);
  auto receiver = TensorReceiver::begin(announce(1, tensors, tensors.schema()), tensors.schema(), no_limit).value();
  EXPECT_FALSE(receiver.add({1, 0, std::span(bytes).first(bytes.size() - 1)}).value());
  const auto finished = receiver.finish();
  ASSERT_FALSE(finished.ok());
  EXPECT_EQ(finished.error().code, Errc::protocol_error);
}

TEST(Transfer, RefusesOneChangedBit) {
  const TensorMap tensors = example_tensors();
  auto bytes = bytes_of(tensors);
  bytes[12345] ^= std::byte{1};
  auto receiver = TensorReceiver::begin(announce(1, tensors, tensors.schema()), tensors.schema(), no_limit).value();
  const auto finished = feed(receiver, 1, bytes, 1u << 20);
  ASSERT_FALSE(finished.ok());
  EXPECT_NE(finished.error().message.find("checksum"), std::string::npos);
}

TEST(Transfer, RefusesANumberThatIsNotFiniteAndNamesItsTensor) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    TensorMap tensors = example_tensors();
    tensors["bias"].as<float>()[1] = bad;
    auto receiver = TensorReceiver::begin(announce(1, tensors, tensors.schema()), tensors.schema(), no_limit).value();
    const auto finished = feed(receiver, 1, bytes_of(tensors), 1u << 20);
    ASSERT_FALSE(finished.ok());
    EXPECT_EQ(finished.error().code, Errc::protocol_error);
    EXPECT_NE(finished.error().message.find("bias"), std::string::npos) << finished.error().message;
  }
}

TEST(Schema, SurvivesTheWire) {
  const TensorSchema schema = example_tensors().schema();
  EXPECT_EQ(from_proto(to_proto(schema)).value(), schema);
}

TEST(Schema, RefusesWhatNoTensorCanBe) {
  const auto refuse = [](const std::string& dtype, std::vector<std::int64_t> shape, bool twice = false) {
    tributary::proto::TensorSchema message;
    for (int i = 0; i < (twice ? 2 : 1); ++i) {
      auto* tensor = message.add_tensors();
      tensor->set_name("t");
      tensor->set_dtype(dtype);
      for (const std::int64_t dimension : shape) tensor->add_shape(dimension);
    }
    return from_proto(message).error().code;
  };
  EXPECT_EQ(refuse("F33", {1}), Errc::protocol_error);
  EXPECT_EQ(refuse("F32", {-1}), Errc::protocol_error);
  EXPECT_EQ(refuse("F32", {std::int64_t{1} << 40, std::int64_t{1} << 40}), Errc::protocol_error);
  EXPECT_EQ(refuse("F32", {1}, true), Errc::protocol_error);
}

}  // namespace
}  // namespace trib::net
