#include "common/net/tls.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <optional>

#include "common/net/address.h"
#include "common/net/coroutine.h"
#include "common/net/stream_channel.h"
#include "common/net/tls_errors.h"

namespace trib::net {
namespace {

using boost::system::error_code;

constexpr std::string_view role_site = "site";
constexpr std::string_view role_operator = "operator";
constexpr std::string_view role_aggregator = "aggregator";

Certificate certificate_of(X509* borrowed) {
  X509_up_ref(borrowed);
  return Certificate::from_native(borrowed);
}

PeerIdentity identity_of(const Certificate& certificate) {
  PeerIdentity identity;
  identity.name = certificate.common_name();
  identity.role = certificate.organizational_unit();
  identity.serial = certificate.serial();
  identity.fingerprint = to_hex(certificate.sha256());
  identity.not_before = certificate.not_before();
  identity.not_after = certificate.not_after();
  return identity;
}

std::string shown(const PeerIdentity& identity) {
  return "'" + identity.name + "' (role " + (identity.role.empty() ? "none" : identity.role) + ", serial " +
         identity.serial + ")";
}

// What OpenSSL's chain check found wrong with `certificate`, the peer's own or one above it.
Error describe_verification(int code, const Certificate& certificate) {
  const PeerIdentity identity = identity_of(certificate);
  switch (code) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
      return {Errc::unauthenticated,
              "the certificate of " + shown(identity) + " expired at " + to_iso8601(identity.not_after)};
    case X509_V_ERR_CERT_NOT_YET_VALID:
      return {Errc::unauthenticated, "the certificate of " + shown(identity) + " is not valid before " +
                                         to_iso8601(certificate.not_before()) + ": check both machines' clocks"};
    case X509_V_ERR_INVALID_PURPOSE:
      return {Errc::permission_denied,
              "the certificate of " + shown(identity) + " is not for this side of a connection"};
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
      return {Errc::unauthenticated,
              "the certificate of " + shown(identity) + " comes from another CA than this federation's"};
    default:
      return {Errc::unauthenticated,
              "the certificate of " + shown(identity) + " is not accepted: " + X509_verify_cert_error_string(code)};
  }
}

// The checks of one handshake, found again from OpenSSL's callbacks, and what they found.
struct Handshake {
  std::function<Status(const Certificate& certificate, SSL* ssl)> check_peer;
  std::optional<Error> error;
  std::optional<Sha256> pinned_ca;  // the CA is not known yet but by its digest
};

int handshake_index() {
  static const int index = SSL_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
  return index;
}

Handshake* handshake_of(SSL* ssl) {
  return static_cast<Handshake*>(SSL_get_ex_data(ssl, handshake_index()));
}

SSL* ssl_of(X509_STORE_CTX* store) {
  return static_cast<SSL*>(X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
}

// OpenSSL's verify callback: explains a refusal, and adds our own checks of the peer's certificate.
int verify(int chain_is_good, X509_STORE_CTX* store) {
  SSL* ssl = ssl_of(store);
  Handshake* handshake = handshake_of(ssl);
  if (handshake == nullptr) return 0;
  X509* current = X509_STORE_CTX_get_current_cert(store);
  if (current == nullptr) return 0;
  if (!chain_is_good) {
    handshake->error = describe_verification(X509_STORE_CTX_get_error(store), certificate_of(current));
    return 0;
  }
  if (X509_STORE_CTX_get_error_depth(store) > 0) return 1;
  const Status checked = handshake->check_peer(certificate_of(current), ssl);
  if (checked) return 1;
  handshake->error = checked.error();
  // The alert that OpenSSL derives from this tells the peer which kind of refusal it was.
  int code = X509_V_ERR_HOSTNAME_MISMATCH;
  if (checked.error().code == Errc::unsupported) code = X509_V_ERR_INVALID_PURPOSE;
  if (checked.error().code == Errc::permission_denied) code = X509_V_ERR_CERT_REVOKED;
  X509_STORE_CTX_set_error(store, code);
  return 0;
}

// For a pinned CA: takes the one with the right digest from the chain that the server sent, and then verifies as usual.
int verify_pinned(X509_STORE_CTX* store, void*) {
  Handshake* handshake = handshake_of(ssl_of(store));
  if (handshake == nullptr || !handshake->pinned_ca) return 0;
  STACK_OF(X509)* chain = X509_STORE_CTX_get0_untrusted(store);
  for (int i = 0; i < sk_X509_num(chain); ++i) {
    X509* candidate = sk_X509_value(chain, i);
    const Sha256 digest = certificate_of(candidate).sha256();
    if (!equal_constant_time(digest, *handshake->pinned_ca)) continue;
    X509_STORE_add_cert(X509_STORE_CTX_get0_store(store), candidate);
    return X509_verify_cert(store);
  }
  handshake->error = Error{Errc::unauthenticated, "the server's CA is not the one whose fingerprint (SHA-256 " +
                                                      to_hex(*handshake->pinned_ca) + ") the token carries"};
  X509_STORE_CTX_set_error(store, X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN);
  return 0;
}

void allow_only_tls13(SSL_CTX* context) {
  SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
  SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION);
  // No resumption: every connection proves its certificate anew, so that a revocation holds.
  SSL_CTX_set_options(context, SSL_OP_NO_TICKET);
  SSL_CTX_set_num_tickets(context, 0);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
}

Status use_credentials(SSL_CTX* context, const Certificate& certificate, const PrivateKey& key) {
  if (SSL_CTX_use_certificate(context, certificate.native()) == 1 &&
      SSL_CTX_use_PrivateKey(context, key.native()) == 1 && SSL_CTX_check_private_key(context) == 1)
    return {};
  ERR_clear_error();
  return Error{Errc::invalid_argument,
               "the private key does not belong to the certificate of '" + certificate.common_name() + "'"};
}

// Bounds a coroutine's work on one socket: when time is up, the socket is closed and the pending operation ends.
class SocketDeadline {
 public:
  SocketDeadline(asio::ip::tcp::socket& socket, Milliseconds timeout)
      : timer_(socket.get_executor(), timeout), state_(std::make_shared<State>(State{&socket, false})) {
    timer_.async_wait([state = state_](const error_code& error) {
      if (error || state->socket == nullptr) return;
      state->passed = true;
      error_code ignored;
      state->socket->close(ignored);
    });
  }
  ~SocketDeadline() { state_->socket = nullptr; }  // the timer's handler may be under way already
  SocketDeadline(const SocketDeadline&) = delete;
  SocketDeadline& operator=(const SocketDeadline&) = delete;
  bool passed() const { return state_->passed; }

