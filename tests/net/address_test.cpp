#include "common/net/address.h"

#include <gtest/gtest.h>

namespace trib::net {
namespace {

TEST(Address, ReadsNamesAndBothKindsOfIpAddress) {
  EXPECT_EQ(parse_host_port("hospital.example:7443")->host, "hospital.example");
  EXPECT_EQ(parse_host_port("192.0.2.1:0")->port, 0);
  const HostPort six = parse_host_port("[2001:db8::1]:443").value();
  EXPECT_EQ(six.host, "2001:db8::1");
  EXPECT_TRUE(six.is_ip_address());
  EXPECT_EQ(six.to_string(), "[2001:db8::1]:443");
}

TEST(Address, SaysWhatIsMissing) {
  for (const char* text :
       {"hospital.example", ":7443", "host:", "host:x", "host:65536", "host:-1", "[::1]", "[::1]443"}) {
    const auto parsed = parse_host_port(text);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_EQ(parsed.error().code, Errc::invalid_argument);
    EXPECT_NE(parsed.error().message.find(text), std::string::npos) << parsed.error().message;
  }
}

}  // namespace
}  // namespace trib::net
