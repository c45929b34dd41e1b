#include "cli/admin_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <boost/json.hpp>

#include "cli/process.h"
#include "common/files.h"
#include "common/net/x509.h"
#include "tests/cli/scripted_aggregator.h"
#include "tests/net/net_support.h"

namespace trib::cli {
namespace {

namespace json = boost::json;
using testing::ElementsAre;
using testing::HasSubstr;
using Request = ScriptedAggregator::Request;
using Reply = ScriptedAggregator::Reply;

Request list_jobs() {
  Request request;
  request.mutable_list_jobs();
  return request;
}

AdminClient connected(const ScriptedAggregator& aggregator) {
  return AdminClient::connect({aggregator.directory(), ""}).value();
}

TEST(AdminClient, SaysHowToStartAnAggregatorThatIsNotThere) {
  const test::TemporaryDirectory directory;
  const auto client = AdminClient::connect({(directory / "nowhere").string(), ""});
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().code, Errc::unavailable);
  EXPECT_THAT(client.error().message, HasSubstr((directory / "nowhere").string()));
  EXPECT_THAT(client.error().message, HasSubstr("trib-server --config"));
  EXPECT_THAT(client.error().message, HasSubstr("--server"));
}

TEST(AdminClient, SaysThatNobodyListensOnASocketLeftBehind) {
  const test::TemporaryDirectory directory;
  {
    // A socket file outlives the process that made it.
    boost::asio::io_context context;
    const boost::asio::local::stream_protocol::acceptor gone(
        context, boost::asio::local::stream_protocol::endpoint((directory / "admin.sock").string()));
  }
  const auto client = AdminClient::connect({directory.path().string(), ""});
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().code, Errc::unavailable);
  EXPECT_THAT(client.error().message, HasSubstr("does not answer at " + (directory / "admin.sock").string()));
}

TEST(AdminClient, NeedsCredentialsForAnotherMachine) {
  const auto client = AdminClient::connect({"fl.example.org:7443", ""});
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().code, Errc::invalid_argument);
  EXPECT_THAT(client.error().message, HasSubstr("--credentials"));
  EXPECT_THAT(client.error().message, HasSubstr("trib operator join"));
}

TEST(AdminClient, NamesTheCredentialFileThatIsMissing) {
  const test::TemporaryDirectory directory;
  const auto client = AdminClient::connect({"fl.example.org:7443", directory.path().string()});
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().code, Errc::not_found);
  EXPECT_THAT(client.error().message, HasSubstr((directory / "ca.pem").string()));
}

TEST(AdminClient, CannotReachAPortThatNobodyListensOn) {
  const test::TemporaryDirectory directory;
  const auto issuer = net::CertificateIssuer::create("federation", system_clock());
  const auto credentials = net::make_credentials(issuer, "ada", "operator");
  write_file_durably(directory / "ca.pem", issuer.ca_certificate().to_pem()).value();
  write_file_durably(directory / "certificate.pem", credentials.certificate.to_pem()).value();
  write_file_durably(directory / "key.pem", credentials.key.to_pem()).value();
  const std::string address = "127.0.0.1:" + std::to_string(free_loopback_port().value());
  const auto client = AdminClient::connect({address, directory.path().string()});
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().code, Errc::unavailable);
  EXPECT_THAT(client.error().message, HasSubstr(address));
}

TEST(AdminClient, ReturnsTheAnswersDocument) {
  const ScriptedAggregator aggregator(
      [](const Request&) { return std::vector{ScriptedAggregator::answer(R"({"jobs": []})")}; });
  AdminClient client = connected(aggregator);
  EXPECT_EQ(client.request(list_jobs()).value(), json::value(json::object{{"jobs", json::array{}}}));
  EXPECT_TRUE(client.request(list_jobs())) << "a connection carries more than one request";
  ASSERT_EQ(aggregator.requests().size(), 2u);
  EXPECT_TRUE(aggregator.requests()[0].has_list_jobs());
}

TEST(AdminClient, PassesOnTheAggregatorsRefusalAsTheErrorThatItIs) {
  const ScriptedAggregator aggregator(
      [](const Request&) { return std::vector{ScriptedAggregator::refusal("permission denied", "not an operator")}; });
  AdminClient client = connected(aggregator);
  const auto answer = client.request(list_jobs());
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, Errc::permission_denied);
  EXPECT_EQ(answer.error().message, "not an operator");
}

TEST(AdminClient, RefusesAnAnswerThatIsNotJson) {
  const ScriptedAggregator aggregator([](const Request&) { return std::vector{ScriptedAggregator::answer("<html>")}; });
  AdminClient client = connected(aggregator);
  const auto answer = client.request(list_jobs());
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, Errc::protocol_error);
}

TEST(AdminClient, WatchesUntilTheAggregatorEndsTheStream) {
  const ScriptedAggregator aggregator([](const Request&) {
    std::vector<Reply> replies;
    for (const int round : {1, 2, 3}) {
      replies.push_back(ScriptedAggregator::answer("{\"round\": " + std::to_string(round) + "}"));
      replies.back().set_more(round < 3);
    }
    return replies;
  });
  AdminClient client = connected(aggregator);
  std::vector<std::int64_t> rounds;
  const auto watched = client.watch(list_jobs(), [&](const json::value& document) {
    rounds.push_back(document.at("round").as_int64());
    return true;
  });
  EXPECT_TRUE(watched);
  EXPECT_THAT(rounds, ElementsAre(1, 2, 3));
}

TEST(AdminClient, StopsWatchingWhenItsCallerHasSeenEnough) {
  const ScriptedAggregator aggregator([](const Request&) {
    Reply reply = ScriptedAggregator::answer("{}");
    reply.set_more(true);
    return std::vector{reply, reply, reply};
  });
  AdminClient client = connected(aggregator);
  int seen = 0;
  EXPECT_TRUE(client.watch(list_jobs(), [&](const json::value&) { return ++seen < 2; }));
  EXPECT_EQ(seen, 2);
}

}  // namespace
}  // namespace trib::cli
