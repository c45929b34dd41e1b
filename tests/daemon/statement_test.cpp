// Privacy statements of sites: what the aggregator keeps, and what it does not believe.
#include "privacy/statement.h"

#include <gtest/gtest.h>

#include "privacy/ledger.h"
#include "tests/daemon/daemon_support.h"

namespace trib::server {
namespace {

using testing::AdminReply;
using testing::AdminRequest;
using testing::ClientMessage;
using testing::DaemonTest;
using testing::ServerMessage;

class StatementTest : public DaemonTest {
 protected:
  // A statement of a ledger of `site` that was charged so often, signed with `key`.
  std::string statement(const std::string& site, const net::PrivateKey& key, int charges) {
    const std::shared_ptr<const Signer> signer = signer_from_pem(key.to_pem()).value();
    const auto path = directory.path() / ("ledger-" + std::to_string(ledgers_++) + ".jsonl");
    const auto ledger = privacy::Ledger::open(path, {site, signer}, {{"letters", 8.0, 1e-5}}, system_clock()).value();
    for (int round = 1; round <= charges; ++round) {
      const privacy::Mechanism mechanism{privacy::MechanismKind::poisson_subsampled_gaussian, 0.02, 2.0, 1.0, 5};
      ledger->charge({"job-1", round, "letters", 5000, 1e-5, mechanism}).value();
    }
    auto snapshot = ledger->snapshot();
    const auto figures = privacy::figures_of(std::move(snapshot.file), snapshot.accounts, path).value();
    return privacy::make_statement(figures, "2026-11-24T15:04:05.123Z", *signer).value();
  }
  void send_statement(net::Channel& channel, const std::string& text) {
    ClientMessage message;
    message.mutable_statement()->set_text(text);
    send(channel, message);
  }
  AdminReply stored(const std::string& site) {
    AdminRequest request;
    request.mutable_site_statement()->set_site(site);
    return ask(request);
  }
  // Everything that was sent before has been acted on once the answer to the request that this makes has come.
  std::string kept_after(net::Channel& channel, const std::string& site) {
    const AdminReply asked = stored(site);
    await(channel, ServerMessage::kStatementRequest);
    ClientMessage heartbeat;
    heartbeat.mutable_heartbeat();
    send(channel, heartbeat);
    for (int i = 0; i < 100; ++i) {
      const AdminReply reply = stored(site);
      if (reply.error_code().empty()) return std::string(boost::json::parse(reply.json()).at("statement").as_string());
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return "";
  }
  int ledgers_ = 0;
};

TEST_F(StatementTest, ASitesOwnStatementIsKeptAndHandedOut) {
  start();
  const auto site = enrol("clinic-7");
  const auto channel = connect_site(site);
  const std::string text = statement("clinic-7", site.key, 2);
  send_statement(*channel, text);
  const std::string kept = kept_after(*channel, "clinic-7");
  EXPECT_EQ(kept, text);
  const auto verified = privacy::verify_statement(kept, "kept");
  ASSERT_TRUE(verified) << verified.error().message;
  EXPECT_EQ(verified->head_count, 2);
  EXPECT_NE(privacy::statement_page(*verified).find("Privacy statement of clinic-7"), std::string::npos);
}

TEST_F(StatementTest, AForgedOneIsNotKeptAndTheSessionGoesOn) {
  start();
  const auto site = enrol("clinic-7");
  const auto channel = connect_site(site);
  std::string forged = statement("clinic-7", site.key, 2);
  const auto place = forged.find("\"declared_records\": 5000");
  ASSERT_NE(place, std::string::npos);
  forged.replace(place, 24, "\"declared_records\": 9000");
  send_statement(*channel, forged);
  send_statement(*channel, "not a statement");
  EXPECT_EQ(kept_after(*channel, "clinic-7"), "");
  const std::string good = statement("clinic-7", site.key, 2);
  send_statement(*channel, good);
  EXPECT_EQ(kept_after(*channel, "clinic-7"), good);
}

TEST_F(StatementTest, OneOfAnotherSiteOrUnderAnotherKeyIsNotKept) {
  start();
  const auto site = enrol("clinic-7"), other = enrol("clinic-8");
  const auto channel = connect_site(site);
  send_statement(*channel, statement("clinic-8", other.key, 1));                    // a true one, of somebody else
  send_statement(*channel, statement("clinic-8", site.key, 1));                     // signed here, about another
  send_statement(*channel, statement("clinic-7", net::PrivateKey::generate(), 1));  // by who knows whom
  EXPECT_EQ(kept_after(*channel, "clinic-7"), "");
  EXPECT_EQ(stored("clinic-8").error_code(), to_string(Errc::not_found));
}

TEST_F(StatementTest, AnOlderOneDoesNotTakeTheNewersPlace) {
  start();
  const auto site = enrol("clinic-7");
  const auto channel = connect_site(site);
  const std::string newer = statement("clinic-7", site.key, 3);
  send_statement(*channel, newer);
  send_statement(*channel, statement("clinic-7", site.key, 1));
  for (int i = 0; i < 20; ++i) EXPECT_EQ(kept_after(*channel, "clinic-7"), newer);
}

TEST_F(StatementTest, ASiteThatHasSentNoneIsAskedAndTheOperatorIsToldWhy) {
  start();
  const auto channel = connect_site(enrol("clinic-7"));
  const AdminReply reply = stored("clinic-7");
  EXPECT_EQ(reply.error_code(), to_string(Errc::not_found));
  EXPECT_NE(reply.error().find("share_statement"), std::string::npos) << reply.error();
  await(*channel, ServerMessage::kStatementRequest);
  EXPECT_NE(stored("nobody").error().find("not connected"), std::string::npos);
}

}  // namespace
}  // namespace trib::server
