#include "common/net/address.h"

#include <arpa/inet.h>

#include <array>
#include <charconv>

namespace trib::net {

bool is_ip_address(const std::string& text) {
  std::array<unsigned char, 16> bytes{};
  return inet_pton(AF_INET, text.c_str(), bytes.data()) == 1 || inet_pton(AF_INET6, text.c_str(), bytes.data()) == 1;
}

std::string HostPort::to_string() const {
  const std::string shown = host.find(':') == std::string::npos ? host : "[" + host + "]";
  return shown + ":" + std::to_string(port);
}

bool HostPort::is_ip_address() const {
  return net::is_ip_address(host);
}

Result<HostPort> parse_host_port(std::string_view text) {
  const auto wrong = [text](std::string_view problem) {
    return Error{Errc::invalid_argument, "the address '" + std::string(text) + "' " + std::string(problem) +
                                             ": write host:port, as in hospital.example:7443 or [2001:db8::1]:7443"};
  };
  std::string_view host, port;
  if (text.starts_with('[')) {
    const auto end = text.find("]:");
    if (end == std::string_view::npos) return wrong("has no ]:port at its end");
    host = text.substr(1, end - 1);
    port = text.substr(end + 2);
  } else {
    const auto colon = text.find(':');
    if (colon == std::string_view::npos) return wrong("has no port");
    host = text.substr(0, colon);
    port = text.substr(colon + 1);
  }
  if (host.empty()) return wrong("has no host");
  HostPort result;
  result.host = std::string(host);
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), result.port);
  if (error != std::errc() || end != port.data() + port.size() || port.empty())
    return wrong("has no port between 0 and 65535");
  return result;
}

}  // namespace trib::net
