// "host:port" as people write it: "hospital.example:7443", "192.0.2.1:7443", "[2001:db8::1]:7443".
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/result.h"

namespace trib::net {

struct HostPort {
  std::string host;  // without brackets
  std::uint16_t port = 0;
  std::string to_string() const;  // the inverse of parse_host_port
  bool is_ip_address() const;
};

// Errc::invalid_argument says what is missing. Port 0 is accepted: a listener lets the system choose.
Result<HostPort> parse_host_port(std::string_view text);

bool is_ip_address(const std::string& text);

}  // namespace trib::net