 private:
  struct State {
    asio::ip::tcp::socket* socket;
    bool passed;
  };
  asio::steady_timer timer_;
  std::shared_ptr<State> state_;
};

std::string alpn_wire_form(std::string_view protocol) {
  return static_cast<char>(protocol.size()) + std::string(protocol);
}

std::string negotiated_protocol(SSL* ssl) {
  const unsigned char* name = nullptr;
  unsigned int size = 0;
  SSL_get0_alpn_selected(ssl, &name, &size);
  return {reinterpret_cast<const char*>(name), size};
}

// ---------------------------------------------------------------------------------------------------------------
// Server

// Picks the first protocol of the peer's that is spoken here. Enrolment alone asks for no certificate.
int select_protocol(SSL* ssl, const unsigned char** chosen, unsigned char* chosen_size, const unsigned char* offered,
                    unsigned int offered_size, void*) {
  for (unsigned int at = 0; at < offered_size; at += 1u + offered[at]) {
    const std::string_view name(reinterpret_cast<const char*>(offered + at + 1), offered[at]);
    if (name != client_protocol && name != admin_protocol && name != enrol_protocol) continue;
    if (name == enrol_protocol) SSL_set_verify(ssl, SSL_VERIFY_NONE, nullptr);
    *chosen = offered + at + 1;
    *chosen_size = offered[at];
    return SSL_TLSEXT_ERR_OK;
  }
  return SSL_TLSEXT_ERR_ALERT_FATAL;
}

Status check_role(const PeerIdentity& peer, std::string_view protocol) {
  const std::string_view wanted = protocol == admin_protocol ? role_operator : role_site;
  if (peer.role == wanted) return {};
  return Error{Errc::unsupported, "the certificate of " + shown(peer) + " may not speak " + std::string(protocol) +
                                      ", which needs the role " + std::string(wanted)};
}

class TlsServerContextImpl final : public TlsServerContext, public std::enable_shared_from_this<TlsServerContextImpl> {
 public:
  explicit TlsServerContextImpl(Certificate ca) : ca_(std::move(ca)) {}

