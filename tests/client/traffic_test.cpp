// What a site sends, frame by frame, as it was before TLS: for neighbouring data sets, with the same sampling and
// noise, nothing may differ but the noised contribution. The session, the jobs of the site, the task and the base model
// are the daemon's own; the aggregator is scripted, around the task's real other half. When a frame is sent is not
// looked at.
#include <gmock/gmock.h>

#include <algorithm>
#include <sstream>

#include "kernels/device.h"
#include "tests/client/fake_aggregator.h"

namespace trib::client {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::int64_t declared = 40;
constexpr int rounds = 2;

constexpr const char* text_job = R"([job]
name = "reviews"
task = "lora_text"
rounds = 2
seed = 4

[model]
base = "roberta-mini-imdb"
labels = ["negative", "positive"]
max_tokens = 32

[adapter]
rank = 2

[training]
batch_size = 20
local_steps = 2

[privacy]
epsilon = 6.0
delta = 1e-5
)";

// A table of `count` opinions; every one is different.
std::string reviews(int count) {
  std::string table = "text\tlabel\n";
  for (int i = 0; i < count; ++i) {
    table += (i % 2 == 0 ? "a wonderful , moving film , number " : "awful and boring , number ") + std::to_string(i);
    table += i % 2 == 0 ? "\tpositive\n" : "\tnegative\n";
  }
  return table;
}

struct CapturedFrame {
  proto::ClientMessage message;  // empty for a chunk
  std::uint32_t transfer = 0;
  std::uint64_t offset = 0;
  std::string bytes;  // of a chunk
  bool is_chunk() const { return transfer != 0; }
};

struct Traffic {
  std::vector<CapturedFrame> frames;
  std::optional<double> loss;  // on the site's own screen: computed from records, so it must not be in the frames
  std::int64_t charges = 0;

  std::string text() const {  // everything that was sent
    std::string all;
    for (const CapturedFrame& frame : frames) all += frame.is_chunk() ? frame.bytes : frame.message.SerializeAsString();
    return all;
  }
};

// What may differ between neighbours is taken out, and counted: the contribution's bytes, and their checksum.
struct Redacted {
  std::vector<std::string> frames;
  std::vector<std::string> statements;     // without their signature, which is drawn anew each time; they are made
                                           // beside everything else, so where they stand among the frames is chance
  std::vector<std::string> contributions;  // the checksum, then the bytes, of each
};

Redacted redact(const Traffic& traffic) {
  Redacted result;
  for (const CapturedFrame& frame : traffic.frames) {
    if (frame.is_chunk()) {
      result.contributions.back() += frame.bytes;
      result.frames.push_back("chunk of transfer " + std::to_string(frame.transfer) + " at " +
                              std::to_string(frame.offset) + ", " + std::to_string(frame.bytes.size()) + " bytes");
      continue;
    }
    proto::ClientMessage message = frame.message;
    if (message.has_statement()) {
      const std::string& text = message.statement().text();
      result.statements.push_back(text.substr(0, text.rfind("\"signature\"")));
      continue;
    }
    if (message.has_contribution_start()) {
      auto& transfer = *message.mutable_contribution_start()->mutable_transfer();
      result.contributions.push_back(transfer.sha256());
      transfer.clear_sha256();
    }
    result.frames.push_back(message.DebugString());
  }
  return result;
}

class TrafficTest : public SessionFixture {
 protected:
  void SetUp() override {
    SessionFixture::SetUp();
    // Noise and sampling from a fixed key, as only a simulation may have them.
    site_.signer = signer_;
    site_.random_key = [] { return RandomKey::from_seed(5); };
    site_.data_sets["default"].declared_records = declared;
    std::ostringstream ledger;
    ledger << std::ifstream(directory_ / "ledger.jsonl", std::ios::binary).rdbuf();
    empty_ledger_ = ledger.str();
  }

  // The site as it was before it knew any job, over these records.
  void start_afresh(const std::string& data) {
    jobs_.reset();
    close_stores();
    std::ofstream(directory_ / "ledger.jsonl", std::ios::binary) << empty_ledger_;
    std::filesystem::remove_all(directory_ / "outbox");
    std::filesystem::remove_all(directory_ / "constants");
    std::ofstream(directory_ / "data.tsv", std::ios::binary) << data;
    open_stores();
    start_jobs();
    auto pair = net::make_channel_pair(context_);
    aggregator_ = std::move(pair.a);
    session_ = std::make_shared<Session>(std::move(pair.b), *jobs_, host_, std::uint64_t{1} << 24);
    ended_ = net::start(context_, session_->run());
    next_transfer_ = 1;
  }

