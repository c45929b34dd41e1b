#include "common/net/channel.h"

#include <boost/asio/read.hpp>
#include <boost/asio/steady_timer.hpp>

#include "proto/tributary.pb.h"
#include "tests/net/net_support.h"

namespace trib::net {
namespace {

using tributary::proto::ClientMessage;

ClientMessage progress_message(std::uint32_t step) {
  ClientMessage message;
  message.mutable_progress()->set_job_id("job-1");
  message.mutable_progress()->set_step(step);
  return message;
}

template <typename... Bytes>
void write_raw(RawPair& pair, Bytes... bytes) {
  const std::array<unsigned char, sizeof...(Bytes)> buffer = {static_cast<unsigned char>(bytes)...};
  asio::write(pair.raw, asio::buffer(buffer));
}

TEST(Channel, CarriesMessagesAndChunksInOrder) {
  asio::io_context context;
  ChannelPair pair = make_channel_pair(context);
  const std::vector<std::byte> bytes(100'000, std::byte{42});
  const auto sent = start(context, [](Channel& channel, std::span<const std::byte> data) -> asio::awaitable<Status> {
    Status status = co_await channel.send(progress_message(1));
    if (status) status = co_await channel.send_chunk(7, 5, data);
    if (status) status = co_await channel.send(progress_message(2));
    co_return status;
  }(*pair.a, bytes));
  EXPECT_EQ(parse_message<ClientMessage>(run(context, pair.b->receive()).value())->progress().step(), 1u);
  const Frame frame = run(context, pair.b->receive()).value();
  EXPECT_EQ(frame.kind, FrameKind::chunk);
  EXPECT_EQ(frame.chunk.transfer_id, 7u);
  EXPECT_EQ(frame.chunk.offset, 5u);
  EXPECT_TRUE(std::ranges::equal(frame.chunk.bytes, bytes));
  EXPECT_EQ(parse_message<ClientMessage>(run(context, pair.b->receive()).value())->progress().step(), 2u);
  EXPECT_TRUE(wait_for(context, sent).ok());
  EXPECT_EQ(pair.a->bytes_sent(), pair.b->bytes_received());
  EXPECT_GT(pair.a->bytes_sent(), bytes.size());
}

TEST(Channel, KeepsFramesWholeWhenManyCoroutinesSend) {
  asio::io_context context;
  ChannelPair pair = make_channel_pair(context);
  const std::vector<std::byte> bytes(300'000, std::byte{1});  // more than a socket's buffer: writes are interrupted
  constexpr std::uint32_t senders = 20;
  for (std::uint32_t i = 0; i < senders; ++i) {
    start(context, [](Channel& channel, std::uint32_t id, std::span<const std::byte> data) -> asio::awaitable<Status> {
      Status status = co_await channel.send_chunk(id, 0, data);
      if (status) status = co_await channel.send(progress_message(id));
      co_return status;
    }(*pair.a, i, bytes));
  }
  std::vector<std::uint32_t> chunk_order, message_order;
  for (std::uint32_t i = 0; i < 2 * senders; ++i) {
    const Frame frame = run(context, pair.b->receive()).value();
    if (frame.kind == FrameKind::chunk) {
      EXPECT_EQ(frame.chunk.bytes.size(), bytes.size());
      chunk_order.push_back(frame.chunk.transfer_id);
    } else {
      message_order.push_back(parse_message<ClientMessage>(frame)->progress().step());
    }
  }
  EXPECT_TRUE(std::ranges::is_sorted(chunk_order));
  EXPECT_TRUE(std::ranges::is_sorted(message_order));
  EXPECT_EQ(message_order.size(), senders);
}

TEST(Channel, RefusesToParseAChunkAsAMessageAndGarbageAsAny) {
  asio::io_context context;
  RawPair pair = make_raw_pair(context);
  write_raw(pair, 0, 0, 0, 13, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 9);
  EXPECT_EQ(parse_message<ClientMessage>(run(context, pair.channel->receive()).value()).error().code,
            Errc::protocol_error);
  write_raw(pair, 0, 0, 0, 2, 1, 0xff, 0xff);
  EXPECT_EQ(parse_message<ClientMessage>(run(context, pair.channel->receive()).value()).error().code,
            Errc::protocol_error);
}

TEST(Channel, SaysWhetherThePeerLeftWithinAFrame) {
  asio::io_context context;
  {
    RawPair pair = make_raw_pair(context);
    write_raw(pair, 0, 0, 0, 10, 1, 1, 2, 3);
    pair.raw.close();
    const auto frame = run(context, pair.channel->receive());
    ASSERT_FALSE(frame.ok());
    EXPECT_EQ(frame.error().code, Errc::unavailable);
    EXPECT_NE(frame.error().message.find("within a frame"), std::string::npos) << frame.error().message;
  }
  RawPair pair = make_raw_pair(context);
  pair.raw.close();
  const auto frame = run(context, pair.channel->receive());
  ASSERT_FALSE(frame.ok());
  EXPECT_NE(frame.error().message.find("between two frames"), std::string::npos) << frame.error().message;
}

TEST(Channel, AnOversizedFrameEndsTheChannelBeforeAnythingIsAllocated) {
  asio::io_context context;
  RawPair pair = make_raw_pair(context);
  write_raw(pair, 0xff, 0xff, 0xff, 0xff, 1);
  EXPECT_EQ(run(context, pair.channel->receive()).error().code, Errc::limit_exceeded);
  EXPECT_EQ(run(context, pair.channel->receive()).error().code, Errc::limit_exceeded);
}

TEST(Channel, CanStillTellThePeerWhyItWasNotUnderstood) {
  asio::io_context context;
  RawPair pair = make_raw_pair(context);
  write_raw(pair, 0, 0, 0, 1, 77, 0);
  EXPECT_EQ(run(context, pair.channel->receive()).error().code, Errc::protocol_error);
  EXPECT_TRUE(run(context, pair.channel->send(progress_message(1))).ok());
  std::array<unsigned char, 5> header{};
  asio::read(pair.raw, asio::buffer(header));
  EXPECT_EQ(header[4], 1);
}

TEST(Channel, RefusesToSendAMessageOverTheLimitAndStaysUsable) {
  asio::io_context context;
  Limits limits;
  limits.message_bytes = 100;
  ChannelPair pair = make_channel_pair(context, limits);
  ClientMessage big;
  big.mutable_job_reply()->set_reason(std::string(200, 'x'));
  EXPECT_EQ(run(context, pair.a->send(big)).error().code, Errc::limit_exceeded);
  EXPECT_TRUE(run(context, pair.a->send(progress_message(3))).ok());
  EXPECT_EQ(parse_message<ClientMessage>(run(context, pair.b->receive()).value())->progress().step(), 3u);
}

TEST(Channel, EndsAfterTheIdleTimeoutAndNamesIt) {
  asio::io_context context;
  Limits limits;
  limits.idle_timeout = Milliseconds(50);
  ChannelPair pair = make_channel_pair(context, limits);
  const auto frame = run(context, pair.a->receive());
  ASSERT_FALSE(frame.ok());
  EXPECT_EQ(frame.error().code, Errc::deadline_exceeded);
  EXPECT_NE(frame.error().message.find("limits.idle_timeout"), std::string::npos) << frame.error().message;
}

TEST(Channel, StaysOpenWhileBytesComeWithinTheIdleTimeout) {
  asio::io_context context;
  Limits limits;
  limits.idle_timeout = Milliseconds(200);
  ChannelPair pair = make_channel_pair(context, limits);
  start(context, [](Channel& channel) -> asio::awaitable<Status> {
    asio::steady_timer timer(channel.executor());
    Status status;
    for (std::uint32_t i = 0; i < 5 && status; ++i) {
      timer.expires_after(Milliseconds(80));
      co_await timer.async_wait(asio::use_awaitable);
      status = co_await channel.send(progress_message(i));
    }
    co_return status;
  }(*pair.b));
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(run(context, pair.a->receive()).ok());
}

TEST(Channel, EndsAfterTheWriteTimeoutWhenThePeerStopsReading) {
  asio::io_context context;
  Limits limits;
  limits.write_timeout = Milliseconds(80);
  RawPair pair = make_raw_pair(context, limits);
  const std::vector<std::byte> bytes(1u << 20);
  const auto sent = start(context, [](Channel& channel, std::span<const std::byte> data) -> asio::awaitable<Status> {
    Status status;
    while (status) status = co_await channel.send_chunk(1, 0, data);
    co_return status;
  }(*pair.channel, bytes));
  const Status status = wait_for(context, sent);
  EXPECT_EQ(status.error().code, Errc::deadline_exceeded);
  EXPECT_NE(status.error().message.find("limits.write_timeout"), std::string::npos) << status.error().message;
}

TEST(Channel, CloseEndsPendingCalls) {
  asio::io_context context;
  ChannelPair pair = make_channel_pair(context);
  const auto received = start(context, pair.a->receive());
  context.poll();
  pair.a->close();
  EXPECT_EQ(wait_for(context, received).error().code, Errc::cancelled);
  EXPECT_EQ(run(context, pair.a->send(progress_message(1))).error().code, Errc::cancelled);
}

TEST(Channel, MayBeDestroyedWhileACallIsPending) {
  asio::io_context context;
  ChannelPair pair = make_channel_pair(context);
  const auto received = start(context, pair.a->receive());
  context.poll();
  pair.a.reset();
  EXPECT_EQ(wait_for(context, received).error().code, Errc::cancelled);
}

TEST(Channel, FinishDeliversTheLastMessageEvenIfThePeerIsStillSending) {
  asio::io_context context;
  ChannelPair pair = make_channel_pair(context);
  const std::vector<std::byte> bytes(1u << 20);
  start(context, [](Channel& channel, std::span<const std::byte> data) -> asio::awaitable<Status> {
    Status status;
    for (int i = 0; i < 8 && status; ++i) status = co_await channel.send_chunk(1, 0, data);
    channel.close();
    co_return status;
  }(*pair.b, bytes));
  const auto farewell = start(context, [](Channel& channel) -> asio::awaitable<Status> {
    Status status = co_await channel.send(progress_message(99));
    co_await channel.finish(Milliseconds(5'000));
    co_return status;
  }(*pair.a));
  const auto frame = run(context, pair.b->receive());
  ASSERT_TRUE(frame.ok()) << frame.error().message;
  EXPECT_EQ(parse_message<ClientMessage>(*frame)->progress().step(), 99u);
  EXPECT_TRUE(wait_for(context, farewell).ok());
}

TEST(Channel, FinishGivesUpOnAPeerThatDoesNotClose) {
  asio::io_context context;
  ChannelPair pair = make_channel_pair(context);
  const auto before = std::chrono::steady_clock::now();
  run(context,
      [](Channel& channel) -> asio::awaitable<Status> {
        co_await channel.finish(Milliseconds(50));
        co_return Status();
      }(*pair.a))
      .value();
  EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::seconds(5));
  EXPECT_EQ(run(context, pair.a->receive()).error().code, Errc::cancelled);
}

}  // namespace
}  // namespace trib::net
