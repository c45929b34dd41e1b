#include "common/net/listen.h"

#include <spdlog/fmt/fmt.h>

namespace trib::net {

namespace asio = boost::asio;
using asio::ip::tcp;

Result<tcp::acceptor> listen_on(asio::io_context& context, const HostPort& address, std::string_view setting) {
  const auto problem = [&](const boost::system::error_code& error) {
    return fmt::format("{} = {}: {}", setting, address.to_string(), error.message());
  };
  boost::system::error_code error;
  tcp::endpoint endpoint(asio::ip::address_v4::loopback(), address.port);
  if (address.host != "localhost") {
    tcp::resolver resolver(context);
    const auto found = resolver.resolve(address.host, std::to_string(address.port), tcp::resolver::passive, error);
    if (error) return Error{Errc::invalid_argument, problem(error)};
    endpoint = *found.begin();
  }
  tcp::acceptor acceptor(context);
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(asio::socket_base::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error == asio::error::address_in_use)
    return Error{Errc::unavailable,
                 fmt::format("{}: is another program using the port? Give {} another one", problem(error), setting)};
  if (error) return Error{Errc::io_error, problem(error)};
  return acceptor;
}

}  // namespace trib::net
