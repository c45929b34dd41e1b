#include "common/net/listen.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/asio/connect.hpp>

namespace trib::net {
namespace {

using boost::asio::ip::tcp;
using testing::HasSubstr;

TEST(ListenOn, TakesConnectionsAtAPortThatTheSystemChooses) {
  boost::asio::io_context context;
  for (const char* host : {"127.0.0.1", "localhost"}) {
    tcp::acceptor acceptor = listen_on(context, {.host = host, .port = 0}, "http.listen").value();
    EXPECT_TRUE(acceptor.local_endpoint().address().is_loopback());
    tcp::socket caller(context);
    caller.connect(acceptor.local_endpoint());
    EXPECT_EQ(acceptor.accept().remote_endpoint(), caller.local_endpoint());
  }
}

TEST(ListenOn, NamesTheSettingAndTheAddressThatIsTaken) {
  boost::asio::io_context context;
  const tcp::acceptor first = listen_on(context, {.host = "127.0.0.1", .port = 0}, "http.listen").value();
  const HostPort taken{.host = "127.0.0.1", .port = first.local_endpoint().port()};
  const auto second = listen_on(context, taken, "metrics.listen");
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, Errc::unavailable);
  EXPECT_THAT(second.error().message, HasSubstr("metrics.listen = " + taken.to_string()));
  EXPECT_THAT(second.error().message, HasSubstr("Give metrics.listen another one"));
}

TEST(ListenOn, AnAddressOfAnotherMachineIsNoOtherProgramsFault) {
  boost::asio::io_context context;
  const auto elsewhere = listen_on(context, {.host = "192.0.2.1", .port = 0}, "listen.address");  // RFC 5737
  ASSERT_FALSE(elsewhere);
  EXPECT_EQ(elsewhere.error().code, Errc::io_error);
  EXPECT_THAT(elsewhere.error().message, HasSubstr("listen.address = 192.0.2.1:0"));
  EXPECT_THAT(elsewhere.error().message, testing::Not(HasSubstr("another program")));
}

TEST(ListenOn, AHostThatDoesNotExist) {
  boost::asio::io_context context;
  const auto nowhere = listen_on(context, {.host = "no-such-host.invalid", .port = 0}, "listen.address");
  ASSERT_FALSE(nowhere);
  EXPECT_EQ(nowhere.error().code, Errc::invalid_argument);
  EXPECT_THAT(nowhere.error().message, HasSubstr("no-such-host.invalid"));
}

}  // namespace
}  // namespace trib::net
