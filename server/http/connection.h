// One HTTP/1.1 connection, from its first byte to its end. Every wait has a bound, and every size a limit; what is not
// plain HTTP is answered with 400 and the end of the connection, so that two programs in a row never read it
// differently (request smuggling): no chunked bodies, no header field twice where it counts, no two lengths.
#pragma once

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <memory>
#include <string>

#include "server/config.h"
#include "server/http/message.h"

namespace trib::server::http {

using PlainStream = boost::beast::tcp_stream;
using TlsStream = boost::asio::ssl::stream<boost::beast::tcp_stream>;

// What all connections share. Connections hold it, so that it outlives them.
struct Shared {
  HttpConfig config;
  Handler* handler = nullptr;              // gone once is_closing is set
  std::atomic<bool> is_closing = false;    // no answer leaves its connection open
  std::atomic<std::size_t> answering = 0;  // requests that are being read or answered
};

boost::asio::awaitable<void> serve(PlainStream stream, std::shared_ptr<Shared> shared, std::string remote_address);
// With the handshake.
boost::asio::awaitable<void> serve(TlsStream stream, std::shared_ptr<Shared> shared, std::string remote_address);

}  // namespace trib::server::http
