// Who gets in, who does not, and what each side says about it. Real sockets on the loopback interface.
#include "common/net/tls.h"

#include <openssl/ssl.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>

#include "common/net/enrolment.h"
#include "proto/tributary.pb.h"
#include "tests/net/net_support.h"

namespace trib::net {
namespace {

using namespace std::chrono_literals;
using tributary::proto::ClientMessage;
using Accepted = Result<std::unique_ptr<Channel>>;

constexpr Milliseconds patience{5'000};

class Tls : public ::testing::Test {
 protected:
  Tls() { serve_with(make_credentials(issuer, "aggregator", "aggregator", {"localhost", "127.0.0.1"})); }

  void serve_with(const ClientCredentials& server) {
    tls = TlsServerContext::create(server.certificate, server.key, issuer.ca_certificate()).value();
  }

  std::string address(const std::string& host = "127.0.0.1") const {
    return host + ":" + std::to_string(acceptor.local_endpoint().port());
  }

  asio::awaitable<Accepted> accept_one(Limits limits = {}) {
    asio::ip::tcp::socket socket = co_await acceptor.async_accept(asio::use_awaitable);
    Accepted accepted = co_await tls->accept(std::move(socket), limits);
    co_return accepted;
  }

  // What the server says about a client, and what the client notices: at once, or at its first receive().
  struct Outcome {
    Accepted server = Error{};
    Accepted client = Error{};
    Status first_receive;
  };
  Outcome dial(const ClientCredentials* credentials, std::string_view protocol = client_protocol,
               const std::string& host = "127.0.0.1") {
    Outcome outcome;
    const auto accepted = start(context, accept_one());
    outcome.client = run(context, connect_tls(context.get_executor(), address(host), issuer.ca_certificate(),
                                              credentials, protocol, Limits{}, patience));
    outcome.server = wait_for(context, accepted);
    if (outcome.client && !outcome.server) {
      const auto frame = run(context, (*outcome.client)->receive());
      if (!frame) outcome.first_receive = frame.error();
    }
    return outcome;
  }

  static void expect_error(const Error& error, Errc code, const std::string& part) {
    EXPECT_EQ(to_string(error.code), to_string(code)) << error.message;
    EXPECT_NE(error.message.find(part), std::string::npos) << error.message;
  }

  asio::io_context context;
  asio::ip::tcp::acceptor acceptor{context, asio::ip::tcp::endpoint(asio::ip::address_v4::loopback(), 0)};
  CertificateIssuer issuer = CertificateIssuer::create("Test Federation", system_clock());
  std::shared_ptr<TlsServerContext> tls;
};

TEST_F(Tls, ASiteOfTheFederationGetsAChannelWithItsNameOnIt) {
  const auto site = make_credentials(issuer, "clinic-7", "site");
  Outcome outcome = dial(&site);
  ASSERT_TRUE(outcome.client.ok()) << outcome.client.error().message;
  ASSERT_TRUE(outcome.server.ok()) << outcome.server.error().message;
  Channel& server = **outcome.server;
  Channel& client = **outcome.client;
  EXPECT_EQ(server.peer().name, "clinic-7");
  EXPECT_EQ(server.peer().role, "site");
  EXPECT_EQ(server.peer().serial, site.certificate.serial());
  EXPECT_EQ(server.peer().not_after, site.certificate.not_after());
  EXPECT_EQ(server.protocol(), "tributary/1");
  EXPECT_EQ(client.peer().name, "aggregator");
  ClientMessage message;
  message.mutable_hello()->set_protocol_version(1);
  ASSERT_TRUE(run(context, client.send(message)).ok());
  EXPECT_EQ(parse_message<ClientMessage>(run(context, server.receive()).value())->hello().protocol_version(), 1u);
}

TEST_F(Tls, CountsTheBytesOfTlsAndFraming) {
  const auto site = make_credentials(issuer, "clinic-7", "site");
  Outcome outcome = dial(&site);
  Channel& server = **outcome.server;
  Channel& client = **outcome.client;
  const std::uint64_t before = client.bytes_sent();
  EXPECT_GT(before, 500u);  // the handshake, with a certificate in it
  const std::vector<std::byte> bytes(1u << 20, std::byte{3});
  const auto sent = start(context, client.send_chunk(1, 0, bytes));
  EXPECT_EQ(run(context, server.receive())->chunk.bytes.size(), bytes.size());
  EXPECT_TRUE(wait_for(context, sent).ok());
  const double wire = static_cast<double>(client.bytes_sent() - before);
  EXPECT_GT(wire, static_cast<double>(bytes.size()) + 17);
  EXPECT_LT(wire, 1.01 * static_cast<double>(bytes.size()));
  EXPECT_EQ(server.bytes_received(), client.bytes_sent());
}

TEST_F(Tls, AnOperatorSpeaksTheAdminProtocol) {
  const auto boss = make_credentials(issuer, "alice", "operator");
  Outcome outcome = dial(&boss, admin_protocol);
  ASSERT_TRUE(outcome.server.ok()) << outcome.server.error().message;
  EXPECT_EQ((*outcome.server)->protocol(), admin_protocol);
}

TEST_F(Tls, EnrolmentNeedsNoCertificate) {
  Outcome outcome = dial(nullptr, enrol_protocol);
  ASSERT_TRUE(outcome.server.ok()) << outcome.server.error().message;
  EXPECT_EQ((*outcome.server)->protocol(), enrol_protocol);
  EXPECT_TRUE((*outcome.server)->peer().name.empty());
}

TEST_F(Tls, RefusesAClientWithoutACertificate) {
  const Outcome outcome = dial(nullptr);
  expect_error(outcome.server.error(), Errc::unauthenticated, "sent no certificate");
  expect_error(outcome.first_receive.error(), Errc::unauthenticated, "asks for a certificate");
}

TEST_F(Tls, RefusesACertificateOfAnotherCa) {
  const auto stranger = CertificateIssuer::create("Other Federation", system_clock());
  const auto site = make_credentials(stranger, "clinic-7", "site");
  const Outcome outcome = dial(&site);
  expect_error(outcome.server.error(), Errc::unauthenticated, "another CA");
  expect_error(outcome.server.error(), Errc::unauthenticated, "clinic-7");
  expect_error(outcome.first_receive.error(), Errc::unauthenticated, "another federation");
}

TEST_F(Tls, RefusesACertificateOfACaThatOnlyBearsTheSameName) {
  const auto stranger = CertificateIssuer::create("Test Federation", system_clock());
  const auto site = make_credentials(stranger, "clinic-7", "site");
  EXPECT_EQ(dial(&site).server.error().code, Errc::unauthenticated);
}

TEST_F(Tls, RefusesAnExpiredCertificateAndSaysWhenItExpired) {
  const auto site = make_credentials(issuer, "clinic-7", "site", -2h, -1h);
  const Outcome outcome = dial(&site);
  expect_error(outcome.server.error(), Errc::unauthenticated, "expired at");
  expect_error(outcome.first_receive.error(), Errc::unauthenticated, "has expired");
}

TEST_F(Tls, RefusesACertificateThatIsNotYetValid) {
  const auto site = make_credentials(issuer, "clinic-7", "site", 1h, 2h);
  expect_error(dial(&site).server.error(), Errc::unauthenticated, "not valid before");
}

TEST_F(Tls, RefusesARevokedCertificateWithTheReasonOfTheCheck) {
  const auto site = make_credentials(issuer, "clinic-7", "site");
  tls->set_peer_check([](const PeerIdentity& peer) -> Status {
    return Error{Errc::permission_denied, peer.name + " is revoked: left the federation"};
  });
  const Outcome outcome = dial(&site);
  expect_error(outcome.server.error(), Errc::permission_denied, "clinic-7 is revoked: left the federation");
  expect_error(outcome.first_receive.error(), Errc::permission_denied, "revoked");
}

TEST_F(Tls, RefusesTheWrongRoleForAProtocol) {
  const auto site = make_credentials(issuer, "clinic-7", "site");
  const auto boss = make_credentials(issuer, "alice", "operator");
  const Outcome as_admin = dial(&site, admin_protocol);
  expect_error(as_admin.server.error(), Errc::unsupported, "needs the role operator");
  expect_error(as_admin.first_receive.error(), Errc::permission_denied, "role");
  expect_error(dial(&boss, client_protocol).server.error(), Errc::unsupported, "needs the role site");
}

TEST_F(Tls, RefusesAnAggregatorsCertificateAsAClients) {
  const auto impostor = make_credentials(issuer, "aggregator", "aggregator", {"localhost"});
  expect_error(dial(&impostor).server.error(), Errc::permission_denied, "not for this side");
}

TEST_F(Tls, RefusesASiteThatPlaysTheAggregator) {
  serve_with(make_credentials(issuer, "clinic-8", "site", {"127.0.0.1"}));
  const auto site = make_credentials(issuer, "clinic-7", "site");
  expect_error(dial(&site).client.error(), Errc::permission_denied, "clinic-8");
}

TEST_F(Tls, RefusesAServerOfAnotherName) {
  serve_with(make_credentials(issuer, "aggregator", "aggregator", {"aggregator.example", "192.0.2.1"}));
  const auto site = make_credentials(issuer, "clinic-7", "site");
  const Outcome outcome = dial(&site);
  expect_error(outcome.client.error(), Errc::unauthenticated, "names aggregator.example, 192.0.2.1, not '127.0.0.1'");
  EXPECT_FALSE(outcome.server.ok());
  expect_error(dial(&site, client_protocol, "localhost").client.error(), Errc::unauthenticated, "not 'localhost'");
}

TEST_F(Tls, AcceptsAServerByItsDnsName) {
  const auto site = make_credentials(issuer, "clinic-7", "site");
  EXPECT_TRUE(dial(&site, client_protocol, "localhost").client.ok());
}

TEST_F(Tls, RefusesAServerOfAnotherCa) {
  const auto stranger = CertificateIssuer::create("Other Federation", system_clock());
  const auto server = make_credentials(stranger, "aggregator", "aggregator", {"127.0.0.1"});
  tls = TlsServerContext::create(server.certificate, server.key, stranger.ca_certificate()).value();
  const auto site = make_credentials(issuer, "clinic-7", "site");
  expect_error(dial(&site).client.error(), Errc::unauthenticated, "another CA");
}

TEST_F(Tls, RefusesAnExpiredServer) {
  serve_with(make_credentials(issuer, "aggregator", "aggregator", -2h, -1h, {"127.0.0.1"}));
  const auto site = make_credentials(issuer, "clinic-7", "site");
  expect_error(dial(&site).client.error(), Errc::unauthenticated, "expired at");
}

TEST_F(Tls, PinsTheCaByItsFingerprint) {
  auto accepted = start(context, accept_one());
  EXPECT_TRUE(run(context, connect_tls_pinned(context.get_executor(), address(), issuer.ca_certificate().sha256(),
                                              Limits{}, patience))
                  .ok());
  EXPECT_TRUE(wait_for(context, accepted).ok());
  accepted = start(context, accept_one());
  const auto wrong =
      run(context, connect_tls_pinned(context.get_executor(), address(), sha256("another CA"), Limits{}, patience));
  expect_error(wrong.error(), Errc::unauthenticated, "fingerprint");
  EXPECT_FALSE(wait_for(context, accepted).ok());
}

TEST_F(Tls, APinnedCaDoesNotExcuseTheWrongHostOrRole) {
  serve_with(make_credentials(issuer, "clinic-8", "site", {"127.0.0.1"}));
  start(context, accept_one());
  EXPECT_FALSE(run(context, connect_tls_pinned(context.get_executor(), address(), issuer.ca_certificate().sha256(),
                                               Limits{}, patience))
                   .ok());
  serve_with(make_credentials(issuer, "aggregator", "aggregator", {"aggregator.example"}));
  start(context, accept_one());
  const auto wrong = run(context, connect_tls_pinned(context.get_executor(), address(),
                                                     issuer.ca_certificate().sha256(), Limits{}, patience));
  expect_error(wrong.error(), Errc::unauthenticated, "not '127.0.0.1'");
}

// A client that only OpenSSL's own settings limit.
Status handshake_of_plain_client(asio::io_context& context, std::uint16_t port, int maximum_version,
                                 const std::string& alpn) {
  asio::ssl::context tls(asio::ssl::context::tls_client);
  SSL_CTX_set_max_proto_version(tls.native_handle(), maximum_version);
  asio::ssl::stream<asio::ip::tcp::socket> stream(asio::ip::tcp::socket(context), tls);
  const std::string wire = static_cast<char>(alpn.size()) + alpn;
  if (!alpn.empty())
    SSL_set_alpn_protos(stream.native_handle(), reinterpret_cast<const unsigned char*>(wire.data()),
                        static_cast<unsigned int>(wire.size()));
  return run(context, [](auto& s, std::uint16_t p) -> asio::awaitable<Status> {
    boost::system::error_code error;
    co_await s.next_layer().async_connect({asio::ip::address_v4::loopback(), p},
                                          asio::redirect_error(asio::use_awaitable, error));
    co_await s.async_handshake(asio::ssl::stream_base::client, asio::redirect_error(asio::use_awaitable, error));
    if (error) co_return Error{Errc::unavailable, error.message()};
    co_return Status();
  }(stream, port));
}

TEST_F(Tls, RefusesTls12) {
  const auto accepted = start(context, accept_one());
  EXPECT_FALSE(
      handshake_of_plain_client(context, acceptor.local_endpoint().port(), TLS1_2_VERSION, std::string(enrol_protocol))
          .ok());
  expect_error(wait_for(context, accepted).error(), Errc::unsupported, "TLS 1.3");
}

TEST_F(Tls, RefusesAnUnknownProtocolAndNone) {
  auto accepted = start(context, accept_one());
  handshake_of_plain_client(context, acceptor.local_endpoint().port(), TLS1_3_VERSION, "h2").ok();
  expect_error(wait_for(context, accepted).error(), Errc::unsupported, "protocol");
  accepted = start(context, accept_one());
  handshake_of_plain_client(context, acceptor.local_endpoint().port(), TLS1_3_VERSION, "").ok();
  EXPECT_FALSE(wait_for(context, accepted).ok());
}

TEST_F(Tls, SaysSoWhenThePeerSpeaksNoTlsAtAll) {
  const auto accepted = start(context, accept_one());
  asio::ip::tcp::socket socket(context);
  socket.connect(acceptor.local_endpoint());
  asio::write(socket, asio::buffer(std::string("GET / HTTP/1.1\r\nHost: aggregator\r\n\r\n")));
  expect_error(wait_for(context, accepted).error(), Errc::protocol_error, "does not speak TLS");
}

TEST_F(Tls, GivesUpOnAHandshakeThatNeverStarts) {
  Limits limits;
  limits.handshake_timeout = Milliseconds(50);
  const auto accepted = start(context, accept_one(limits));
  asio::ip::tcp::socket socket(context);
  socket.connect(acceptor.local_endpoint());
  expect_error(wait_for(context, accepted).error(), Errc::deadline_exceeded, "limits.handshake_timeout");
}

TEST_F(Tls, GivesUpDiallingAServerThatNeverAnswers) {
  const auto site = make_credentials(issuer, "clinic-7", "site");
  const auto silent = run(context, connect_tls(context.get_executor(), address(), issuer.ca_certificate(), &site,
                                               client_protocol, Limits{}, Milliseconds(50)));
  expect_error(silent.error(), Errc::deadline_exceeded, "no answer");
}

TEST_F(Tls, SaysWhichAddressCannotBeReached) {
  const auto site = make_credentials(issuer, "clinic-7", "site");
  const std::string gone = address();
  acceptor.close();
  const auto refused = run(context, connect_tls(context.get_executor(), gone, issuer.ca_certificate(), &site,
                                                client_protocol, Limits{}, patience));
  expect_error(refused.error(), Errc::unavailable, gone);
}

TEST_F(Tls, ReplacesItsCertificateForTheConnectionsThatFollow) {
  const auto site = make_credentials(issuer, "clinic-7", "site");
  Outcome first = dial(&site);
  const auto renewed = make_credentials(issuer, "aggregator", "aggregator", {"127.0.0.1"});
  ASSERT_TRUE(tls->replace_certificate(renewed.certificate, renewed.key).ok());
  Outcome second = dial(&site);
  EXPECT_NE((*first.client)->peer().serial, renewed.certificate.serial());
  EXPECT_EQ((*second.client)->peer().serial, renewed.certificate.serial());
  ClientMessage message;
  EXPECT_TRUE(run(context, (*first.client)->send(message)).ok());
  EXPECT_TRUE(run(context, (*first.server)->receive()).ok());
  EXPECT_FALSE(tls->replace_certificate(renewed.certificate, site.key).ok());
}

TEST_F(Tls, HoldsAThousandIdleConnections) {
  const auto site = make_credentials(issuer, "clinic-7", "site");
  std::vector<std::unique_ptr<Channel>> channels;
  for (int i = 0; i < 1000; ++i) {
    Outcome outcome = dial(&site);
    ASSERT_TRUE(outcome.server.ok()) << i << ": " << outcome.server.error().message;
    channels.push_back(std::move(*outcome.server));
    channels.push_back(std::move(*outcome.client));
  }
  ClientMessage message;
  EXPECT_TRUE(run(context, channels[1]->send(message)).ok());
  EXPECT_TRUE(run(context, channels[0]->receive()).ok());
}

}  // namespace
}  // namespace trib::net