  Status replace_certificate(const Certificate& certificate, const PrivateKey& key) override {
    auto context = std::make_shared<asio::ssl::context>(asio::ssl::context::tls_server);
    SSL_CTX* native = context->native_handle();
    allow_only_tls13(native);
    TRIB_TRY(use_credentials(native, certificate, key));
    // The CA goes along, for sites that know only its fingerprint yet.
    SSL_CTX_add1_chain_cert(native, ca_.native());
    X509_STORE_add_cert(SSL_CTX_get_cert_store(native), ca_.native());
    SSL_CTX_set_verify(native, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, verify);
    SSL_CTX_set_alpn_select_cb(native, select_protocol, nullptr);
    context_ = std::move(context);
    return {};
  }

  void set_peer_check(std::function<Status(const PeerIdentity&)> check) override { peer_check_ = std::move(check); }

  asio::awaitable<Result<std::unique_ptr<Channel>>> accept(asio::ip::tcp::socket socket, Limits limits,
                                                           LimitsFor limits_for) override {
    auto self = shared_from_this();
    error_code ignored;
    socket.set_option(asio::ip::tcp::no_delay(true), ignored);
    socket.set_option(asio::socket_base::keep_alive(true), ignored);
    TlsStream stream(std::move(socket), *context_);
    Handshake handshake;
    PeerIdentity peer;
    handshake.check_peer = [&](const Certificate& certificate, SSL* ssl) -> Status {
      peer = identity_of(certificate);
      TRIB_TRY(check_role(peer, negotiated_protocol(ssl)));
      if (peer_check_) TRIB_TRY(peer_check_(peer));
      return {};
    };
    SSL_set_ex_data(stream.native_handle(), handshake_index(), &handshake);
    error_code error;
    bool timed_out = false;
    {
      SocketDeadline deadline(stream.next_layer(), limits.handshake_timeout);
      co_await stream.async_handshake(asio::ssl::stream_base::server, asio::redirect_error(asio::use_awaitable, error));
      timed_out = deadline.passed();
    }
    SSL_set_ex_data(stream.native_handle(), handshake_index(), nullptr);
    if (timed_out)
      co_return Error{Errc::deadline_exceeded, "the TLS handshake took longer than limits.handshake_timeout = " +
                                                   std::to_string(limits.handshake_timeout.count()) + " ms"};
    if (handshake.error) co_return *handshake.error;
    if (error) co_return describe_handshake_error(error);
    std::string protocol = negotiated_protocol(stream.native_handle());
    if (protocol.empty())
      co_return Error{Errc::unsupported, "the peer names no protocol (ALPN): it is no client of this federation"};
    if (limits_for) limits = limits_for(protocol);
    co_return make_tls_channel(std::move(stream), std::move(peer), std::move(protocol), limits);
  }

