// The parts of the HTTP API that need no socket.
#include "server/http/message.h"

#include <gtest/gtest.h>

#include <random>

#include "server/http/access.h"
#include "server/http/json_body.h"

namespace trib::server::http {
namespace {

using Path = std::vector<std::string>;

TEST(DecodePath, SplitsAndDecodes) {
  EXPECT_EQ(decode_path("/").value(), Path());
  EXPECT_EQ(decode_path("/?a=/b").value(), Path());
  EXPECT_EQ(decode_path("/jobs/a%20b?x=%zz").value(), (Path{"jobs", "a b"}));
  EXPECT_EQ(decode_path("/jobs/").value(), (Path{"jobs", ""}));
  EXPECT_EQ(decode_path("//jobs").value(), (Path{"", "jobs"}));
  EXPECT_EQ(decode_path("/%C3%A9").value(), (Path{"\xc3\xa9"}));
  EXPECT_EQ(decode_path("/%2541").value(), (Path{"%41"})) << "decoded once";
}

TEST(DecodePath, RefusesWhatNoPathHas) {
  for (const std::string target :
       {"",      "x",    "*",       "http://a/", "/..",  "/a/../b", "/%2e%2E", "/.",   "/a%2fb", "/a%5Cb",
        "/a\\b", "/%00", "/%0d%0a", "/\x7f",     "/%7f", "/%",      "/%1",     "/%1g", "/%ff",   "/#a"})
    EXPECT_EQ(decode_path(target).error().code, Errc::invalid_argument) << target;
}

TEST(DecodePath, NeverYieldsASegmentThatLeadsElsewhere) {
  std::mt19937_64 random(20261125);
  const std::string alphabet = "/.%2eEfF5cC\\0aA?#d9";
  for (int i = 0; i < 200'000; ++i) {
    std::string target = "/";
    for (std::uint64_t n = random() % 16; n > 0; --n) target += alphabet[random() % alphabet.size()];
    const auto path = decode_path(target);
    if (!path) continue;
    for (const std::string& segment : *path) {
      EXPECT_NE(segment, "..") << target;
      EXPECT_NE(segment, ".") << target;
      EXPECT_EQ(segment.find_first_of("/\\"), std::string::npos) << target;
      for (const char character : segment) EXPECT_GE(static_cast<unsigned char>(character), 0x20) << target;
    }
  }
}

TEST(JsonBody, NamesWhatIsWrong) {
  const auto problem = [](std::string_view text) {
    auto body = JsonBody::parse(text);
    if (!body) return body.error().message;
    body->text("site");
    body->count("minutes", 0);
    body->boolean("operator", false);
    const Status read = body->finish();
    return read ? std::string() : read.error().message;
  };
  EXPECT_EQ(problem(R"({"site":"a","minutes":5,"operator":true})"), "");
  EXPECT_EQ(problem(R"({"site":"a","minutes":null})"), "");
  EXPECT_EQ(problem("{}"), "'site' in the body is missing");
  EXPECT_EQ(problem(""), "'site' in the body is missing");
  EXPECT_EQ(problem(R"({"site":1})"), "'site' in the body must be text");
  EXPECT_EQ(problem(R"({"site":"a","minutes":-1})"), "'minutes' in the body must be a whole number");
  EXPECT_EQ(problem(R"({"site":"a","minutes":1.5})"), "'minutes' in the body must be a whole number");
  EXPECT_EQ(problem(R"({"site":"a","operator":"yes"})"), "'operator' in the body must be true or false");
  EXPECT_EQ(problem(R"({"site":"a","sites":"b"})"),
            "the body has the unknown key 'sites'; the keys are: site, minutes, operator");
  EXPECT_EQ(problem("[]"), "the body is not a JSON object");
  EXPECT_NE(problem("{\"site\":").find("not JSON"), std::string::npos);
  EXPECT_NE(problem(std::string(100'000, '[')).find("not JSON"), std::string::npos) << "deep nesting";
}

TEST(Origin, IsOwnOnlyWhereSchemeAndHostAre) {
  Request request;
  request.host = "fl.example.org:7480";
  request.is_tls = true;
  EXPECT_TRUE(is_own_origin(request)) << "curl sends none";
  const auto own = [&](const std::string& origin) {
    request.origin = origin;
    return is_own_origin(request);
  };
  EXPECT_TRUE(own("https://fl.example.org:7480"));
  EXPECT_TRUE(own("https://FL.example.org:7480"));
  EXPECT_FALSE(own("http://fl.example.org:7480"));
  EXPECT_FALSE(own("https://fl.example.org"));
  EXPECT_FALSE(own("https://fl.example.org:74800"));
  EXPECT_FALSE(own("null"));
  request.is_tls = false;  // or a proxy's
  EXPECT_TRUE(own("https://fl.example.org:7480"));
  EXPECT_TRUE(own("http://fl.example.org:7480"));
  EXPECT_FALSE(own("ftp://fl.example.org:7480"));
}

TEST(HeaderValues, HaveNoLineEnds) {
  EXPECT_TRUE(is_header_safe("attachment; filename=\"statement-a.json\""));
  for (const char* bad : {"a\r\nb", "a\nb", "a\rb", "\x7f"}) EXPECT_FALSE(is_header_safe(bad));
  EXPECT_FALSE(is_header_safe(std::string_view("a\0b", 3)));
}

}  // namespace
}  // namespace trib::server::http
