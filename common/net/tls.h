// TLS 1.3, both sides authenticated by the federation's own CA. Nothing older, nothing anonymous but enrolment.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/net/channel.h"
#include "common/net/x509.h"

namespace trib::net {

inline constexpr std::string_view client_protocol = "tributary/1";
inline constexpr std::string_view enrol_protocol = "tributary-enrol/1";
inline constexpr std::string_view admin_protocol = "tributary-admin/1";

// The server's half: its certificate, the CA that clients must come from, and who has been revoked. Certificates can be
// replaced while it runs.
class TlsServerContext {
 public:
  static Result<std::shared_ptr<TlsServerContext>> create(const Certificate& certificate, const PrivateKey& key,
                                                          const Certificate& ca);
  virtual ~TlsServerContext() = default;
  virtual Status replace_certificate(const Certificate& certificate, const PrivateKey& key) = 0;
  // Called during the handshake with the peer's certificate, once its chain, dates and role are good: an error ends it,
  // and its message reaches the log. The place for revocation.
  virtual void set_peer_check(std::function<Status(const PeerIdentity&)> check) = 0;
  // Completes a handshake: a channel whose protocol() is one of the three; enrolment has no peer identity. Errors say
  // which side failed and why (no certificate, another CA, expired, revoked, wrong role for the protocol, TLS < 1.3).
  // `limits_for` a protocol may differ from those of the handshake.
  using LimitsFor = std::function<Limits(std::string_view protocol)>;
  virtual asio::awaitable<Result<std::unique_ptr<Channel>>> accept(asio::ip::tcp::socket socket, Limits limits,
                                                                   LimitsFor limits_for = {}) = 0;
};

struct ClientCredentials {
  Certificate certificate;
  PrivateKey key;
};

// Dials "host:port" and completes the handshake. The server's certificate must come from `ca`, carry the role
// "aggregator" and name the host. `credentials` is null for enrolment alone. `timeout` covers what comes after the
// name's look-up, whose time limit is the system resolver's.
asio::awaitable<Result<std::unique_ptr<Channel>>> connect_tls(asio::any_io_executor executor, std::string address,
                                                              const Certificate& ca,
                                                              const ClientCredentials* credentials,
                                                              std::string_view protocol, Limits limits,
                                                              Milliseconds timeout);
// For enrolment, where only the CA certificate's SHA-256 is known (from the token): the server sends its CA along.
asio::awaitable<Result<std::unique_ptr<Channel>>> connect_tls_pinned(asio::any_io_executor executor,
                                                                     std::string address, const Sha256& ca_sha256,
                                                                     Limits limits, Milliseconds timeout);

// Unix sockets, for the operator's command on the aggregator's own machine: who may open the file may speak.
std::unique_ptr<Channel> accept_unix(asio::local::stream_protocol::socket socket, Limits limits);
asio::awaitable<Result<std::unique_ptr<Channel>>> connect_unix(asio::any_io_executor executor,
                                                               std::filesystem::path path, Limits limits);

}  // namespace trib::net
