#include "common/net/tls_errors.h"

#include <openssl/err.h>
#include <openssl/ssl.h>

#include <boost/asio/error.hpp>
#include <boost/asio/ssl/error.hpp>

namespace trib::net {
namespace {

namespace asio = boost::asio;

bool is_tls_error(const boost::system::error_code& error) {
  return error.category() == asio::error::get_ssl_category();
}

int reason_of(const boost::system::error_code& error) {
  return ERR_GET_REASON(static_cast<unsigned long>(error.value()));
}

// An alert arrives as SSL_AD_REASON_OFFSET plus its number (RFC 8446 section 6); -1 for every other error.
int alert_of(const boost::system::error_code& error) {
  if (!is_tls_error(error)) return -1;
  const int reason = reason_of(error);
  return reason >= SSL_AD_REASON_OFFSET && reason < SSL_AD_REASON_OFFSET + 256 ? reason - SSL_AD_REASON_OFFSET : -1;
}

Error describe_alert(int alert) {
  switch (alert) {
    case SSL_AD_CERTIFICATE_REQUIRED:
      return {Errc::unauthenticated, "the peer asks for a certificate and got none"};
    case SSL_AD_CERTIFICATE_EXPIRED:
      return {Errc::unauthenticated, "the peer says that our certificate has expired (or our clock or its is wrong)"};
    case SSL_AD_UNKNOWN_CA:
      return {Errc::unauthenticated, "the peer does not know our certificate's CA: it belongs to another federation"};
    case SSL_AD_CERTIFICATE_REVOKED:
      return {Errc::permission_denied, "the peer says that our certificate is revoked"};
    case SSL_AD_UNSUPPORTED_CERTIFICATE:
      return {Errc::permission_denied, "the peer says that our certificate's role does not allow this protocol"};
    case SSL_AD_BAD_CERTIFICATE:
    case SSL_AD_CERTIFICATE_UNKNOWN:
    case SSL_AD_HANDSHAKE_FAILURE:
      return {Errc::unauthenticated, "the peer does not accept our certificate"};
    case SSL_AD_PROTOCOL_VERSION:
      return {Errc::unsupported, "the peer does not speak TLS 1.3"};
    case SSL_AD_NO_APPLICATION_PROTOCOL:
      return {Errc::unsupported, "the peer does not speak this protocol: it is another version, or not tributary"};
    default:
      return {Errc::unavailable, "the peer ended the connection with TLS alert " + std::to_string(alert)};
  }
}

}  // namespace

Error describe_stream_error(const boost::system::error_code& error) {
  if (const int alert = alert_of(error); alert >= 0) return describe_alert(alert);
  if (error == asio::error::eof || error == asio::ssl::error::stream_truncated)
    return {Errc::unavailable, "the peer closed the connection"};
  if (error == asio::error::operation_aborted || error == asio::error::bad_descriptor)
    return {Errc::cancelled, "the connection was closed on this side"};
  if (is_tls_error(error)) return {Errc::protocol_error, "TLS: " + error.message()};
  return {Errc::unavailable, "the connection broke: " + error.message()};
}

Error describe_handshake_error(const boost::system::error_code& error) {
  if (!is_tls_error(error) || alert_of(error) >= 0) return describe_stream_error(error);
  switch (reason_of(error)) {
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
      return {Errc::unauthenticated, "the peer sent no certificate: join the federation first"};
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_VERSION_TOO_LOW:
      return {Errc::unsupported, "the peer offers no TLS 1.3"};
    case SSL_R_NO_APPLICATION_PROTOCOL:
      return {Errc::unsupported,
              "the peer offers no protocol that is spoken here: it is another version, or no client"};
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_HTTP_REQUEST:
    case SSL_R_HTTPS_PROXY_REQUEST:
      return {Errc::protocol_error, "the peer does not speak TLS"};
    default:
      return {Errc::protocol_error, "TLS: " + error.message()};
  }
}

}  // namespace trib::net
