// A daemon in a thread of this process, and the ends of its wires.
#pragma once

#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include <boost/json.hpp>
#include <thread>

#include "common/files.h"
#include "common/net/enrolment.h"
#include "common/net/transfer.h"
#include "server/daemon.h"
#include "server/init.h"
#include "tests/common/temporary_directory.h"
#include "tests/net/net_support.h"
#include "tests/server/test_federation.h"

namespace trib::server::testing {

using net::run;
using tributary::proto::AdminReply;
using tributary::proto::AdminRequest;
using tributary::proto::ClientMessage;
using tributary::proto::ServerMessage;

inline constexpr Milliseconds patience{10'000};

class DaemonTest : public ::testing::Test {
 protected:
  DaemonTest() {
    spdlog::set_level(spdlog::level::off);
    InitOptions options;
    options.directory = directory.path() / "f";
    options.federation = "test";
    options.listen = "127.0.0.1:0";
    options.host_names = {"127.0.0.1"};
    init_federation(options).value();
    layout.root = options.directory;
    config = read_server_config(layout.config()).value();
    config.drain_timeout = Milliseconds(2'000);
  }
  ~DaemonTest() override { stop(); }

  // Jobs are the counting one, for `sites` sites.
  void start(std::int64_t rounds = 2, std::int64_t sites = 2) {
    tasks::JobSpec spec = counting_job(rounds);
    spec.selection.expected_clients = sites;
    daemon = Daemon::start(layout, config, counting_options(spec, sites), adjust_sources).value();
    thread = std::thread([this] { daemon->run(); });
  }
  void stop() {
    if (!daemon) return;
    daemon->stop();
    thread.join();
    daemon.reset();
  }
  std::string address() const { return "127.0.0.1:" + std::to_string(daemon->port()); }

  // A test that waits in vain fails soon.
  static net::Limits limits() {
    net::Limits limits;
    limits.idle_timeout = Milliseconds(5'000);
    return limits;
  }

  // --- Operators ---
  std::unique_ptr<net::Channel> connect_operator() {
    return run(context, net::connect_unix(context.get_executor(), layout.admin_socket(), limits())).value();
  }
  AdminReply ask(net::Channel& channel, const AdminRequest& request) {
    run(context, channel.send(request)).value();
    return net::parse_message<AdminReply>(run(context, channel.receive()).value()).value();
  }
  AdminReply ask(const AdminRequest& request) {
    auto channel = connect_operator();
    return ask(*channel, request);
  }
  tributary::proto::Invite invite(const std::string& name, bool is_operator = false) {
    AdminRequest request;
    request.mutable_create_invite()->set_site(name);
    request.mutable_create_invite()->set_is_operator(is_operator);
    const AdminReply reply = ask(request);
    EXPECT_EQ(reply.error(), "");
    return net::parse_token(boost::json::parse(reply.json()).at("token").as_string()).value();
  }
  AdminReply revoke(const std::string& site, const std::string& reason) {
    AdminRequest request;
    request.mutable_revoke_site()->set_site(site);
    request.mutable_revoke_site()->set_reason(reason);
    return ask(request);
  }
  std::string submit() {
    AdminRequest request;
    request.mutable_submit_job()->set_job_file("any");
    request.mutable_submit_job()->set_job_file_name("any.toml");
    const AdminReply reply = ask(request);
    EXPECT_EQ(reply.error(), "");
    return std::string(boost::json::parse(reply.json()).at("id").as_string());
  }
  boost::json::value job(const std::string& id) {
    AdminRequest request;
    request.mutable_show_job()->set_job_id(id);
    return boost::json::parse(ask(request).json());
  }

  // --- Sites ---
  net::ClientCredentials enrol(const std::string& name, bool is_operator = false) {
    net::ClientCredentials credentials;
    credentials.key = net::PrivateKey::generate();
    credentials.certificate =
        run(context, net::enrol(context.get_executor(), invite(name, is_operator), credentials.key, patience))
            .value()
            .certificate;
    return credentials;
  }
  net::Certificate ca() { return net::Certificate::from_pem(read_file(layout.ca_certificate()).value()).value(); }
  Result<std::unique_ptr<net::Channel>> dial(const net::ClientCredentials& credentials,
                                             std::string_view protocol = net::client_protocol) {
    const net::Certificate authority = ca();
    return run(context, net::connect_tls(context.get_executor(), address(), authority, &credentials, protocol, limits(),
                                         patience));
  }
  void send(net::Channel& channel, const ClientMessage& message) { run(context, channel.send(message)).value(); }
  Result<ServerMessage> receive(net::Channel& channel) {
    TRIB_ASSIGN(const net::Frame frame, run(context, channel.receive()));
    return net::parse_message<ServerMessage>(frame);
  }
  // The next message of this kind; others, and chunks, are passed over.
  ServerMessage await(net::Channel& channel, ServerMessage::BodyCase kind) {
    while (true) {
      const auto frame = run(context, channel.receive());
      if (!frame) {
        ADD_FAILURE() << "the connection ended before message " << kind << " came: " << frame.error().message;
        return {};
      }
      if (frame->kind == net::FrameKind::chunk) continue;
      auto message = net::parse_message<ServerMessage>(*frame).value();
      if (message.body_case() == kind) return message;
      if (message.has_goodbye()) {
        ADD_FAILURE() << "goodbye before message " << kind << ": " << message.goodbye().reason();
        return {};
      }
    }
  }
  static ClientMessage hello(std::uint32_t version = 1) {
    ClientMessage message;
    message.mutable_hello()->set_protocol_version(version);
    message.mutable_hello()->set_software_version("a test");
    return message;
  }
  // A session that has said hello and been welcomed.
  std::unique_ptr<net::Channel> connect_site(const net::ClientCredentials& credentials) {
    auto channel = dial(credentials).value();
    send(*channel, hello());
    await(*channel, ServerMessage::kWelcome);
    return channel;
  }
  void accept_job(net::Channel& channel) {
    const std::string job_id = await(channel, ServerMessage::kJobOffer).job_offer().job_id();
    ClientMessage message;
    message.mutable_job_reply()->set_job_id(job_id);
    message.mutable_job_reply()->set_accepted(true);
    message.mutable_job_reply()->set_declared_records(100);
    send(channel, message);
  }
  static ClientMessage contribution_start(const std::string& job_id, std::uint32_t round, const TensorMap& tensors,
                                          std::uint32_t transfer_id = 1) {
    ClientMessage message;
    auto& start = *message.mutable_contribution_start();
    start.set_job_id(job_id);
    start.set_round(round);
    start.set_weight(1.0);
    start.set_is_private(true);
    *start.mutable_transfer() = net::announce(transfer_id, tensors, unit_contribution(0, 2).schema());
    return message;
  }

  test::TemporaryDirectory directory;
  ServerDirectory layout;
  ServerConfig config;
  std::function<void(http::Sources&)> adjust_sources;
  boost::asio::io_context context;
  std::unique_ptr<Daemon> daemon;
  std::thread thread;
};

}  // namespace trib::server::testing
