// A site's session, good and bad: what a broken or hostile client gets, and that the job goes on.
#include "server/session.h"

#include "tests/daemon/daemon_support.h"

namespace trib::server {
namespace {

using net::run;
using testing::ClientMessage;
using testing::DaemonTest;
using testing::ServerMessage;
using testing::unit_contribution;

class SessionTest : public DaemonTest {
 protected:
  // The goodbye that ends the session of `channel`, and its reason.
  void expect_goodbye(net::Channel& channel, Errc code, const std::string& part) {
    const auto goodbye = await(channel, ServerMessage::kGoodbye).goodbye();
    EXPECT_EQ(goodbye.code(), to_string(code)) << goodbye.reason();
    EXPECT_NE(goodbye.reason().find(part), std::string::npos) << goodbye.reason();
    EXPECT_FALSE(run(context, channel.receive()).ok());
  }
  // A job in its first round, with two sites.
  void start_job() {
    start();
    for (const char* name : {"site-0", "site-1"}) sites.push_back(connect_site(enrol(name)));
    job_id = submit();
    for (auto& site : sites) accept_job(*site);
    for (auto& site : sites) await(*site, ServerMessage::kRoundStart);
  }
  Status send_bytes(net::Channel& channel, const TensorMap& tensors, std::uint32_t transfer_id = 1) {
    return run(context, net::send_tensors(channel, transfer_id, tensors));
  }
  tributary::proto::ContributionReceipt contribute(net::Channel& channel, std::uint32_t round, const TensorMap& tensors,
                                                   std::uint32_t transfer_id = 1) {
    send(channel, contribution_start(job_id, round, tensors, transfer_id));
    EXPECT_TRUE(send_bytes(channel, tensors, transfer_id).ok());
    return await(channel, ServerMessage::kContributionReceipt).contribution_receipt();
  }