  // Reads frames into `traffic` up to a message that `is_last` accepts, and returns it.
  template <typename Predicate>
  proto::ClientMessage read_until(Traffic& traffic, Predicate is_last) {
    while (true) {
      read_frame(traffic);
      if (testing::Test::HasFatalFailure()) return {};
      const CapturedFrame& frame = traffic.frames.back();
      if (!frame.is_chunk() && is_last(frame.message)) return frame.message;
    }
  }
  void read_frame(Traffic& traffic) {
    const auto frame = net::run(context_, aggregator_->receive());
    ASSERT_TRUE(frame) << frame.error().message;
    CapturedFrame captured;
    if (frame->kind == net::FrameKind::chunk) {
      captured.transfer = frame->chunk.transfer_id;
      captured.offset = frame->chunk.offset;
      captured.bytes.assign(reinterpret_cast<const char*>(frame->chunk.bytes.data()), frame->chunk.bytes.size());
    } else {
      auto message = net::parse_message<proto::ClientMessage>(*frame);
      ASSERT_TRUE(message) << message.error().message;
      captured.message = std::move(*message);
    }
    traffic.frames.push_back(std::move(captured));
  }
  void read_contribution(Traffic& traffic) {
    const auto start = read_until(traffic, [](const auto& message) { return message.has_contribution_start(); });
    std::uint64_t left = start.contribution_start().transfer().byte_count();
    while (left > 0) {
      ASSERT_NO_FATAL_FAILURE(read_frame(traffic));
      left -= traffic.frames.back().bytes.size();
    }
  }

  // Everything that the site sends from its hello to the end of the job's last round.
  Traffic train_on(const std::string& data) {
    site_.find_task = &tasks::find_task;
    site_.devices = {&kernels::cpu_device()};
    site_.model_directories = {std::filesystem::path(TRIBUTARY_SOURCE_DIR) / "base"};
    if (!shared_) site_.shared = shared_ = std::make_shared<tasks::SharedResources>();
    const tasks::JobSpec spec = tasks::read_job_text(text_job, "job.toml").value();
    const auto server =
        tasks::find_task("lora_text")
            .value()
            ->make_server(spec, {site_.devices.front(), site_.model_directories, directory_.path(), site_.shared})
            .value();
    const TensorMap broadcast = server->broadcast(server->initial_state().value()).value();

    proto::ServerMessage offer;
    offer.mutable_job_offer()->set_job_id("job-1");
    offer.mutable_job_offer()->set_job_file(text_job);
    *offer.mutable_job_offer()->mutable_broadcast_schema() = net::to_proto(server->broadcast_schema());
    *offer.mutable_job_offer()->mutable_contribution_schema() = net::to_proto(server->contribution_schema());
    *offer.mutable_job_offer()->mutable_constants_schema() = net::to_proto(server->constants().schema());
    const auto digest = server->constants().digest();
    offer.mutable_job_offer()->set_constants_sha256(digest.data(), digest.size());

    Traffic traffic;
    start_afresh(data);
    read_until(traffic, [](const auto& message) { return message.has_hello(); });
    welcome();
    send(offer);
    read_until(traffic, [](const auto& message) { return message.has_fetch_constants(); });
    proto::ServerMessage constants;
    constants.mutable_constants_start()->set_job_id("job-1");
    *constants.mutable_constants_start()->mutable_transfer() =
        net::announce(900, server->constants(), server->constants().schema());
    send(constants);
    EXPECT_TRUE(net::run(context_, net::send_tensors(*aggregator_, 900, server->constants())));
    for (int round = 1; round <= rounds; ++round) {
      start_round(round, broadcast);
      read_contribution(traffic);
      receipt(round);
      close_round(round);
    }
    const auto is_statement = [](const CapturedFrame& frame) { return frame.message.has_statement(); };
    traffic.loss = jobs_->status().at("job-1").loss;
    traffic.charges = charges();
    end_job();
    while (std::ranges::count_if(traffic.frames, is_statement) < 2) {  // after the welcome, and at the end
      read_frame(traffic);
      if (testing::Test::HasFatalFailure()) break;
    }
    disconnect();
    return traffic;
  }

  // Everything that the site sends when its data, or its training, is not as it should be: hello, refusal, refused
  // round.
  Traffic be_refused(const std::string& data) {
    Traffic traffic;
    start_afresh(data);
    read_until(traffic, [](const auto& message) { return message.has_hello(); });
    welcome();
    auto offer = offer_message();
    if (shared_) offer.mutable_job_offer()->set_job_file(text_job);
    send(offer);
    read_until(traffic, [](const auto& message) { return message.has_job_reply(); });
    start_round(1);
    read_until(traffic,
               [](const auto& message) { return message.has_round_reply() && !message.round_reply().accepted(); });
    disconnect();
    return traffic;
  }

  std::string empty_ledger_;                        // a new one would have another random name, and so other hashes
  std::shared_ptr<tasks::SharedResources> shared_;  // the base model, loaded once for all captures of a test
};

