// What went wrong with a TLS connection, in words.
#pragma once

#include <boost/system/error_code.hpp>

#include "common/result.h"

namespace trib::net {

// An error of a connected stream. Alerts of the peer become what the peer meant by them: Errc::unauthenticated
// (it does not accept our certificate), permission_denied (revoked, wrong role), unsupported (protocol or version).
Error describe_stream_error(const boost::system::error_code& error);

// An error of our own half of the handshake that no certificate check has explained.
Error describe_handshake_error(const boost::system::error_code& error);

}  // namespace trib::net
