// What the HTTP API refuses, over real sockets and TLS: strangers, the wrong role, bytes that are no HTTP, too much and
// too slow.
#include <spdlog/sinks/ostream_sink.h>

#include <sstream>

#include "tests/http/http_support.h"

namespace trib::server::http {
namespace {

using testing::Client;
using testing::HttpTest;
using testing::Reply;

class HttpSecurity : public HttpTest {
 protected:
  static std::string fill(std::string_view pattern) {
    std::string path(pattern);
    for (std::size_t at = path.find('{'); at != std::string::npos; at = path.find('{'))
      path.replace(at, path.find('}') - at + 1, "x");
    return path;
  }
  static std::size_t count(const std::string& text, const std::string& part) {
    std::size_t found = 0;
    for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
    return found;
  }
  void expect_security_headers(const Reply& reply, const std::string& what) {
    EXPECT_EQ(reply.header("content-security-policy"),
              "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
              "font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
        << what;
    EXPECT_EQ(reply.header("x-content-type-options"), "nosniff") << what;
    EXPECT_EQ(reply.header("x-frame-options"), "DENY") << what;
    EXPECT_EQ(reply.header("referrer-policy"), "no-referrer") << what;
    EXPECT_EQ(reply.header("strict-transport-security"), config.http.tls ? "max-age=31536000" : "") << what;
    EXPECT_EQ(reply.header("cache-control"), "no-store") << what;
    for (const char* once : {"content-security-policy", "cache-control", "content-type", "content-length"})
      EXPECT_LE(reply.headers.count(once), 1u) << what << " " << once;
  }
};

TEST_F(HttpSecurity, WithoutATokenOnlyHealthAndSignInAreAnswered) {
  start();
  for (const Route& route : Api::routes()) {
    const bool changes = route.method == "POST";
    const Reply reply = exchange(make(std::string(route.method), fill(route.pattern), "",
                                      changes ? std::optional<std::string>("{}") : std::nullopt));
    if (route.audience == Audience::anyone) {
      EXPECT_EQ(reply.status, changes ? 400 : 200) << route.pattern;
      continue;
    }
    EXPECT_EQ(reply.status, 401) << route.method << " " << route.pattern;
    EXPECT_EQ(reply.header("www-authenticate"), "Bearer realm=\"tributary\"");
    EXPECT_EQ(reply.document().at("error").at("code").as_string(), "unauthenticated");
  }
}

TEST_F(HttpSecurity, AViewerChangesNothing) {
  start();
  const auto site = enrol("clinic-7");
  int tried = 0;
  for (const Route& route : Api::routes()) {
    if (route.audience != Audience::operators) continue;
    ++tried;
    const Reply reply = post(fill(route.pattern), R"({"site":"new","reason":"x","file":"x"})", bearer(viewer()));
    EXPECT_EQ(reply.status, 403) << route.pattern;
    EXPECT_NE(reply.error_message().find("--role operator"), std::string::npos) << reply.error_message();
  }
  EXPECT_EQ(tried, 4);
  EXPECT_EQ(view("/api/v1/jobs").document().at("jobs").as_array().size(), 0u);
  connect_site(site);
}

TEST_F(HttpSecurity, OnlyAWholeAndLivingTokenOpens) {
  start();
  const std::string token = viewer();
  EXPECT_EQ(token.substr(0, 10), "trib-view.");
  EXPECT_EQ(token.size(), 53u);
  EXPECT_EQ(operating().substr(0, 8), "trib-op.");
  EXPECT_EQ(view("/api/v1/federation").status, 200);
  const std::vector<std::string> wrong = {
      bearer(token.substr(0, token.size() - 1)),
      bearer(token + "A"),
      bearer("trib-op." + token.substr(10)),  // the secret of a viewer under an operator's name
      bearer(""),
      "Authorization: Basic " + token + "\r\n",
      "Authorization: " + token + "\r\n",
      "Cookie: __Host-tributary=" + token + "\r\n",
      "X-Token: " + token + "\r\n",
  };
  for (const std::string& header : wrong) EXPECT_EQ(get("/api/v1/federation", header).status, 401) << header;
  EXPECT_EQ(get("/api/v1/federation?token=" + token).status, 401);
  EXPECT_EQ(revoke_token("officer").error(), "");
  EXPECT_EQ(view("/api/v1/federation").status, 401);
}

TEST_F(HttpSecurity, TheStoreHasNoToken) {
  start();
  const std::string token = viewer();
  stop();
  for (const char* file : {"federation.db", "federation.db-wal"}) {
    const auto bytes = read_file(layout.store().parent_path() / file);
    if (!bytes) continue;
    EXPECT_EQ(bytes->find(token.substr(10)), std::string::npos);
  }
}

TEST_F(HttpSecurity, APathLeadsOutOfNowhere) {
  adjust_sources = [](Sources& sources) {
    sources.files = {{"/", "text/html", "\"1\"", "<!doctype html>", false}};
  };
  start();
  EXPECT_EQ(get("/").body, "<!doctype html>");
  for (const std::string target : {"/../server.toml",
                                   "/..",
                                   "/assets/../../ca/ca.key",
                                   "/assets/%2e%2e/%2e%2e/ca/ca.key",
                                   "/assets/..%2f..%2fca.key",
                                   "/assets/%2E%2E%5cserver.toml",
                                   "/%00",
                                   "/index.html%00.js",
                                   "//server.toml",
                                   "/./index.html",
                                   "/assets/....//x",
                                   "/%",
                                   "/%4",
                                   "/%zz",
                                   "/%c0%ae%c0%ae/server.toml",
                                   "/index.html/",
                                   "/api/v1/../../server.toml",
                                   "/etc/passwd",
                                   "/%2fetc%2fpasswd",
                                   "/index.html#x"}) {
    const Reply reply = get(target, bearer(viewer()));
    EXPECT_TRUE(reply.status == 400 || reply.status == 404) << target << " " << reply.status;
    EXPECT_EQ(reply.body.find("BEGIN"), std::string::npos);
    EXPECT_EQ(reply.body.find("doctype"), std::string::npos) << target;
  }
}

TEST_F(HttpSecurity, AHeadThatIsTooLongIsRefused) {
  config.http.header_bytes = 2048;
  start();
  const Reply reply = get("/healthz", "X-Long: " + std::string(4000, 'a') + "\r\n");
  EXPECT_EQ(reply.status, 431);
  EXPECT_NE(reply.error_message().find("http.header_bytes = 2048"), std::string::npos);
  EXPECT_EQ(get("/healthz", "X-Long: " + std::string(1000, 'a') + "\r\n").status, 200);
}

TEST_F(HttpSecurity, ABodyThatIsTooLongIsRefusedBeforeItIsRead) {
  config.http.request_bytes = 4096;
  start();
  Client client = connect();
  client.send("POST /api/v1/jobs HTTP/1.1\r\nHost: " + host() + "\r\n" + bearer(operating()) +
              "Content-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{");
  const Reply reply = client.receive_reply();
  EXPECT_EQ(reply.status, 413);
  EXPECT_NE(reply.error_message().find("http.request_bytes = 4096"), std::string::npos);
  EXPECT_EQ(reply.header("connection"), "close");
  // Also where the peer sends all of it before it reads.
  EXPECT_EQ(post("/api/v1/jobs", std::string(200'000, 'x'), bearer(operating())).status, 413);
}

TEST_F(HttpSecurity, ABodyNobodyMaySendIsNotWaitedFor) {
  start();
  Client client = connect();
  client.send("POST /api/v1/jobs HTTP/1.1\r\nHost: " + host() +
              "\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n");
  EXPECT_EQ(client.receive_reply().status, 401);
}

TEST_F(HttpSecurity, SlowPeersAreCutOffAndOthersAreServed) {
  config.http.header_timeout = Milliseconds(300);
  config.http.body_timeout = Milliseconds(300);
  config.http.idle_timeout = Milliseconds(300);
  start();
  Client silent = connect();
  Client slow_head = connect();
  Client slow_body = connect();
  slow_body.send("POST /api/v1/session HTTP/1.1\r\nHost: " + host() +
                 "\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{");
  bool is_cut_off = false;
  for (int i = 0; i < 100 && !is_cut_off; ++i) {  // a byte now and then keeps no head open
    is_cut_off = !slow_head.send("G");
    std::this_thread::sleep_for(Milliseconds(20));
    if (i == 2) {
      EXPECT_EQ(get("/healthz").status, 200);
    }
  }
  EXPECT_TRUE(is_cut_off);
  EXPECT_EQ(silent.receive_all(), "");
  EXPECT_FALSE(silent.timed_out);
  EXPECT_EQ(slow_body.receive_all(), "");
  EXPECT_FALSE(slow_body.timed_out);
  Client idle = connect();
  idle.send(make("GET", "/healthz"));
  EXPECT_EQ(idle.receive_reply().status, 200);
  EXPECT_EQ(idle.receive_all(), "");
  EXPECT_FALSE(idle.timed_out);
}

TEST_F(HttpSecurity, WhatTwoProgramsMightReadDifferentlyIsRefusedAndTheConnectionEnds) {
  start();
  const std::string start_line = "POST /api/v1/session HTTP/1.1\r\n";
  const std::string host_line = "Host: " + host() + "\r\n";
  const std::string smuggled = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
  const std::vector<std::string> requests = {
      start_line + host_line + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
      start_line + host_line + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + smuggled,
      start_line + host_line + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
      start_line + host_line + "Transfer-Encoding: xchunked\r\n\r\n" + smuggled,
      start_line + host_line + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + smuggled,
      start_line + host_line + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}   " + smuggled,
      start_line + host_line + "Content-Length: 5\r\nContent-Length: 5\r\n\r\n{}   " + smuggled,
      start_line + host_line + "Content-Length: 5, 5\r\n\r\n{}   " + smuggled,
      start_line + host_line + "Content-Length: +5\r\n\r\n{}   " + smuggled,
      start_line + host_line + "Content-Length: -1\r\n\r\n" + smuggled,
      start_line + host_line + "Content-Length: 0x5\r\n\r\n{}   " + smuggled,
      start_line + host_line + "Content-Length : 5\r\n\r\n{}   " + smuggled,
      start_line + host_line + host_line + "\r\n" + smuggled,
      start_line + "\r\n" + smuggled,
      start_line + host_line + "no colon\r\n\r\n" + smuggled,
      start_line + host_line + "X: a\nY: b\r\n\r\n" + smuggled,
      "GET http://127.0.0.1/healthz HTTP/1.1\r\n" + host_line + "\r\n" + smuggled,
      "GET /healthz HTTP/2.0\r\n" + host_line + "\r\n" + smuggled,
      "GET  /healthz HTTP/1.1\r\n" + host_line + "\r\n" + smuggled,
      "GET /healthz\r\n\r\n" + smuggled,
      "GET /healthz HTTP/1.1\r\n" + host_line + "Content-Length: 40\r\n\r\n" + smuggled,
      "GET /healthz HTTP/1.1\r\n" + host_line + "Cookie: a=b\r\nCookie: c=d\r\n\r\n" + smuggled,
      "GET /healthz HTTP/1.1\r\n" + host_line + "Authorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n" + smuggled,
      std::string("\x16\x03\x01\x02", 4) + "garbage\r\n\r\n" + smuggled,
  };
  for (const std::string& request : requests) {
    Client client = connect();
    client.send(request);
    const std::string all = client.receive_all();
    EXPECT_EQ(count(all, "HTTP/1.1 "), 1u) << request << "\n→ " << all;
    EXPECT_EQ(all.find("HTTP/1.1 4"), 0u) << request << "\n→ " << all;
    EXPECT_NE(all.find("Connection: close"), std::string::npos) << request;
    EXPECT_EQ(all.find("alive"), std::string::npos) << request;
  }
}

TEST_F(HttpSecurity, NothingOfARequestGetsIntoTheHeadOfItsAnswer) {
  start();
  const std::string mark = "Injected-7f3a";
  const std::vector<std::string> requests = {
      make("GET", "/api/v1/jobs/x%0d%0a" + mark + ":%201", bearer(viewer())),
      make("GET", "/api/v1/sites/" + mark + "/statement", bearer(viewer())),
      make("GET", "/" + mark),
      make(mark, "/healthz"),
      make("GET", "/healthz",
           "Origin: https://" + mark + "\r\nReferer: " + mark + "\r\nX-Request-Id: " + mark + "\r\n"),
      "GET /healthz HTTP/1.1\r\nHost: " + mark + "\r\n\r\n",
      make("POST", "/api/v1/session", "Cookie: __Host-tributary=" + mark + "\r\n", "{\"token\":\"" + mark + "\"}"),
  };
  for (const std::string& request : requests) {
    const Reply reply = exchange(request);
    EXPECT_NE(reply.status, 0) << request;
    EXPECT_EQ(reply.head.find(mark), std::string::npos) << reply.head;
    EXPECT_TRUE(reply.headers.count("access-control-allow-origin") == 0);
  }
}

TEST_F(HttpSecurity, EveryAnswerHasTheSecurityHeaders) {
  config.http.header_bytes = 2048;
  config.http.request_bytes = 4096;
  start();
  expect_security_headers(get("/healthz"), "200");
  expect_security_headers(view("/api/v1/federation"), "document");
  expect_security_headers(get("/api/v1/federation"), "401");
  expect_security_headers(post("/api/v1/jobs", "{}", bearer(viewer())), "403");
  expect_security_headers(get("/nothing"), "404");
  expect_security_headers(exchange(make("PUT", "/healthz")), "405");
  expect_security_headers(exchange("garbage\r\n\r\n"), "400");
  expect_security_headers(get("/healthz", "X: " + std::string(4000, 'a') + "\r\n"), "431");
  expect_security_headers(post("/api/v1/jobs", std::string(5000, 'x'), bearer(operating())), "413");
  expect_security_headers(exchange(make("HEAD", "/healthz"), false), "HEAD");
  const auto browser = sign_in(viewer());
  expect_security_headers(exchange(make("DELETE", "/api/v1/session", browser.changing())), "204");
  Client stream = connect();
  stream.send(make("GET", "/api/v1/events", bearer(viewer())));
  expect_security_headers(stream.receive_reply(), "events");
}

TEST_F(HttpSecurity, WithoutTlsTheHeadersSaySo) {
  config.http.tls = false;
  start();
  expect_security_headers(get("/healthz"), "plain");
  EXPECT_EQ(get("/healthz", "X-Forwarded-Proto: https\r\n").header("strict-transport-security"), "max-age=31536000")
      << "behind a proxy that speaks TLS";
}

TEST_F(HttpSecurity, TooManyRequestsAreToldToWait) {
  config.http.requests_per_minute = 10;
  start();
  Client client = connect();
  int refused = 0;
  for (int i = 0; i < 20; ++i) {
    client.send(make("GET", "/healthz"));
    const Reply reply = client.receive_reply();
    if (reply.status != 429) continue;
    ++refused;
    EXPECT_EQ(reply.header("retry-after"), "2");
    EXPECT_NE(reply.error_message().find("http.requests_per_minute = 10"), std::string::npos);
    expect_security_headers(reply, "429");
  }
  EXPECT_GE(refused, 9);
}

TEST_F(HttpSecurity, OneAddressCannotTakeAllConnections) {
  config.http.connections_per_address = 3;
  start();
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 3; ++i) clients.push_back(std::make_unique<Client>(context, *daemon->http_port(), ca().to_pem()));
  Client fourth = connect();
  EXPECT_FALSE(fourth.is_open());
  clients.pop_back();
  for (int i = 0; i < 100; ++i) {
    Client next = connect();
    if (next.is_open()) return;
    std::this_thread::sleep_for(Milliseconds(20));
  }
  FAIL() << "the place of a connection that has ended stays taken";
}

TEST_F(HttpSecurity, TlsIsOfTheFederationsCaAndNothingOlderThan13) {
  start();
  Client client = connect();
  EXPECT_EQ(client.server_certificate().organizational_unit(), "aggregator");
  EXPECT_TRUE(client.server_certificate().issued_by(ca()));
  Client old(context, *daemon->http_port(), ca().to_pem(), TLS1_2_VERSION);
  EXPECT_FALSE(old.is_open());
  Client plain(context, *daemon->http_port(), "");
  plain.send(make("GET", "/healthz"));
  EXPECT_EQ(plain.receive_all().find("HTTP/1.1"), std::string::npos);
}

TEST_F(HttpSecurity, ACertificateThatChangesOnDiskIsInUseSoon) {
  const auto issuer = net::CertificateIssuer::create("Another CA", system_clock());
  config.http.certificate = directory / "web.pem";
  config.http.key = directory / "web.key";
  const auto write = [&] {
    const auto made = net::make_credentials(issuer, "web", "aggregator", {"127.0.0.1"});
    write_file_durably(config.http.certificate, made.certificate.to_pem()).value();
    write_file_durably(config.http.key, made.key.to_pem(), 0600).value();
    return made.certificate.serial();
  };
  const std::string first = write();
  start();
  const std::string other_ca = issuer.ca_certificate().to_pem();
  const auto serial = [&] { return Client(context, *daemon->http_port(), other_ca).server_certificate().serial(); };
  EXPECT_EQ(serial(), first);
  const std::string second = write();
  for (int i = 0; i < 200 && serial() != second; ++i) std::this_thread::sleep_for(Milliseconds(50));
  EXPECT_EQ(serial(), second);
  write_file_durably(config.http.key, "not a key").value();  // half-written: the one before goes on
  std::this_thread::sleep_for(Milliseconds(1100));
  EXPECT_EQ(serial(), second);
}

TEST_F(HttpSecurity, ACertificateThatCannotBeReadStopsTheStart) {
  config.http.certificate = directory / "none.pem";
  config.http.key = directory / "none.key";
  const auto daemon = Daemon::start(layout, config);
  ASSERT_FALSE(daemon.ok());
  EXPECT_EQ(daemon.error().code, Errc::invalid_argument);
  EXPECT_NE(daemon.error().message.find("http.certificate = "), std::string::npos) << daemon.error().message;
}

TEST_F(HttpSecurity, NothingSecretIsInTheLogs) {
  std::ostringstream log;
  const auto before = spdlog::default_logger();
  auto logger = std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_mt>(log));
  logger->set_level(spdlog::level::trace);
  spdlog::set_default_logger(logger);
  start();
  std::vector<std::string> secrets = {viewer().substr(10), operating().substr(8)};
  const auto browser = sign_in(operating());
  secrets.push_back(browser.cookie.substr(browser.cookie.find('=') + 1));
  secrets.push_back(browser.csrf);
  const Reply invited = post("/api/v1/invites", R"({"site":"clinic-9"})", browser.changing());
  EXPECT_EQ(invited.status, 200) << invited.body;
  secrets.emplace_back(invited.document().at("token").as_string());
  view("/api/v1/federation?token=" + viewer());
  const std::string wrong = "trib-op." + std::string(43, 'w');
  secrets.push_back(wrong);
  get("/api/v1/federation", bearer(wrong));
  post("/api/v1/session", "{\"token\":\"" + wrong + "\"}", "");
  post("/api/v1/session", "{\"tokens\":\"" + wrong + "\"}", "");
  post("/api/v1/jobs", "{}", browser.headers());
  exchange("GET /api/v1/federation HTTP/1.1\r\nHost: a\r\nHost: b\r\n" + bearer(wrong) + "\r\n");
  revoke_token("officer");
  stop();
  spdlog::set_default_logger(before);
  const std::string text = log.str();
  EXPECT_NE(text.find("invited 'clinic-9'"), std::string::npos) << text;
  EXPECT_NE(text.find("a sign-in from 127.0.0.1 is refused"), std::string::npos) << text;
  for (const std::string& secret : secrets) EXPECT_EQ(text.find(secret), std::string::npos) << secret << "\n" << text;
}

}  // namespace
}  // namespace trib::server::http
