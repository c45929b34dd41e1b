// The operator's channel, over the Unix socket and over TLS.
#include "server/admin.h"

#include <sys/stat.h>

#include "tests/daemon/daemon_support.h"

namespace trib::server {
namespace {

using net::run;
using testing::AdminReply;
using testing::AdminRequest;
using testing::ServerMessage;

class AdminTest : public testing::DaemonTest {
 protected:
  static AdminRequest status_request() {
    AdminRequest request;
    request.mutable_server_status();
    return request;
  }
};

TEST_F(AdminTest, TheSocketBelongsToItsOwnerAlone) {
  start();
  struct stat status {};
  ASSERT_EQ(::stat(layout.admin_socket().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST_F(AdminTest, StatusSaysWhatTheDaemonIsDoing) {
  start();
  const auto site = connect_site(enrol("clinic-7"));
  const auto answer = boost::json::parse(ask(status_request()).json());
  EXPECT_EQ(answer.at("federation").as_string(), "test");
  EXPECT_EQ(answer.at("sessions").to_number<int>(), 1);
  EXPECT_EQ(answer.at("addresses").as_array().at(0).as_string(), address());
}

TEST_F(AdminTest, AnOperatorWithACertificateSpeaksOverTls) {
  start();
  const auto alice = enrol("alice", true);
  auto channel = dial(alice, net::admin_protocol).value();
  EXPECT_EQ(ask(*channel, status_request()).error(), "");
}

TEST_F(AdminTest, ARevokedOperatorLosesTheChannelAtTheNextRequest) {
  start();
  const auto alice = enrol("alice", true);
  auto channel = dial(alice, net::admin_protocol).value();
  EXPECT_EQ(ask(*channel, status_request()).error(), "");
  EXPECT_EQ(revoke("alice", "left").error(), "");
  const AdminReply reply = ask(*channel, status_request());
  EXPECT_EQ(reply.error_code(), to_string(Errc::permission_denied));
}

TEST_F(AdminTest, ASiteIsNoOperator) {
  start();
  auto channel = dial(enrol("clinic-7"), net::admin_protocol);
  ASSERT_TRUE(channel.ok());  // a TLS 1.3 client learns of a refusal when it reads
  EXPECT_EQ(run(context, (*channel)->receive()).error().code, Errc::permission_denied);
}

TEST_F(AdminTest, RefusalsCarryTheirKindAndTheChannelGoesOn) {
  start();
  auto channel = connect_operator();
  AdminRequest show;
  show.mutable_show_job()->set_job_id("none");
  EXPECT_EQ(ask(*channel, show).error_code(), to_string(Errc::not_found));
  AdminRequest invite;
  invite.mutable_create_invite()->set_site("no such name!");
  EXPECT_EQ(ask(*channel, invite).error_code(), to_string(Errc::invalid_argument));
  EXPECT_EQ(ask(*channel, AdminRequest()).error_code(), to_string(Errc::unsupported));
  EXPECT_EQ(ask(*channel, status_request()).error(), "");
}

TEST_F(AdminTest, ListsSitesAndJobs) {
  start();
  enrol("clinic-7");
  const std::string id = submit();
  AdminRequest sites;
  sites.mutable_list_sites();
  EXPECT_EQ(boost::json::parse(ask(sites).json()).at("sites").as_array().at(0).at("name").as_string(), "clinic-7");
  AdminRequest jobs;
  jobs.mutable_list_jobs();
  EXPECT_EQ(boost::json::parse(ask(jobs).json()).at("jobs").as_array().at(0).at("id").as_string(), id);
}

TEST_F(AdminTest, ReportsWhatSitesSaidOfTheirPrivacy) {
  start();
  enrol("clinic-7");
  enrol("alice", true);
  AdminRequest report;
  report.mutable_privacy_report();
  const auto answer = boost::json::parse(ask(report).json());
  EXPECT_EQ(answer.at("federation").as_string(), "test");
  ASSERT_EQ(answer.at("sites").as_array().size(), 1u) << "operators have no ledger";
  EXPECT_EQ(answer.at("sites").at(0).at("site").as_string(), "clinic-7");
  EXPECT_EQ(answer.at("sites").at(0).at("key_sha256").as_string().size(), 64u);
}

TEST_F(AdminTest, AWatchStreamsTheJobUntilItEndsAndTheChannelGoesOn) {
  start();
  const std::string id = submit();
  auto watcher = connect_operator();
  AdminRequest watch;
  watch.mutable_watch_job()->set_job_id(id);
  AdminReply reply = ask(*watcher, watch);
  EXPECT_TRUE(reply.more());
  AdminRequest cancel;
  cancel.mutable_cancel_job()->set_job_id(id);
  cancel.mutable_cancel_job()->set_reason("enough");
  EXPECT_EQ(ask(cancel).error(), "");
  while (reply.more()) reply = net::parse_message<AdminReply>(run(context, watcher->receive()).value()).value();
  EXPECT_EQ(boost::json::parse(reply.json()).at("state").as_string(), "cancelled");
  EXPECT_EQ(ask(*watcher, status_request()).error(), "");
}

TEST_F(AdminTest, AnotherRequestEndsAWatch) {
  start();
  auto channel = connect_operator();
  AdminRequest watch;
  watch.mutable_watch_job()->set_job_id(submit());
  EXPECT_TRUE(ask(*channel, watch).more());
  AdminReply reply = ask(*channel, status_request());
  while (reply.more()) reply = net::parse_message<AdminReply>(run(context, channel->receive()).value()).value();
  EXPECT_NE(reply.json().find("uptime_seconds"), std::string::npos);
}

TEST_F(AdminTest, AnExportThatFailsSaysWhyAndLeavesNoFiles) {
  start();
  AdminRequest request;
  request.mutable_export_model()->set_job_id(submit());
  const AdminReply reply = ask(request);
  EXPECT_EQ(reply.error_code(), to_string(Errc::unavailable));
  EXPECT_NE(reply.error().find("no committed round"), std::string::npos) << reply.error();
  EXPECT_TRUE(std::filesystem::is_empty(layout.staging()));
}

TEST_F(AdminTest, ASiteThatIsRevokedWhileItIsAwayIsListedAsRevoked) {
  start();
  enrol("clinic-7");
  EXPECT_NE(revoke("clinic-7", "gone").json().find("\"session_ended\":false"), std::string::npos);
  EXPECT_EQ(revoke("clinic-7", "again").error_code(), to_string(Errc::already_exists));
}

}  // namespace
}  // namespace trib::server
