// The privacy statement that a client sends: when, of what, and that the site's owner can keep it.
#include "client/statement_share.h"

#include <gmock/gmock.h>

#include "privacy/statement.h"
#include "tests/client/fake_aggregator.h"

namespace trib::client {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class StatementShareTest : public SessionFixture {
 protected:
  void SetUp() override {
    SessionFixture::SetUp();
    site_.signer = signer_;
  }
  privacy::Statement verified(const proto::Statement& statement) {
    auto read = privacy::verify_statement(statement.text(), "sent");
    EXPECT_TRUE(read) << read.error().message;
    return read ? *read : privacy::Statement{};
  }
  // The next message is not a statement: the site answers the offer of a job that it does not know.
  void expect_no_statement_before(const std::string& job) {
    send(offer_message(job));
    const auto message = next();
    EXPECT_TRUE(message.has_job_reply()) << message.ShortDebugString();
  }
};

TEST_F(StatementShareTest, IsSentAfterConnectingAndIsTheSitesOwn) {
  connect();
  welcome();
  const auto statement = verified(this->statement());
  EXPECT_EQ(statement.site, "hospital");
  EXPECT_EQ(statement.head_count, 0);
  EXPECT_EQ(statement.key_sha256, to_hex(signer_->public_key().sha256()));
}

TEST_F(StatementShareTest, IsSentAgainAtAJobsEndWithWhatTheJobCost) {
  connect();
  welcome();
  statement();
  send(offer_message());
  ASSERT_TRUE(next().job_reply().accepted());
  start_round(1);
  round_reply();
  contribution();
  end_job();
  const auto after = verified(statement());
  EXPECT_EQ(after.head_count, 1);
  const auto& set = after.document.at("data_sets").at(0);
  EXPECT_EQ(set.at("jobs").at(0).at("job").as_string(), "job-1");
  EXPECT_GT(set.at("epsilon_filter").as_double(), 0.0);
}

TEST_F(StatementShareTest, IsSentOnceAMinuteWhileChargesChangeIt) {
  connect();
  welcome();
  statement();
  send(offer_message());
  ASSERT_TRUE(next().job_reply().accepted());
  for (const int round : {1, 2}) {  // within the minute
    start_round(round);
    EXPECT_TRUE(round_reply().accepted());
    contribution();
    close_round(round);
  }
  clock_.advance(std::chrono::seconds(61));
  start_round(3);
  // The statement is made beside the training; the contribution may come before it.
  std::optional<proto::Statement> sent;
  bool has_contributed = false;
  while (!sent || !has_contributed) {
    const auto frame = net::run(context_, aggregator_->receive());
    ASSERT_TRUE(frame) << frame.error().message;
    if (frame->kind == net::FrameKind::chunk) continue;
    const auto message = net::parse_message<proto::ClientMessage>(*frame).value();
    if (message.has_statement()) sent = message.statement();
    if (message.has_contribution_start()) has_contributed = true;
  }
  EXPECT_EQ(verified(*sent).head_count, 3);
}

TEST_F(StatementShareTest, IsNotSentAtAJobsEndWhereNothingWasCharged) {
  connect();
  welcome();
  statement();
  send(offer_message());
  ASSERT_TRUE(next().job_reply().accepted());
  end_job();
  expect_no_statement_before("job-2");
}

TEST_F(StatementShareTest, IsMadeAfreshWhenItIsAskedFor) {
  connect();
  welcome();
  const auto first = verified(statement());
  clock_.advance(std::chrono::seconds(5));
  ask_for_statement();
  const auto second = verified(statement());
  EXPECT_NE(first.document.at("made").as_string(), second.document.at("made").as_string());
}

TEST_F(StatementShareTest, IsWithheldWhereTheSitesConfigurationSaysSo) {
  site_.share_statement = false;
  connect();
  welcome();
  ask_for_statement();
  expect_no_statement_before("job-1");
}

TEST_F(StatementShareTest, HoldsNothingThatTheSitesScreenAloneShows) {
  connect();
  welcome();
  statement();
  send(offer_message());
  ASSERT_TRUE(next().job_reply().accepted());
  start_round(1);
  round_reply();
  contribution();
  end_job();
  const std::string text = statement().text();
  EXPECT_THAT(text, Not(HasSubstr("loss")));
  EXPECT_THAT(text, Not(HasSubstr("data.tsv")));
  EXPECT_THAT(text, Not(HasSubstr("digest")));
}

}  // namespace
}  // namespace trib::client
