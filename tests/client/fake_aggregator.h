// The other end of a session: speaks the aggregator's half of the protocol, one expected message at a time.
#pragma once

#include <boost/asio/executor_work_guard.hpp>
#include <optional>
#include <string>
#include <vector>

#include "client/session.h"
#include "tests/client/site_fixture.h"
#include "tests/net/net_support.h"

namespace trib::client {

inline constexpr const char* job_file = R"([job]
name = "domains"
task = "lora_text"
rounds = 20

[model]
base = "tiny"
labels = ["a", "b"]
)";

struct FakeHost final : SessionHost {
  proto::Hello hello() override {
    proto::Hello hello;
    hello.set_protocol_version(protocol_version);
    return hello;
  }
  Status welcomed(const proto::Welcome&) override { return welcome_status; }
  std::optional<std::string> renewal_request() override { return std::exchange(request, std::nullopt); }
  Status renewed(const std::string& pem) override {
    renewed_pem = pem;
    return {};
  }

  Status welcome_status;
  std::optional<std::string> request;
  std::string renewed_pem;
};

class SessionFixture : public SiteFixture {
 protected:
  void SetUp() override {
    SiteFixture::SetUp();
    start_jobs();
  }
  void TearDown() override {
    disconnect();
    jobs_.reset();
  }

  // As after a start of the process.
  void start_jobs() {
    jobs_.reset();
    jobs_ = std::make_unique<SiteJobs>(context_.get_executor(), site_, directory_ / "constants", [] {});
  }

  // A connection up to and including the hello.
  proto::Hello connect() {
    auto pair = net::make_channel_pair(context_);
    aggregator_ = std::move(pair.a);
    session_ = std::make_shared<Session>(std::move(pair.b), *jobs_, host_, std::uint64_t{1} << 20);
    ended_ = net::start(context_, session_->run());
    return next().hello();
  }
  void welcome(std::uint32_t heartbeat_ms = 60'000, bool takes_packed_chunks = false) {
    proto::ServerMessage message;
    message.mutable_welcome()->set_protocol_version(protocol_version);
    message.mutable_welcome()->set_heartbeat_interval_ms(heartbeat_ms);
    message.mutable_welcome()->set_takes_packed_chunks(takes_packed_chunks);
    send(message);
  }
  // Breaks the connection, as a crash of the aggregator does.
  void disconnect() {
    if (!session_) return;
    aggregator_->close();
    net::wait_for(context_, ended_);
    session_.reset();
    aggregator_.reset();
  }
  // Why the session ended, after its goodbye.
  Error end_of_session() {
    aggregator_->close();
    Error error = net::wait_for(context_, ended_);
    session_.reset();
    return error;
  }

  void send(const proto::ServerMessage& message) { ASSERT_TRUE(net::run(context_, aggregator_->send(message))); }
  // The next message that is not a heartbeat or progress, which are counted.
  proto::ClientMessage next() {
    while (true) {
      auto frame = net::run(context_, aggregator_->receive());
      if (!frame) {
        ADD_FAILURE() << "the session ended: " << frame.error().message;
        return {};
      }
      auto message = net::parse_message<proto::ClientMessage>(*frame);
      if (!message) {
        ADD_FAILURE() << message.error().message;
        return {};
      }
      if (message->has_heartbeat()) {
        ++heartbeats_;
      } else if (message->has_progress()) {
        progress_messages_.push_back(message->progress());
      } else {
        return *message;
      }
    }
  }

  static proto::ServerMessage offer_message(const std::string& id = "job-1",
                                            const std::optional<TensorMap>& constants = std::nullopt) {
    proto::ServerMessage message;
    auto& offer = *message.mutable_job_offer();
    offer.set_job_id(id);
    offer.set_job_file(job_file);
    *offer.mutable_broadcast_schema() = net::to_proto(tensors_of(0).schema());
    *offer.mutable_contribution_schema() = net::to_proto(tensors_of(0).schema());
    if (constants) {
      *offer.mutable_constants_schema() = net::to_proto(constants->schema());
      const auto digest = constants->digest();
      offer.set_constants_sha256(digest.data(), digest.size());
    }
    return message;
  }
  // Connects and takes the site's acceptance of the job.
  void connect_and_offer(const std::string& id = "job-1", std::uint32_t heartbeat_ms = 60'000) {
    connect();
    welcome(heartbeat_ms);
    send(offer_message(id));
    const auto reply = next();
    ASSERT_TRUE(reply.has_job_reply());
    ASSERT_TRUE(reply.job_reply().accepted()) << reply.job_reply().reason();
  }

