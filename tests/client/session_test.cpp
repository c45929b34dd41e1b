#include "client/session.h"

#include <gmock/gmock.h>

#include <latch>
#include <limits>

#include "tests/client/fake_aggregator.h"

namespace trib::client {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

class SessionTest : public SessionFixture {};

TEST_F(SessionTest, TrainsARoundAndSendsWhatItMade) {
  connect_and_offer();
  start_round(3, tensors_of(0.25F), "job-1", 2);
  EXPECT_TRUE(round_reply().accepted());
  const OutboxEntry sent = contribution();
  EXPECT_EQ(sent.job, "job-1");
  EXPECT_EQ(sent.round, 3);
  EXPECT_EQ(sent.weight, 1000.0);
  EXPECT_TRUE(sent.is_private);
  EXPECT_EQ(sent.tensors, tensors_of(3250.0F));
  EXPECT_EQ(behaviour_->last_counted, 2);
  EXPECT_TRUE(outbox_->contains("job-1", 3)) << "it stays until the round is closed";
  receipt(3);
  close_round(3);
  run_until([&] { return !outbox_->contains("job-1", 3); });
}

// Bytes on the wire of the contribution to a job, 512 equal numbers.
class PackingTest : public SessionFixture {
 protected:
  std::uint64_t bytes_sent_for(const std::string& file, bool takes_packed_chunks) {
    connect();
    welcome(60'000, takes_packed_chunks);
    auto message = offer_message();
    message.mutable_job_offer()->set_job_file(file);
    send(message);
    const auto reply = next();
    EXPECT_TRUE(reply.job_reply().accepted()) << reply.job_reply().reason();
    start_round(1, tensors_of(0.25F));
    EXPECT_TRUE(round_reply().accepted());
    const std::uint64_t before = aggregator_->bytes_received();
    EXPECT_EQ(contribution().tensors, tensors_of(1250.0F));
    return aggregator_->bytes_received() - before;
  }
};

TEST_F(PackingTest, IsForAnAggregatorThatReadsIt) {
  EXPECT_LT(bytes_sent_for(job_file, true), tensors_of(0).byte_count() / 2);
}

TEST_F(PackingTest, IsNotForAnOlderAggregator) {
  EXPECT_GT(bytes_sent_for(job_file, false), tensors_of(0).byte_count());
}

TEST_F(PackingTest, IsNotForWhatTheAggregatorIsStillToNoise) {
  site_.data_sets["default"].allow_non_private = true;
  behaviour_->is_private = false;
  start_jobs();
  const std::string file = R"([job]
name = "films"
task = "cold_start"
rounds = 20
[selection]
order = "poisson"
clients_per_round = 10
expected_clients = 100
[privacy]
noise_by = "aggregator"
)";
  EXPECT_GT(bytes_sent_for(file, true), tensors_of(0).byte_count()) << "its size would tell of its values";
}

TEST_F(SessionTest, TellsTheDeclaredSizeAndNotTheExactOne) {
  connect();
  welcome();
  send(offer_message());
  EXPECT_EQ(next().job_reply().declared_records(), declared_records);
}

TEST_F(SessionTest, ReportsStepsAndEpsilonWhileItTrains) {
  connect_and_offer();
  start_round(1);
  round_reply();
  contribution();
  ASSERT_FALSE(progress_messages_.empty());
  const auto& progress = progress_messages_.front();
  EXPECT_EQ(progress.steps(), behaviour_->steps);
  EXPECT_GT(progress.epsilon_spent(), 0.0);
  EXPECT_EQ(progress.epsilon_budget(), 8.0);
  EXPECT_EQ(progress.ledger_head().count(), 1);
}

TEST_F(SessionTest, SendsTheSameBytesAgainAfterAReconnectAndARestart) {
  connect_and_offer();
  start_round(1);
  round_reply();
  const OutboxEntry first = contribution();
  disconnect();

  connect_and_offer();
  start_round(1, tensors_of(77));
  EXPECT_TRUE(round_reply().accepted());
  EXPECT_EQ(contribution().tensors.digest(), first.tensors.digest());
  disconnect();

  jobs_.reset();
  open_stores();
  start_jobs();
  connect_and_offer();
  start_round(1, tensors_of(78));
  EXPECT_TRUE(round_reply().accepted());
  EXPECT_EQ(contribution().tensors.digest(), first.tensors.digest());
  EXPECT_EQ(behaviour_->trained, 1);
  EXPECT_EQ(charges(), 1);
}

TEST_F(SessionTest, KeepsTrainingThroughABrokenConnection) {
  std::latch may_go_on(1);
  behaviour_->at_step = [&](std::int64_t step) {
    if (step == 2) may_go_on.wait();
  };
  connect_and_offer();
  start_round(1);
  EXPECT_TRUE(round_reply().accepted());
  run_until([&] { return jobs_->is_training(); });
  disconnect();

  connect_and_offer();
  start_round(1);
  EXPECT_TRUE(round_reply().accepted());
  may_go_on.count_down();
  EXPECT_EQ(contribution().round, 1);
  EXPECT_EQ(behaviour_->trained, 1);
  EXPECT_EQ(charges(), 1);
}

TEST_F(SessionTest, KeepsWhatWasFinishedWhileDisconnected) {
  std::latch may_go_on(1);
  behaviour_->at_step = [&](std::int64_t step) {
    if (step == 1) may_go_on.wait();
  };
  connect_and_offer();
  start_round(1);
  round_reply();
  run_until([&] { return jobs_->is_training(); });
  disconnect();
  may_go_on.count_down();
  run_until([&] { return !jobs_->is_training(); });
  EXPECT_TRUE(outbox_->contains("job-1", 1));
}

TEST_F(SessionTest, HeartbeatsWhileItTrains) {
  std::latch may_go_on(1);
  behaviour_->at_step = [&](std::int64_t step) {
    if (step == 1) may_go_on.wait();
  };
  connect_and_offer("job-1", 50);
  start_round(1);
  EXPECT_TRUE(round_reply().accepted());
  const int before = heartbeats_;
  net::asio::steady_timer timer(context_, std::chrono::milliseconds(400));
  timer.async_wait([&](const boost::system::error_code& error) {
    if (!error) may_go_on.count_down();
  });
  contribution();
  EXPECT_TRUE(jobs_->status().at("job-1").loss.has_value()) << "the loss is for the site's own screen";
  EXPECT_GE(heartbeats_ - before, 3);
}

TEST_F(SessionTest, SaysWhyItRefusesAJob) {
  behaviour_->is_private = false;
  connect();
  welcome();
  send(offer_message());
  const auto reply = next().job_reply();
  EXPECT_FALSE(reply.accepted());
  EXPECT_THAT(reply.reason(), HasSubstr("allow_non_private"));
  start_round(1);
  const auto round = round_reply();
  EXPECT_FALSE(round.accepted());
  EXPECT_TRUE(round.final());
}

TEST_F(SessionTest, RefusesAJobFileThatItCannotRead) {
  connect();
  welcome();
  auto message = offer_message();
  message.mutable_job_offer()->set_job_file(std::string(job_file) + "colour = 1\n");
  send(message);
  const auto reply = next().job_reply();
  EXPECT_FALSE(reply.accepted());
  EXPECT_THAT(reply.reason(), HasSubstr("colour"));
}

TEST_F(SessionTest, DeclinesOverBudgetForGood) {
  behaviour_->noise_multiplier = 0.6;
  behaviour_->steps = 1;
  connect_and_offer();
  for (std::int64_t round = 1; round <= 20; ++round) {
    start_round(round);
    const auto reply = round_reply();
    if (reply.accepted()) {
      contribution();
      if (round == 1) {
        // Another job spends the rest meanwhile.
        privacy::Charge other = ledger_->entries()[0].charge;
        other.job = "other";
        for (const std::int64_t steps : {10'000, 1'000, 100, 10, 1}) {
          other.mechanism.steps = steps;
          while (ledger_->charge(other)) ++other.round;
        }
      }
      continue;
    }
    EXPECT_TRUE(reply.over_budget());
    EXPECT_TRUE(reply.final());
    EXPECT_THAT(reply.reason(), HasSubstr("epsilon"));
    EXPECT_EQ(round, 2);
    return;
  }
  FAIL() << "the cap was never reached";
}

TEST_F(SessionTest, DeclinesARoundOfAJobThatWasNotOffered) {
  connect();
  welcome();
  start_round(1, tensors_of(1), "nobody");
  const auto reply = round_reply();
  EXPECT_FALSE(reply.accepted());
  EXPECT_THAT(reply.reason(), HasSubstr("not offered"));
}

TEST_F(SessionTest, TakesALaterRoundAsTheEndOfTheEarlierOnes) {
  connect_and_offer();
  start_round(1);
  round_reply();
  contribution();
  start_round(2);
  round_reply();
  contribution();
  EXPECT_FALSE(outbox_->contains("job-1", 1));
  EXPECT_TRUE(outbox_->contains("job-1", 2));
}

TEST_F(SessionTest, GivesUpTheRoundThatTheAggregatorClosed) {
  std::latch closed(1);
  behaviour_->at_step = [&](std::int64_t step) {
    if (step == 2) closed.wait();
  };
  connect_and_offer();
  start_round(1);
  EXPECT_TRUE(round_reply().accepted());
  run_until([&] { return jobs_->is_training(); });
  close_round(1);
  proto::ServerMessage end;  // is acted on after the close
  end.mutable_heartbeat();
  send(end);
  net::asio::steady_timer timer(context_, std::chrono::milliseconds(100));
  timer.async_wait([&](const boost::system::error_code& error) {
    if (!error) closed.count_down();
  });
  const auto reply = round_reply();
  EXPECT_FALSE(reply.accepted());
  EXPECT_FALSE(outbox_->contains("job-1", 1));
  EXPECT_EQ(charges(), 1);
}

TEST_F(SessionTest, ForgetsAJobThatEnded) {
  connect_and_offer();
  start_round(1);
  round_reply();
  contribution();
  proto::ServerMessage message;
  message.mutable_job_ended()->set_job_id("job-1");
  send(message);
  run_until([&] { return jobs_->status().empty(); });
  EXPECT_THAT(outbox_->list(), SizeIs(0));
}

TEST_F(SessionTest, TrainsTheRoundsOfTwoJobsOneAfterTheOther) {
  connect();
  welcome();
  send(offer_message("job-1"));
  EXPECT_TRUE(next().job_reply().accepted());
  send(offer_message("job-2"));
  EXPECT_TRUE(next().job_reply().accepted());
  start_round(1, tensors_of(1), "job-1");
  start_round(1, tensors_of(2), "job-2");
  EXPECT_TRUE(round_reply().accepted());
  EXPECT_TRUE(round_reply().accepted());
  const OutboxEntry one = contribution(), two = contribution();
  EXPECT_EQ(one.job, "job-1");
  EXPECT_EQ(two.job, "job-2");
  EXPECT_EQ(two.tensors, tensors_of(3000.0F));
}

TEST_F(SessionTest, FetchesConstantsOnceAndKeepsThem) {
  const TensorMap constants = tensors_of(5);
  const auto send_constants = [&] {
    proto::ServerMessage message;
    message.mutable_constants_start()->set_job_id("job-1");
    *message.mutable_constants_start()->mutable_transfer() = net::announce(900, constants, constants.schema());
    send(message);
    ASSERT_TRUE(net::run(context_, net::send_tensors(*aggregator_, 900, constants)));
  };
  connect();
  welcome();
  send(offer_message("job-1", constants));
  EXPECT_TRUE(next().job_reply().accepted());
  EXPECT_EQ(next().fetch_constants().job_id(), "job-1");
  start_round(1);  // comes before the constants: it waits for them
  EXPECT_TRUE(round_reply().accepted());
  send_constants();
  contribution();
  disconnect();

  start_jobs();
  connect();
  welcome();
  send(offer_message("job-1", constants));
  EXPECT_TRUE(next().job_reply().accepted());
  start_round(2);
  EXPECT_TRUE(round_reply().accepted());
  contribution();
}

TEST_F(SessionTest, EndsOnConstantsOfAnotherDigest) {
  connect();
  welcome();
  send(offer_message("job-1", tensors_of(5)));
  next();
  next();
  proto::ServerMessage message;
  message.mutable_constants_start()->set_job_id("job-1");
  *message.mutable_constants_start()->mutable_transfer() = net::announce(1, tensors_of(6), tensors_of(6).schema());
  send(message);
  ASSERT_TRUE(net::run(context_, net::send_tensors(*aggregator_, 1, tensors_of(6))));
  EXPECT_EQ(next().goodbye().code(), to_string(Errc::protocol_error));
}

TEST_F(SessionTest, StopsBeginningRoundsWhenItDrainsAndFinishesTheOneUnderWay) {
  std::latch may_go_on(1);
  behaviour_->at_step = [&](std::int64_t step) {
    if (step == 1) may_go_on.wait();
  };
  connect_and_offer();
  start_round(1);
  EXPECT_TRUE(round_reply().accepted());
  run_until([&] { return jobs_->is_training(); });
  jobs_->drain();
  may_go_on.count_down();
  EXPECT_EQ(contribution().round, 1);
  start_round(2);
  const auto reply = round_reply();
  EXPECT_FALSE(reply.accepted());
  EXPECT_THAT(reply.reason(), HasSubstr("being stopped"));
  EXPECT_EQ(charges(), 1);
}

TEST_F(SessionTest, StopsTrainingAtAStepWhenItIsTold) {
  std::latch stopped(1);
  behaviour_->at_step = [&](std::int64_t step) {
    if (step == 2) stopped.wait();
  };
  connect_and_offer();
  start_round(1);
  EXPECT_TRUE(round_reply().accepted());
  run_until([&] { return jobs_->is_training(); });
  jobs_->stop_training();
  stopped.count_down();
  EXPECT_THAT(round_reply().reason(), HasSubstr("stopped at the site"));
}

TEST_F(SessionTest, AsksForANewCertificateWhenItIsDue) {
  host_.request = "a request";
  connect();
  welcome();
  EXPECT_EQ(next().renew_certificate().certificate_request_pem(), "a request");
  proto::ServerMessage message;
  message.mutable_certificate_issued()->set_certificate_pem("a certificate");
  send(message);
  run_until([&] { return host_.renewed_pem == "a certificate"; });
}

TEST_F(SessionTest, EndsWhereTheGapInTheLedgerCannotBeCharged) {
  host_.welcome_status = Error{Errc::no_space, "no room for the ledger"};
  connect();
  welcome();
  EXPECT_EQ(next().goodbye().reason(), "no room for the ledger");
  EXPECT_EQ(end_of_session().code, Errc::no_space);
  EXPECT_EQ(behaviour_->made, 0);
}

TEST_F(SessionTest, TellsTheReasonOfTheAggregatorsGoodbye) {
  connect();
  welcome();
  proto::ServerMessage message;
  message.mutable_goodbye()->set_code(std::string(to_string(Errc::permission_denied)));
  message.mutable_goodbye()->set_reason("the site was revoked");
  send(message);
  EXPECT_EQ(next().goodbye().code(), to_string(Errc::permission_denied));
  const Error error = end_of_session();
  EXPECT_EQ(error.code, Errc::permission_denied);
  EXPECT_THAT(error.message, HasSubstr("the site was revoked"));
}

// What a broken or hostile aggregator may send: each costs it the connection, and nothing else.
struct BadMessage {
  const char* name;
  proto::ServerMessage message;
  const char* complaint;
};

std::vector<BadMessage> bad_messages() {
  std::vector<BadMessage> cases;
  const auto add = [&](const char* name, const char* complaint) -> proto::ServerMessage& {
    cases.push_back({name, {}, complaint});
    return cases.back().message;
  };
  add("nothing", "does not know");
  add("second_welcome", "welcome twice").mutable_welcome()->set_protocol_version(protocol_version);
  add("offer_without_an_id", "under an id").mutable_job_offer();
  {
    auto& offer = *add("offer_with_a_short_digest", "not 32 bytes").mutable_job_offer();
    offer.set_job_id("job-2");
    offer.set_constants_sha256("short");
  }
  {
    auto& offer = *add("offer_of_a_negative_shape", "offer of job").mutable_job_offer();
    offer.set_job_id("job-2");
    auto& tensor = *offer.mutable_broadcast_schema()->add_tensors();
    tensor.set_name("weight");
    tensor.set_dtype("F32");
    tensor.add_shape(-1);
  }
  add("round_zero", "counted from 1").mutable_round_start()->set_job_id("job-1");
  {
    TensorMap other;
    other["weight"] = HostTensor::from_f32({3, 2}, std::vector<float>(6, 0));
    auto& start = *add("broadcast_of_another_shape", "weight").mutable_round_start();
    start.set_job_id("job-1");
    start.set_round(1);
    *start.mutable_transfer() = net::announce(1, other, tensors_of(0).schema());
  }
  return cases;
}

TEST_F(SessionTest, EndsOnAMessageThatBreaksTheProtocol) {
  for (const BadMessage& bad : bad_messages()) {
    SCOPED_TRACE(bad.name);
    connect_and_offer();
    send(bad.message);
    proto::ClientMessage message = next();
    while (message.has_round_reply()) message = next();
    EXPECT_TRUE(message.has_goodbye());
    EXPECT_THAT(message.goodbye().reason(), HasSubstr(bad.complaint));
    EXPECT_NE(end_of_session().code, Errc::cancelled);
  }
  EXPECT_EQ(charges(), 0);
}

TEST_F(SessionTest, EndsOnABroadcastThatIsNotFinite) {
  connect_and_offer();
  start_round(1, tensors_of(std::numeric_limits<float>::quiet_NaN()));
  round_reply();
  EXPECT_THAT(next().goodbye().reason(), HasSubstr("weight"));
  EXPECT_EQ(charges(), 0);
}

TEST_F(SessionTest, EndsOnAChunkThatNobodyAnnounced) {
  connect_and_offer();
  ASSERT_TRUE(net::run(context_, net::send_tensors(*aggregator_, 4711, tensors_of(1))));
  EXPECT_THAT(next().goodbye().reason(), HasSubstr("transfer 4711"));
}

TEST_F(SessionTest, SaysWhichVersionsDoNotMatch) {
  connect();
  proto::ServerMessage message;
  message.mutable_welcome()->set_protocol_version(9);
  message.mutable_welcome()->set_software_version("2.0.0");
  send(message);
  const std::string reason = next().goodbye().reason();
  EXPECT_THAT(reason, HasSubstr("version 9"));
  EXPECT_THAT(reason, HasSubstr("2.0.0"));
}

TEST_F(SessionTest, EndsWhereTheFirstMessageIsNotAWelcome) {
  connect();
  send(offer_message());
  EXPECT_THAT(next().goodbye().reason(), HasSubstr("not a welcome"));
  EXPECT_EQ(behaviour_->made, 0);
}

// Of everything that is sent, the contribution alone depends on records: no loss, no sample size, no exact count.
TEST_F(SessionTest, SendsNothingElseThatIsComputedFromRecords) {
  connect_and_offer();
  start_round(1);
  round_reply();
  contribution();
  for (const auto& progress : progress_messages_) {
    EXPECT_THAT(progress.ShortDebugString(), Not(HasSubstr("0.125"))) << "the loss of every step";
  }
  EXPECT_EQ(jobs_->status().at("job-1").loss, 0.125);
}

}  // namespace
}  // namespace trib::client
