#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <string_view>

#include "common/net/address.h"

namespace trib::net {

// A TCP socket that listens at `address`, whose own host may be a name; "localhost" is 127.0.0.1 without a resolver.
// `setting` is the key that `address` was read from ("http.listen"), for errors. Errc::invalid_argument: no such host;
// Errc::unavailable: the port is taken; Errc::io_error: anything else, such as a port that needs privileges.
Result<boost::asio::ip::tcp::acceptor> listen_on(boost::asio::io_context& context, const HostPort& address,
                                                 std::string_view setting);

}  // namespace trib::net
