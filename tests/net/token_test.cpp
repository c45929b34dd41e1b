#include <gtest/gtest.h>

#include "common/net/enrolment.h"

namespace trib::net {
namespace {

tributary::proto::Invite example_invite() {
  tributary::proto::Invite invite;
  invite.set_federation("Test Federation");
  invite.set_site("clinic-7");
  invite.add_addresses("aggregator.example:7443");
  invite.set_ca_sha256(std::string(32, 'c'));
  invite.set_secret(std::string(32, 's'));
  invite.set_expires_unix(1'800'000'000);
  return invite;
}

TEST(Token, IsOneWordThatReadsBackEqual) {
  const std::string token = make_token(example_invite());
  EXPECT_TRUE(token.starts_with("trib1."));
  EXPECT_EQ(token.find_first_of(" \t\n'\"$+/="), std::string::npos) << token;
  EXPECT_EQ(parse_token(token)->SerializeAsString(), example_invite().SerializeAsString());
}

TEST(Token, CutShortOrWithoutAPartIsRefused) {
  const std::string token = make_token(example_invite());
  EXPECT_FALSE(parse_token("").ok());
  EXPECT_FALSE(parse_token("trib2." + token.substr(6)).ok());
  EXPECT_FALSE(parse_token("trib1.***").ok());
  for (std::size_t length = 6; length + 10 < token.size(); length += 7)
    EXPECT_FALSE(parse_token(token.substr(0, length)).ok()) << length;
  auto no_address = example_invite();
  no_address.clear_addresses();
  EXPECT_EQ(parse_token(make_token(no_address)).error().code, Errc::invalid_argument);
}

}  // namespace
}  // namespace trib::net