 private:
  Certificate ca_;
  std::shared_ptr<asio::ssl::context> context_;
  std::function<Status(const PeerIdentity&)> peer_check_;
};

// ---------------------------------------------------------------------------------------------------------------
// Client

Status check_aggregator(const Certificate& certificate, const HostPort& address) {
  const PeerIdentity identity = identity_of(certificate);
  if (identity.role != role_aggregator)
    return Error{Errc::unsupported, "the server at " + address.to_string() + " shows the certificate of " +
                                        shown(identity) + ", whose role is not aggregator"};
  const bool matches = address.is_ip_address()
                           ? X509_check_ip_asc(certificate.native(), address.host.c_str(), 0) == 1
                           : X509_check_host(certificate.native(), address.host.c_str(), address.host.size(),
                                             X509_CHECK_FLAG_NEVER_CHECK_SUBJECT, nullptr) == 1;
  if (matches) return {};
  std::string names;
  for (const std::string& name : certificate.host_names()) names += (names.empty() ? "" : ", ") + name;
  return Error{Errc::unauthenticated, "the server's certificate names " + (names.empty() ? "no host" : names) +
                                          ", not '" + address.host +
                                          "': dial one of those, or add the name to tls.host_names of the aggregator"};
}

// "localhost" is this machine, whatever a resolver would say of it (RFC 6761, section 6.3): a bare container has
// neither /etc/hosts nor a name server that answers.
asio::awaitable<Result<std::vector<asio::ip::tcp::endpoint>>> resolve(asio::any_io_executor executor,
                                                                      const HostPort& address) {
  if (address.host == "localhost")
    co_return std::vector<asio::ip::tcp::endpoint>{{asio::ip::address_v4::loopback(), address.port},
                                                   {asio::ip::address_v6::loopback(), address.port}};
  asio::ip::tcp::resolver resolver(executor);
  error_code error;
  const auto found = co_await resolver.async_resolve(address.host, std::to_string(address.port),
                                                     asio::redirect_error(asio::use_awaitable, error));
  if (error)
    co_return Error{Errc::unavailable, "the host name '" + address.host + "' cannot be resolved: " + error.message()};
  co_return std::vector<asio::ip::tcp::endpoint>(found.begin(), found.end());
}

asio::awaitable<Result<std::unique_ptr<Channel>>> connect(asio::any_io_executor executor, std::string address_text,
                                                          std::shared_ptr<asio::ssl::context> context,
                                                          std::optional<Sha256> pinned_ca, std::string protocol,
                                                          Limits limits, Milliseconds timeout) {
  TRIB_CO_ASSIGN(const HostPort address, parse_host_port(address_text));
  TlsStream stream(asio::ip::tcp::socket(executor), *context);
  Handshake handshake;
  handshake.pinned_ca = pinned_ca;
  handshake.check_peer = [&address](const Certificate& certificate, SSL*) {
    return check_aggregator(certificate, address);
  };
  SSL* ssl = stream.native_handle();
  SSL_set_ex_data(ssl, handshake_index(), &handshake);
  const std::string wire = alpn_wire_form(protocol);
  SSL_set_alpn_protos(ssl, reinterpret_cast<const unsigned char*>(wire.data()), static_cast<unsigned int>(wire.size()));
  if (!address.is_ip_address()) SSL_set_tlsext_host_name(ssl, address.host.c_str());

  const std::string context_text = "connecting to " + address.to_string();
  TRIB_CO_ASSIGN(const std::vector<asio::ip::tcp::endpoint> endpoints, co_await resolve(executor, address));
  error_code error;
  bool timed_out = false;
  bool connected = false;
  {
    // async_connect opens the socket anew for each endpoint, so a deadline must also stop it between two of them.
    SocketDeadline deadline(stream.next_layer(), timeout);
    for (const auto& endpoint : endpoints) {
      co_await stream.next_layer().async_connect(endpoint, asio::redirect_error(asio::use_awaitable, error));
      if (!error || deadline.passed()) break;
      error_code ignored;
      stream.next_layer().close(ignored);
    }
    connected = !error;
    if (connected) {
      error_code ignored;
      stream.next_layer().set_option(asio::ip::tcp::no_delay(true), ignored);
      stream.next_layer().set_option(asio::socket_base::keep_alive(true), ignored);
      co_await stream.async_handshake(asio::ssl::stream_base::client, asio::redirect_error(asio::use_awaitable, error));
    }
    timed_out = deadline.passed();
  }
  SSL_set_ex_data(ssl, handshake_index(), nullptr);
  if (timed_out)
    co_return Error{Errc::deadline_exceeded,
                    context_text + ": no answer within " + std::to_string(timeout.count()) + " ms"};
  if (!connected) co_return Error{Errc::unavailable, context_text + ": " + error.message()};
  if (handshake.error) co_return handshake.error->with_context(context_text);
  if (error) co_return describe_handshake_error(error).with_context(context_text);
  if (negotiated_protocol(ssl) != protocol)
    co_return Error{Errc::unsupported, context_text + ": the server does not speak " + protocol};
  X509* certificate = SSL_get0_peer_certificate(ssl);
  PeerIdentity peer = identity_of(certificate_of(certificate));
  co_return make_tls_channel(std::move(stream), std::move(peer), protocol, limits);
}

std::shared_ptr<asio::ssl::context> make_client_context() {
  auto context = std::make_shared<asio::ssl::context>(asio::ssl::context::tls_client);
  allow_only_tls13(context->native_handle());
  SSL_CTX_set_verify(context->native_handle(), SSL_VERIFY_PEER, verify);
  return context;
}

}  // namespace

