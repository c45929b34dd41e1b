// Browsers: signing in, what the cookie is, and that no other page can use it.
#include "tests/http/http_support.h"

namespace trib::server::http {
namespace {

using testing::Client;
using testing::HttpTest;
using testing::Reply;

class HttpSession : public HttpTest {
 protected:
  Reply invite(const std::string& headers) { return post("/api/v1/invites", R"({"site":"clinic-1"})", headers); }
};

TEST_F(HttpSession, TheCookieIsOutOfReachOfScriptsAndOtherSites) {
  start();
  const auto browser = sign_in(viewer());
  EXPECT_EQ(browser.set_cookie, browser.cookie + "; Path=/; HttpOnly; SameSite=Strict; Max-Age=43200; Secure");
  EXPECT_EQ(browser.cookie.find("__Host-tributary="), 0u);
  EXPECT_EQ(browser.cookie.size(), std::string("__Host-tributary=").size() + 43);
  EXPECT_EQ(browser.csrf.size(), 43u);
  EXPECT_NE(sign_in(viewer()).cookie, browser.cookie);
}

TEST_F(HttpSession, WithoutTlsTheCookieHasAnotherNameAndIsNotSecure) {
  config.http.tls = false;
  start();
  const auto browser = sign_in(viewer());
  EXPECT_EQ(browser.cookie.find("tributary="), 0u);
  EXPECT_EQ(browser.set_cookie.find("Secure"), std::string::npos);
  EXPECT_EQ(get("/api/v1/session", browser.headers()).status, 200);
  const Reply proxied = post("/api/v1/session", "{\"token\":\"" + viewer() + "\"}", "X-Forwarded-Proto: https\r\n");
  EXPECT_EQ(proxied.header("set-cookie").find("__Host-tributary="), 0u);
  EXPECT_NE(proxied.header("set-cookie").find("; Secure"), std::string::npos);
}

TEST_F(HttpSession, SaysWhoItIs) {
  start();
  const auto browser = sign_in(operating());
  const auto session = get("/api/v1/session", browser.headers()).document();
  EXPECT_EQ(session.at("role").as_string(), "operator");
  EXPECT_EQ(session.at("name").as_string(), "alice");
  EXPECT_EQ(session.at("csrf").as_string(), browser.csrf);
  EXPECT_TRUE(session.at("expires").is_string());
  EXPECT_TRUE(view("/api/v1/session").document().at("csrf").is_null());
}

TEST_F(HttpSession, AChangeNeedsTheSessionsOwnCsrfToken) {
  start();
  const auto browser = sign_in(operating());
  const auto other = sign_in(operating());
  EXPECT_EQ(invite(browser.headers()).status, 403);
  EXPECT_EQ(invite(browser.headers() + "X-Tributary-CSRF: \r\n").status, 403);
  EXPECT_EQ(invite(browser.headers() + "X-Tributary-CSRF: " + other.csrf + "\r\n").status, 403);
  EXPECT_EQ(exchange(make("DELETE", "/api/v1/session", browser.headers())).status, 403);
  EXPECT_EQ(invite(browser.changing()).status, 200);
  EXPECT_EQ(invite(bearer(operating())).status, 200) << "no browser adds a bearer token by itself";
}

TEST_F(HttpSession, APageOfAnotherOriginChangesNothing) {
  start();
  const auto browser = sign_in(operating());
  for (const std::string& foreign : {std::string("https://evil.example"), std::string("null"), "http://" + host(),
                                     "https://" + host() + ".evil.example", std::string("https://127.0.0.1"),
                                     "https://evil@" + host(), std::string("https://")})
    EXPECT_EQ(invite(browser.changing() + "Origin: " + foreign + "\r\n").status, 403) << foreign;
  EXPECT_EQ(invite(browser.changing() + "Sec-Fetch-Site: cross-site\r\n").status, 403);
  EXPECT_EQ(invite(browser.changing() + "Sec-Fetch-Site: same-site\r\n").status, 403);
  EXPECT_EQ(invite(browser.changing() + "Origin: " + origin() + "\r\nSec-Fetch-Site: same-origin\r\n").status, 200);
}

TEST_F(HttpSession, APageOfAnotherOriginCannotSignABrowserIn) {
  start();
  const std::string body = "{\"token\":\"" + viewer() + "\"}";
  const Reply reply = post("/api/v1/session", body, "Origin: https://evil.example\r\n");
  EXPECT_EQ(reply.status, 403);
  EXPECT_EQ(reply.header("set-cookie"), "");
  // A form cannot send JSON, and what it can send is not read.
  const std::string form = make("POST", "/api/v1/session",
                                "Content-Type: text/plain\r\nContent-Length: " + std::to_string(body.size()) + "\r\n") +
                           body;
  EXPECT_EQ(exchange(form).status, 400);
}

TEST_F(HttpSession, SigningOutEndsTheSession) {
  start();
  const auto browser = sign_in(viewer());
  const Reply reply = exchange(make("DELETE", "/api/v1/session", browser.changing()));
  EXPECT_EQ(reply.status, 204);
  EXPECT_EQ(reply.header("set-cookie"), "__Host-tributary=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0; Secure");
  EXPECT_EQ(get("/api/v1/session", browser.headers()).status, 401);
}

TEST_F(HttpSession, EndsWithItsTimeAndWithItsToken) {
  config.http.session_lifetime = Milliseconds(1'000);
  start();
  const auto browser = sign_in(viewer());
  const auto other = sign_in(operating());
  EXPECT_EQ(get("/api/v1/session", browser.headers()).status, 200);
  EXPECT_EQ(revoke_token("alice").error(), "");
  EXPECT_EQ(get("/api/v1/session", other.headers()).status, 401);
  std::this_thread::sleep_for(Milliseconds(1'100));
  const Reply late = get("/api/v1/session", browser.headers());
  EXPECT_EQ(late.status, 401);
  EXPECT_NE(late.error_message().find("sign in again"), std::string::npos);
}

TEST_F(HttpSession, TokensOutliveARestartAndSessionsDoNot) {
  start();
  const auto browser = sign_in(viewer());
  const std::string revoked = create_token("old", "viewer");
  EXPECT_EQ(revoke_token("old").error(), "");
  stop();
  start();
  EXPECT_EQ(view("/api/v1/session").status, 200);
  EXPECT_EQ(get("/api/v1/session", bearer(revoked)).status, 401);
  EXPECT_EQ(get("/api/v1/session", browser.headers()).status, 401);
}

TEST_F(HttpSession, TokensAreListedWithTheirUseAndNeverShown) {
  start();
  const std::string token = viewer();
  view("/api/v1/session");
  server::testing::AdminRequest request;
  request.mutable_list_tokens();
  const auto reply = ask(request);
  EXPECT_EQ(reply.json().find(token.substr(10)), std::string::npos);
  const auto listed = boost::json::parse(reply.json()).at("tokens").as_array().at(0);
  EXPECT_EQ(listed.at("name").as_string(), "officer");
  EXPECT_EQ(listed.at("role").as_string(), "viewer");
  EXPECT_TRUE(listed.at("last_used").is_string());
  EXPECT_TRUE(listed.at("revoked").is_null());
}

TEST_F(HttpSession, TokenMistakesAreNamed) {
  start();
  viewer();
  const auto create = [&](const std::string& name, const std::string& role) {
    server::testing::AdminRequest request;
    request.mutable_create_token()->set_name(name);
    request.mutable_create_token()->set_role(role);
    return ask(request);
  };
  EXPECT_EQ(create("officer", "viewer").error_code(), to_string(Errc::already_exists));
  EXPECT_EQ(create("a b", "viewer").error_code(), to_string(Errc::invalid_argument));
  EXPECT_EQ(create("bob", "admin").error_code(), to_string(Errc::invalid_argument));
  EXPECT_NE(revoke_token("bob").error().find("there are officer"), std::string::npos) << revoke_token("bob").error();
  EXPECT_EQ(revoke_token("officer").error(), "");
  EXPECT_EQ(create("officer", "operator").error(), "") << "the name of a revoked token is free";
}

}  // namespace
}  // namespace trib::server::http