  void start_round(std::int64_t round, const TensorMap& broadcast = tensors_of(1), const std::string& id = "job-1",
                   std::uint32_t last_counted = 0) {
    const std::uint32_t transfer = next_transfer_++;
    proto::ServerMessage message;
    message.mutable_round_start()->set_job_id(id);
    message.mutable_round_start()->set_round(static_cast<std::uint32_t>(round));
    message.mutable_round_start()->set_last_counted_round(last_counted);
    *message.mutable_round_start()->mutable_transfer() = net::announce(transfer, broadcast, broadcast.schema());
    send(message);
    ASSERT_TRUE(net::run(context_, net::send_tensors(*aggregator_, transfer, broadcast)));
  }
  proto::RoundReply round_reply() {
    const auto message = next();
    EXPECT_TRUE(message.has_round_reply()) << message.ShortDebugString();
    return message.round_reply();
  }
  // ContributionStart and the tensors that follow it.
  OutboxEntry contribution() {
    const auto message = next();
    EXPECT_TRUE(message.has_contribution_start()) << message.ShortDebugString();
    const auto& start = message.contribution_start();
    OutboxEntry entry{
        .job = start.job_id(), .round = start.round(), .weight = start.weight(), .is_private = start.is_private()};
    auto receiver = net::TensorReceiver::begin(start.transfer(), tensors_of(0).schema(), 1 << 20);
    EXPECT_TRUE(receiver) << receiver.error().message;
    if (!receiver) return entry;
    while (true) {
      auto frame = net::run(context_, aggregator_->receive());
      EXPECT_TRUE(frame.ok());
      if (!frame) return entry;
      if (frame->kind != net::FrameKind::chunk) continue;  // a heartbeat between
      const auto complete = receiver->add(frame->chunk);
      EXPECT_TRUE(complete.ok());
      if (!complete || *complete) break;
    }
    entry.tensors = receiver->finish().value();
    return entry;
  }
  void receipt(std::int64_t round, bool accepted = true) {
    proto::ServerMessage message;
    message.mutable_contribution_receipt()->set_job_id("job-1");
    message.mutable_contribution_receipt()->set_round(static_cast<std::uint32_t>(round));
    message.mutable_contribution_receipt()->set_accepted(accepted);
    send(message);
  }
  void close_round(std::int64_t round) {
    proto::ServerMessage message;
    message.mutable_round_closed()->set_job_id("job-1");
    message.mutable_round_closed()->set_round(static_cast<std::uint32_t>(round));
    send(message);
  }
  // Lets the session act on everything that was sent, until `done`.
  template <typename Condition>
  void run_until(Condition done) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (!done() && std::chrono::steady_clock::now() < deadline) {
      const auto work = net::asio::make_work_guard(context_);  // what is awaited may come from another thread
      context_.restart();
      context_.run_one_for(std::chrono::milliseconds(50));
    }
    ASSERT_TRUE(done());
  }

  net::asio::io_context context_;
  FakeHost host_;
  std::unique_ptr<SiteJobs> jobs_;
  std::unique_ptr<net::Channel> aggregator_;
  std::shared_ptr<Session> session_;
  std::shared_ptr<std::optional<Error>> ended_;
  std::uint32_t next_transfer_ = 1;
  proto::Statement statement() {
    const auto message = next();
    EXPECT_TRUE(message.has_statement()) << message.ShortDebugString();
    return message.statement();
  }
  void end_job(const std::string& id = "job-1") {
    proto::ServerMessage message;
    message.mutable_job_ended()->set_job_id(id);
    message.mutable_job_ended()->set_outcome("finished");
    send(message);
  }
  void ask_for_statement() {
    proto::ServerMessage message;
    message.mutable_statement_request();
    send(message);
  }

  int heartbeats_ = 0;
  std::vector<proto::Progress> progress_messages_;
};

}  // namespace trib::client