  std::vector<std::unique_ptr<net::Channel>> sites;
  std::string job_id;
};

TEST_F(SessionTest, TwoSitesFinishAJobOverTls) {
  start_job();
  for (std::uint32_t round = 1; round <= 2; ++round) {
    if (round > 1)
      for (auto& site : sites) await(*site, ServerMessage::kRoundStart);
    for (std::int64_t i = 0; i < 2; ++i) {
      const auto receipt = contribute(*sites[static_cast<std::size_t>(i)], round, unit_contribution(i, 2));
      EXPECT_TRUE(receipt.accepted()) << receipt.reason();
    }
    for (auto& site : sites) EXPECT_EQ(await(*site, ServerMessage::kRoundClosed).round_closed().round(), round);
  }
  for (auto& site : sites) EXPECT_EQ(await(*site, ServerMessage::kJobEnded).job_ended().job_id(), job_id);
  const auto report = job(job_id);
  EXPECT_EQ(report.at("state").as_string(), "finished");
}

TEST_F(SessionTest, ConstantsArriveAsTheOfferAnnouncesThem) {
  start();
  const auto site = connect_site(enrol("site-0"));
  submit();
  const auto offer = await(*site, ServerMessage::kJobOffer).job_offer();
  ClientMessage fetch;
  fetch.mutable_fetch_constants()->set_job_id(offer.job_id());
  send(*site, fetch);
  const auto constants = await(*site, ServerMessage::kConstantsStart).constants_start();
  auto receiver =
      net::TensorReceiver::begin(constants.transfer(), net::from_proto(offer.constants_schema()).value(), 1000).value();
  bool complete = false;
  while (!complete) complete = receiver.add(run(context, site->receive())->chunk).value();
  const TensorMap tensors = receiver.finish().value();
  EXPECT_EQ(tensors.at("constant").as<float>()[0], 42.0f);
  const auto digest = tensors.digest();
  EXPECT_EQ(offer.constants_sha256(), std::string(digest.begin(), digest.end()));
}

TEST_F(SessionTest, AnotherProtocolVersionIsAnError) {
  start();
  auto channel = dial(enrol("clinic-7")).value();
  send(*channel, hello(2));
  expect_goodbye(*channel, Errc::unsupported, "speaks protocol version 2");
}

TEST_F(SessionTest, TheFirstMessageMustBeAHelloAndTheOnlyOne) {
  start();
  const auto site = enrol("clinic-7");
  auto channel = dial(site).value();
  ClientMessage heartbeat;
  heartbeat.mutable_heartbeat();
  send(*channel, heartbeat);
  expect_goodbye(*channel, Errc::protocol_error, "must be a Hello");
  channel = connect_site(site);
  send(*channel, hello());
  expect_goodbye(*channel, Errc::protocol_error, "second Hello");
}

TEST_F(SessionTest, AnUnknownMessageEndsTheSession) {
  start();
  const auto channel = connect_site(enrol("clinic-7"));
  send(*channel, ClientMessage());
  expect_goodbye(*channel, Errc::protocol_error, "does not know");
}

TEST_F(SessionTest, ASecondSessionOfALivingSiteIsRefused) {
  start();
  const auto site = enrol("clinic-7");
  const auto first = connect_site(site);
  auto second = dial(site).value();
  send(*second, hello());
  expect_goodbye(*second, Errc::already_exists, "another session of 'clinic-7' is alive");
  ClientMessage heartbeat;
  heartbeat.mutable_heartbeat();
  EXPECT_TRUE(run(context, first->send(heartbeat)).ok());
}

TEST_F(SessionTest, ASecondSessionReplacesOneThatHasFallenSilent) {
  config.heartbeat_interval = Milliseconds(100);
  start();
  const auto site = enrol("clinic-7");
  const auto first = connect_site(site);
  std::this_thread::sleep_for(Milliseconds(300));
  const auto second = connect_site(site);
  expect_goodbye(*first, Errc::already_exists, "newer session");
}

TEST_F(SessionTest, RevocationEndsALiveSessionAtOnceAndKeepsTheSiteOut) {
  start();
  const auto site = enrol("clinic-7");
  const auto channel = connect_site(site);
  EXPECT_EQ(revoke("clinic-7", "contract ended").error(), "");
  expect_goodbye(*channel, Errc::permission_denied, "contract ended");
  auto again = dial(site);
  ASSERT_TRUE(again.ok());  // a TLS 1.3 client learns of a refusal when it reads
  EXPECT_EQ(run(context, (*again)->receive()).error().code, Errc::permission_denied);
}

TEST_F(SessionTest, TheSiteIsToldTheNewestLedgerHeadThatIsKnown) {
  start();
  const auto site = enrol("clinic-7");
  auto channel = dial(site).value();
  ClientMessage first = hello();
  first.mutable_hello()->mutable_ledger_head()->set_count(5);
  first.mutable_hello()->mutable_ledger_head()->set_hash(std::string(32, 'h'));
  send(*channel, first);
  EXPECT_FALSE(await(*channel, ServerMessage::kWelcome).welcome().has_known_ledger_head());
  channel->close();
  std::this_thread::sleep_for(Milliseconds(100));
  channel = dial(site).value();
  first.mutable_hello()->mutable_ledger_head()->set_count(3);
  first.mutable_hello()->mutable_ledger_head()->set_hash(std::string(32, 'g'));
  send(*channel, first);
  const auto known = await(*channel, ServerMessage::kWelcome).welcome().known_ledger_head();
  EXPECT_EQ(known.count(), 5);
  EXPECT_EQ(known.hash(), std::string(32, 'h'));
}

TEST_F(SessionTest, ALedgerThatWasRewrittenIsRefusedAndTheHeadStaysWhatItWas) {
  start();
  const auto site = enrol("clinic-7");
  ClientMessage first = hello();
  first.mutable_hello()->mutable_ledger_head()->set_count(5);
  first.mutable_hello()->mutable_ledger_head()->set_hash(std::string(32, 'h'));
  auto channel = dial(site).value();
  send(*channel, first);
  await(*channel, ServerMessage::kWelcome);
  channel->close();
  std::this_thread::sleep_for(Milliseconds(100));
  ClientMessage rewritten = first;
  rewritten.mutable_hello()->mutable_ledger_head()->set_hash(std::string(32, 'x'));
  channel = dial(site).value();
  send(*channel, rewritten);
  expect_goodbye(*channel, Errc::permission_denied, "entry 5 has another hash");
  channel = dial(site).value();
  send(*channel, first);
  EXPECT_EQ(await(*channel, ServerMessage::kWelcome).welcome().known_ledger_head().hash(), std::string(32, 'h'));
}

TEST_F(SessionTest, ACertificateIsRenewedOverTheSession) {
  start();
  const auto site = enrol("clinic-7");
  const auto channel = connect_site(site);
  const auto next_key = net::PrivateKey::generate();
  ClientMessage request;
  request.mutable_renew_certificate()->set_certificate_request_pem(net::make_certificate_request(next_key, "clinic-7"));
  send(*channel, request);
  const auto issued = await(*channel, ServerMessage::kCertificateIssued).certificate_issued();
  const auto certificate = net::Certificate::from_pem(issued.certificate_pem()).value();
  EXPECT_EQ(certificate.common_name(), "clinic-7");
  channel->close();
  std::this_thread::sleep_for(Milliseconds(100));
  connect_site({certificate, next_key});
}

TEST_F(SessionTest, OverTheLimitOfClientsASiteIsTurnedAway) {
  config.clients = 1;
  start();
  const auto second = enrol("clinic-8");
  const auto first = connect_site(enrol("clinic-7"));
  auto channel = dial(second).value();
  send(*channel, hello());
  expect_goodbye(*channel, Errc::limit_exceeded, "limits.clients = 1");
}

TEST_F(SessionTest, AFloodOfMessagesEndsTheSession) {
  config.messages_per_second = 10;
  start();
  const auto channel = connect_site(enrol("clinic-7"));
  ClientMessage heartbeat;
  heartbeat.mutable_heartbeat();
  for (int i = 0; i < 100; ++i)
    if (!run(context, channel->send(heartbeat))) break;
  expect_goodbye(*channel, Errc::limit_exceeded, "limits.messages_per_second = 10");
}

TEST_F(SessionTest, AContributionOfWrongShapeTypeOrNameCostsTheSessionAndNotTheJob) {
  start_job();
  TensorMap wrong;
  wrong["counts"] = HostTensor(DType::f32, {3});
  send(*sites[0], contribution_start(job_id, 1, wrong));
  const auto receipt = await(*sites[0], ServerMessage::kContributionReceipt).contribution_receipt();
  EXPECT_FALSE(receipt.accepted());
  EXPECT_NE(receipt.reason().find("'counts' F32 [3] instead of 'counts' F32 [2]"), std::string::npos)
      << receipt.reason();
  expect_goodbye(*sites[0], Errc::protocol_error, "counts");
  EXPECT_TRUE(contribute(*sites[1], 1, unit_contribution(1, 2)).accepted());
  EXPECT_EQ(job(job_id).at("state").as_string(), "collecting");
}

TEST_F(SessionTest, ANumberThatIsNotFiniteCostsTheSession) {
  start_job();
  TensorMap bad = unit_contribution(0, 2);
  bad["counts"].as<float>()[1] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(contribute(*sites[0], 1, bad).accepted());
  expect_goodbye(*sites[0], Errc::protocol_error, "counts");
}

TEST_F(SessionTest, AChecksumThatDoesNotHoldCostsTheSession) {
  start_job();
  send(*sites[0], contribution_start(job_id, 1, unit_contribution(0, 2)));
  EXPECT_TRUE(send_bytes(*sites[0], unit_contribution(1, 2)).ok());
  EXPECT_FALSE(await(*sites[0], ServerMessage::kContributionReceipt).contribution_receipt().accepted());
  expect_goodbye(*sites[0], Errc::protocol_error, "checksum");
}

TEST_F(SessionTest, AChunkThatNobodyAnnouncedCostsTheSession) {
  start_job();
  EXPECT_TRUE(send_bytes(*sites[0], unit_contribution(0, 2), 9).ok());
  expect_goodbye(*sites[0], Errc::protocol_error, "transfer 9, which was not announced");
}

TEST_F(SessionTest, ReorderedChunksCostTheSession) {
  start_job();
  const TensorMap tensors = unit_contribution(0, 2);
  send(*sites[0], contribution_start(job_id, 1, tensors));
  run(context, sites[0]->send_chunk(1, 4, tensors.at("counts").bytes().subspan(4))).value();
  expect_goodbye(*sites[0], Errc::protocol_error, "expected byte 0");
}

TEST_F(SessionTest, AContributionSentTwiceIsAcknowledgedAndCountedOnce) {
  start_job();
  EXPECT_TRUE(contribute(*sites[0], 1, unit_contribution(0, 2), 1).accepted());
  EXPECT_TRUE(contribute(*sites[0], 1, unit_contribution(0, 2), 2).accepted());
  EXPECT_TRUE(contribute(*sites[1], 1, unit_contribution(1, 2)).accepted());
  await(*sites[0], ServerMessage::kRoundClosed);
  const auto report = job(job_id);
  EXPECT_EQ(report.at("rounds").as_array().at(0).at("contributions").to_number<int>(), 2);
}

TEST_F(SessionTest, AContributionToAPastRoundIsRefusedAndTheSessionGoesOn) {
  start_job();
  for (std::int64_t i = 0; i < 2; ++i)
    EXPECT_TRUE(contribute(*sites[static_cast<std::size_t>(i)], 1, unit_contribution(i, 2)).accepted());
  await(*sites[0], ServerMessage::kRoundStart);
  const auto late = contribute(*sites[0], 1, unit_contribution(0, 2), 2);
  EXPECT_FALSE(late.accepted());
  EXPECT_NE(late.reason().find("closed"), std::string::npos) << late.reason();
  EXPECT_TRUE(contribute(*sites[0], 2, unit_contribution(0, 2), 3).accepted());
}

TEST_F(SessionTest, AContributionThatIsNeverFinishedLeavesNothingBehind) {
  config.staging_memory_bytes = 0;
  start_job();
  send(*sites[0], contribution_start(job_id, 1, unit_contribution(0, 2)));
  run(context, sites[0]->send_chunk(1, 0, unit_contribution(0, 2).at("counts").bytes().first(4))).value();
  sites[0]->close();
  EXPECT_TRUE(contribute(*sites[1], 1, unit_contribution(1, 2)).accepted());
  for (int i = 0; i < 100 && !std::filesystem::is_empty(layout.staging()); ++i)
    std::this_thread::sleep_for(Milliseconds(20));
  EXPECT_TRUE(std::filesystem::is_empty(layout.staging()));
}

TEST_F(SessionTest, BytesThatAreNoFramesCostTheConnectionAlone) {
  start();
  const auto other = connect_site(enrol("clinic-8"));
  const auto channel = connect_site(enrol("clinic-7"));
  // A well-framed message that is no ClientMessage.
  tributary::proto::ExportedFile garbage;
  garbage.set_name("x");
  garbage.set_content(std::string(100, '\xff'));
  run(context, channel->send(garbage)).value();
  const auto goodbye = await(*channel, ServerMessage::kGoodbye).goodbye();
  EXPECT_EQ(goodbye.code(), to_string(Errc::protocol_error));
  ClientMessage heartbeat;
  heartbeat.mutable_heartbeat();
  EXPECT_TRUE(run(context, other->send(heartbeat)).ok());
}

TEST_F(SessionTest, StoppingTellsTheSitesToComeBackLaterAndLosesNothing) {
  start_job();
  EXPECT_TRUE(contribute(*sites[0], 1, unit_contribution(0, 2)).accepted());
  EXPECT_TRUE(contribute(*sites[1], 1, unit_contribution(1, 2)).accepted());
  await(*sites[0], ServerMessage::kRoundClosed);
  daemon->stop();
  expect_goodbye(*sites[0], Errc::unavailable, "shutting down");
  stop();
  start();
  EXPECT_EQ(job(job_id).at("rounds").as_array().at(0).at("contributions").to_number<int>(), 2);
}

TEST_F(SessionTest, ADirectoryBelongsToOneDaemon) {
  start();
  const auto second = Daemon::start(layout, config);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, Errc::unavailable);
}

}  // namespace
}  // namespace trib::server