Result<std::shared_ptr<TlsServerContext>> TlsServerContext::create(const Certificate& certificate,
                                                                   const PrivateKey& key, const Certificate& ca) {
  auto context = std::make_shared<TlsServerContextImpl>(ca);
  TRIB_TRY(context->replace_certificate(certificate, key));
  return std::shared_ptr<TlsServerContext>(context);
}

asio::awaitable<Result<std::unique_ptr<Channel>>> connect_tls(asio::any_io_executor executor, std::string address,
                                                              const Certificate& ca,
                                                              const ClientCredentials* credentials,
                                                              std::string_view protocol, Limits limits,
                                                              Milliseconds timeout) {
  auto context = make_client_context();
  X509_STORE_add_cert(SSL_CTX_get_cert_store(context->native_handle()), ca.native());
  if (credentials != nullptr)
    TRIB_CO_TRY(use_credentials(context->native_handle(), credentials->certificate, credentials->key));
  auto channel = co_await connect(executor, std::move(address), std::move(context), std::nullopt, std::string(protocol),
                                  limits, timeout);
  co_return channel;
}

asio::awaitable<Result<std::unique_ptr<Channel>>> connect_tls_pinned(asio::any_io_executor executor,
                                                                     std::string address, const Sha256& ca_sha256,
                                                                     Limits limits, Milliseconds timeout) {
  auto context = make_client_context();
  SSL_CTX_set_cert_verify_callback(context->native_handle(), verify_pinned, nullptr);
  auto channel = co_await connect(executor, std::move(address), std::move(context), ca_sha256,
                                  std::string(enrol_protocol), limits, timeout);
  co_return channel;
}

std::unique_ptr<Channel> accept_unix(asio::local::stream_protocol::socket socket, Limits limits) {
  return make_unix_channel(std::move(socket), limits);
}

asio::awaitable<Result<std::unique_ptr<Channel>>> connect_unix(asio::any_io_executor executor,
                                                               std::filesystem::path path, Limits limits) {
  const std::string name = path.string();
  if (name.size() >= sizeof(sockaddr_un::sun_path))
    co_return Error{Errc::invalid_argument, "the socket path " + name + " is longer than a Unix socket's may be"};
  UnixStream socket(executor);
  error_code error;
  co_await socket.async_connect(asio::local::stream_protocol::endpoint(name),
                                asio::redirect_error(asio::use_awaitable, error));
  if (error == asio::error::access_denied)
    co_return Error{Errc::permission_denied, name + ": " + error.message() + ": run as the user that runs trib-server"};
  if (error)
    co_return Error{Errc::unavailable, name + ": " + error.message() + ": is trib-server running with this directory?"};
  co_return make_unix_channel(std::move(socket), limits);
}

}  // namespace trib::net
