// Channels over connected sockets; tls.h and unix_socket.h make them.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <memory>

#include "common/net/channel.h"

namespace trib::net {

using TlsStream = asio::ssl::stream<asio::ip::tcp::socket>;
using UnixStream = asio::local::stream_protocol::socket;

// `stream` has completed its handshake.
std::unique_ptr<Channel> make_tls_channel(TlsStream stream, PeerIdentity peer, std::string protocol, Limits limits);
std::unique_ptr<Channel> make_unix_channel(UnixStream stream, Limits limits);

}  // namespace trib::net