void expect_only_contributions_differ(const Traffic& one, const Traffic& other) {
  const Redacted a = redact(one), b = redact(other);
  EXPECT_EQ(a.frames, b.frames);
  EXPECT_EQ(a.statements, b.statements);
  EXPECT_EQ(a.statements.size(), 2U);
  ASSERT_EQ(a.contributions.size(), static_cast<std::size_t>(rounds));
  ASSERT_EQ(b.contributions.size(), static_cast<std::size_t>(rounds));
  EXPECT_NE(a.contributions, b.contributions) << "data sets that train alike show nothing";
}

TEST_F(TrafficTest, IsTheSameToTheLastByteForTheSameRecordsAndRandomness) {
  const Traffic first = train_on(reviews(declared)), second = train_on(reviews(declared));
  EXPECT_EQ(redact(first).frames, redact(second).frames);
  EXPECT_EQ(redact(first).statements, redact(second).statements);
  EXPECT_EQ(redact(first).contributions, redact(second).contributions);
  EXPECT_EQ(first.loss, second.loss);
}

TEST_F(TrafficTest, DiffersInNothingButTheContributionWhenOneRecordIsAdded) {
  const Traffic before = train_on(reviews(declared));
  const std::string added = "a record that is longer than all the others , and says something else altogether";
  // In front, so that it moves every line number and, in the same keystream, everybody's coin.
  std::string data = reviews(declared);
  data.insert(data.find('\n') + 1, added + "\tnegative\n");
  const Traffic after = train_on(data);
  expect_only_contributions_differ(before, after);
  EXPECT_EQ(before.charges, after.charges);
  ASSERT_TRUE(before.loss && after.loss);
  EXPECT_NE(*before.loss, *after.loss) << "the site's screen does tell them apart";
}

TEST_F(TrafficTest, DiffersInNothingButTheContributionWhenOneRecordIsRemovedOrAnother) {
  const Traffic whole = train_on(reviews(declared));
  expect_only_contributions_differ(whole, train_on(reviews(declared - 1)));
  expect_only_contributions_differ(whole, train_on(reviews(1)));
}

TEST_F(TrafficTest, DiffersInNothingButTheContributionWhenALabelIsAnother) {
  std::string data = reviews(declared);
  data.replace(data.find("\tpositive"), 9, "\tnegative");
  expect_only_contributions_differ(train_on(reviews(declared)), train_on(data));
}

TEST_F(TrafficTest, HoldsNoNumberOfTheSitesOwnScreen) {
  const Traffic traffic = train_on(reviews(declared));
  ASSERT_TRUE(traffic.loss);
  const double loss = *traffic.loss;
  const auto single = static_cast<float>(loss);
  EXPECT_THAT(traffic.text(), Not(HasSubstr(std::string(reinterpret_cast<const char*>(&loss), sizeof loss))));
  EXPECT_THAT(traffic.text(), Not(HasSubstr(std::string(reinterpret_cast<const char*>(&single), sizeof single))));
}

TEST_F(TrafficTest, DoesNotTellWhichRecordIsBadNorWhy) {
  train_on(reviews(declared));  // the site knows the real task from here on
  const std::string good = reviews(declared), secret = "patient-4711";
  std::string bad_first = good, bad_bytes = good + "caf\xe9 " + secret + "\tpositive\n";
  bad_first.insert(good.find('\n') + 1, "hello\t" + secret + "\n");
  const Traffic reference = be_refused(bad_first);
  ASSERT_FALSE(reference.frames.empty());
  for (const std::string& data : {bad_first, good + "hello\t" + secret + "-too\n", bad_bytes, good + secret + "\n",
                                  std::string("text\tkind\nhello\tpositive\n"), std::string(), good + "\t\t\t\n"}) {
    const Traffic traffic = be_refused(data);
    EXPECT_EQ(redact(traffic).frames, redact(reference).frames);
    EXPECT_THAT(traffic.text(), Not(HasSubstr("patient")));
    EXPECT_THAT(traffic.text(), Not(HasSubstr("data.tsv")));
    EXPECT_EQ(charges(), 0);
  }
}

TEST_F(TrafficTest, DoesNotTellWhatWentWrongWithARecordInTraining) {
  const auto fail_with = [&](std::string message) {
    behaviour_->train_error = Error{Errc::invalid_argument, std::move(message)};
    return be_refused(reviews(declared));
  };
  const Traffic one = fail_with("record 12 has no loss"), other = fail_with("record 7 ('patient-4711') is too long");
  EXPECT_EQ(redact(one).frames, redact(other).frames);
  EXPECT_THAT(other.text(), Not(HasSubstr("patient")));
  EXPECT_EQ(charges(), 1) << "what was charged for the round is spent";
}

}  // namespace
}  // namespace trib::client
