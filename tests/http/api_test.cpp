// What the API answers when all is well, and how it says that it is not.
#include <atomic>
#include <mutex>

#include "tests/http/http_support.h"

namespace trib::server::http {
namespace {

using testing::Client;
using testing::HttpTest;
using testing::Reply;

class HttpApi : public HttpTest {};

TEST_F(HttpApi, ShowsTheFederationSitesAndJobs) {
  start();
  const auto site = connect_site(enrol("clinic-7"));
  const std::string id = submit();
  const auto federation = view("/api/v1/federation").document();
  EXPECT_EQ(federation.at("federation").as_string(), "test");
  EXPECT_TRUE(federation.at("time").is_string());
  EXPECT_EQ(view("/api/v1/sites").document().at("sites").at(0).at("name").as_string(), "clinic-7");
  EXPECT_EQ(view("/api/v1/jobs").document().at("jobs").at(0).at("id").as_string(), id);
  EXPECT_EQ(view("/api/v1/jobs/" + id).document().at("id").as_string(), id);
  EXPECT_EQ(view("/api/v1/privacy").document().at("sites").at(0).at("site").as_string(), "clinic-7");
  const Reply file = view("/api/v1/jobs/" + id + "/file");
  EXPECT_EQ(file.header("content-type"), "text/plain; charset=utf-8");
  EXPECT_EQ(file.body, "any");
  const Reply missing = view("/api/v1/jobs/none");
  EXPECT_EQ(missing.status, 404);
  EXPECT_NE(missing.error_message().find(id), std::string::npos) << "names the jobs there are";
}

TEST_F(HttpApi, InvitesASiteWhichThenJoinsAndIsRevoked) {
  start();
  const Reply invited = post("/api/v1/invites", R"({"site":"clinic-7","valid_minutes":5})", bearer(operating()));
  ASSERT_EQ(invited.status, 200) << invited.body;
  const auto answer = invited.document();
  const std::string token(answer.at("token").as_string());
  EXPECT_EQ(answer.at("command").as_string(), "trib-client join " + token + " --data FILE --records N");
  net::ClientCredentials credentials;
  credentials.key = net::PrivateKey::generate();
  credentials.certificate = net::run(context, net::enrol(context.get_executor(), net::parse_token(token).value(),
                                                         credentials.key, server::testing::patience))
                                .value()
                                .certificate;
  const auto channel = connect_site(credentials);
  EXPECT_TRUE(view("/api/v1/sites").document().at("sites").at(0).at("connected").as_bool());
  const Reply revoked = post("/api/v1/sites/clinic-7/revoke", R"({"reason":"contract ended"})", bearer(operating()));
  EXPECT_EQ(revoked.status, 200) << revoked.body;
  EXPECT_TRUE(revoked.document().at("session_ended").as_bool());
  EXPECT_TRUE(view("/api/v1/sites").document().at("sites").at(0).at("revoked").is_string()) << "seen at once";
  EXPECT_EQ(post("/api/v1/sites/clinic-7/revoke", "{}", bearer(operating())).status, 409);
  EXPECT_EQ(post("/api/v1/sites/clinic-8/revoke", "{}", bearer(operating())).status, 404);
}

TEST_F(HttpApi, SubmitsAndCancelsAJob) {
  start();
  const Reply submitted = post("/api/v1/jobs", R"({"file":"name = 1","name":"a.toml"})", bearer(operating()));
  ASSERT_EQ(submitted.status, 200) << submitted.body;
  const std::string id(submitted.document().at("id").as_string());
  EXPECT_EQ(view("/api/v1/jobs").document().at("jobs").as_array().size(), 1u) << "seen at once";
  EXPECT_EQ(post("/api/v1/jobs/" + id + "/cancel", R"({"reason":"a mistake"})", bearer(operating())).status, 200);
  EXPECT_EQ(view("/api/v1/jobs/" + id).document().at("reason").as_string(), "a mistake");
  EXPECT_EQ(post("/api/v1/jobs/" + id + "/cancel", "{}", bearer(operating())).status, 409);
}

TEST_F(HttpApi, SaysWhatIsWrongWithARequest) {
  start();
  const auto message = [&](const std::string& path, const std::string& body) {
    const Reply reply = post(path, body, bearer(operating()));
    EXPECT_EQ(reply.status, 400) << reply.body;
    return reply.error_message();
  };
  EXPECT_EQ(message("/api/v1/invites", "{}"), "'site' in the body is missing");
  EXPECT_NE(message("/api/v1/invites", R"({"site":"a b"})").find("cannot name a site"), std::string::npos);
  EXPECT_NE(message("/api/v1/invites", R"({"site":"a","valid_minutes":43201})").find("the longest is 43200"),
            std::string::npos);
  EXPECT_NE(message("/api/v1/invites", R"({"site":"a","valid_minutes":18446744073709551615})").find("43200"),
            std::string::npos);
  EXPECT_NE(message("/api/v1/jobs", "not json").find("not JSON"), std::string::npos);
  const Reply wrong_method = exchange(make("PUT", "/api/v1/jobs", bearer(operating())));
  EXPECT_EQ(wrong_method.status, 405);
  EXPECT_EQ(wrong_method.header("allow"), "GET, HEAD, POST");
  EXPECT_EQ(exchange("GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}").status, 400);
}

TEST_F(HttpApi, KeepsTheConnectionForMoreRequestsAlsoSentAtOnce) {
  start();
  Client client = connect();
  for (int i = 0; i < 3; ++i) {
    client.send(make("GET", "/healthz"));
    const Reply reply = client.receive_reply();
    EXPECT_EQ(reply.status, 200);
    EXPECT_EQ(reply.header("connection"), "keep-alive");
  }
  client.send(make("GET", "/healthz") + make("GET", "/nothing") + make("GET", "/healthz", "Connection: close\r\n"));
  EXPECT_EQ(client.receive_reply().status, 200);
  EXPECT_EQ(client.receive_reply().status, 404);
  EXPECT_EQ(client.receive_reply().header("connection"), "close");
  EXPECT_EQ(client.receive_all(), "");
  EXPECT_FALSE(client.timed_out);
}

TEST_F(HttpApi, HeadIsGetWithoutABody) {
  start();
  Client client = connect();
  client.send(make("HEAD", "/healthz") + make("GET", "/healthz"));
  const Reply head = client.receive_reply(false);
  const Reply get = client.receive_reply();
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.header("content-length"), get.header("content-length"));
  EXPECT_EQ(get.body, R"({"status":"alive"})");
  EXPECT_EQ(exchange(make("HEAD", "/api/v1/events", bearer(viewer())), false).status, 200);
}

TEST_F(HttpApi, AnswersOldClientsAndThenCloses) {
  start();
  Client client = connect();
  client.send("GET /healthz HTTP/1.0\r\n\r\n");
  EXPECT_EQ(client.receive_reply().status, 200);
  EXPECT_EQ(client.receive_all(), "");
}

TEST_F(HttpApi, TellsAClientThatAsksToSendItsBody) {
  start();
  const std::string body = R"({"token":"x"})";
  Client client = connect();
  client.send(make("POST", "/api/v1/session",
                   "Content-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: " +
                       std::to_string(body.size()) + "\r\n"));
  ASSERT_TRUE(client.receive_until("\r\n\r\n"));
  EXPECT_EQ(client.received(), "HTTP/1.1 100 Continue\r\n\r\n");
  client.received().clear();
  client.send(body);
  EXPECT_EQ(client.receive_reply().status, 401);
}

TEST_F(HttpApi, ServesTheDashboardsFilesOnceToEveryBrowser) {
  static const std::string script(100'000, 'x');
  adjust_sources = [](Sources& sources) {
    sources.files = {{"/", "text/html; charset=utf-8", "\"v1\"", "<!doctype html>", false},
                     {"/assets/index-5f3a.js", "text/javascript", "\"v2\"", script, true}};
  };
  start();
  const Reply page = get("/");
  EXPECT_EQ(page.body, "<!doctype html>");
  EXPECT_EQ(page.header("content-type"), "text/html; charset=utf-8");
  EXPECT_EQ(page.header("cache-control"), "no-cache");
  EXPECT_EQ(page.header("etag"), "\"v1\"");
  const Reply same = exchange(make("GET", "/", "If-None-Match: \"v1\"\r\n"), false);
  EXPECT_EQ(same.status, 304);
  EXPECT_EQ(same.headers.count("content-length"), 0u);
  const Reply asset = get("/assets/index-5f3a.js");
  EXPECT_EQ(asset.body, script);
  EXPECT_EQ(asset.header("cache-control"), "public, max-age=31536000, immutable");
  EXPECT_EQ(get("/assets/other.js").status, 404);
}

TEST_F(HttpApi, MetricsNeedAViewerUnlessTheyAreOpen) {
  adjust_sources = [](Sources& sources) { sources.metrics = [] { return std::string("tributary_rounds 3\n"); }; };
  start();
  EXPECT_EQ(get("/metrics").status, 401);
  EXPECT_EQ(view("/metrics").body, "tributary_rounds 3\n");
  EXPECT_EQ(view("/metrics").header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
  stop();
  config.http.open_metrics = true;
  start();
  EXPECT_EQ(get("/metrics").status, 200);
}

TEST_F(HttpApi, CountsItsRequestsByRoute) {
  std::vector<std::string> counted;
  std::mutex mutex;
  adjust_sources = [&](Sources& sources) {
    sources.count_request = [&](std::string_view route, int status, double) {
      std::lock_guard lock(mutex);
      counted.push_back(std::string(route) + " " + std::to_string(status));
    };
  };
  start();
  view("/api/v1/jobs/a-secret-name");
  get("/api/v1/jobs");
  get("/somewhere");
  view("/api/v1/federation");  // whatever is counted before is counted by now
  std::lock_guard lock(mutex);
  counted.resize(3);
  EXPECT_EQ(counted, (std::vector<std::string>{"/api/v1/jobs/{id} 404", "/api/v1/jobs 401", "none 404"}));
}

TEST_F(HttpApi, GivesOutASitesStatementAndItsPage) {
  adjust_sources = [](Sources& sources) {
    const auto of = [](const std::string& text) {
      return [text](const std::string& site) -> Result<std::optional<std::string>> {
        return site == "clinic-7" ? std::optional(text) : std::nullopt;
      };
    };
    sources.statement = of(R"({"signed":true})");
    sources.statement_page = of("<style>b{}</style>");
  };
  start();
  const Reply statement = view("/api/v1/sites/clinic-7/statement");
  EXPECT_EQ(statement.body, R"({"signed":true})");
  EXPECT_EQ(statement.header("content-disposition"), "attachment; filename=\"statement-clinic-7.json\"");
  const Reply page = view("/api/v1/sites/clinic-7/statement.html");
  EXPECT_EQ(page.header("content-type"), "text/html; charset=utf-8");
  EXPECT_EQ(page.header("content-security-policy").find("default-src 'none'; style-src 'unsafe-inline'"), 0u);
  const Reply none = view("/api/v1/sites/clinic-8/statement");
  EXPECT_EQ(none.status, 404);
  EXPECT_NE(none.error_message().find("share_statement"), std::string::npos);
}

TEST_F(HttpApi, ReadinessIsThatTheStoreCanBeWritten) {
  adjust_sources = [](Sources& sources) {
    sources.check_storage = [] { return Status(Error{Errc::no_space, "the disk is full"}); };
  };
  start();
  EXPECT_EQ(get("/healthz").status, 200);
  const Reply reply = get("/readyz");
  EXPECT_EQ(reply.status, 503);
  EXPECT_NE(reply.error_message().find("the disk is full"), std::string::npos);
}

TEST_F(HttpApi, ALongReportHoldsUpNobodyAndIsMadeOnceForAllWhoAsk) {
  std::atomic<int> made = 0;
  std::atomic<bool> may_end = false;
  adjust_sources = [&](Sources& sources) {
    sources.reports.privacy = [&]() -> Result<std::string> {
      ++made;
      while (!may_end) std::this_thread::sleep_for(Milliseconds(5));
      return std::string(R"({"federation":"test","sites":[]})");
    };
  };
  start();
  const std::string token = viewer();
  std::vector<std::unique_ptr<Client>> asking;
  for (int i = 0; i < 5; ++i) {
    asking.push_back(std::make_unique<Client>(context, *daemon->http_port(), ca().to_pem()));
    asking.back()->send(make("GET", "/api/v1/privacy", bearer(token)));
  }
  EXPECT_EQ(view("/api/v1/federation").status, 200) << "while the report is being made";
  may_end = true;
  for (auto& client : asking) EXPECT_EQ(client->receive_reply().status, 200);
  EXPECT_EQ(made, 1);
}

TEST_F(HttpApi, AReportThatFailsIsAnErrorAndTriedAgain) {
  std::atomic<int> made = 0;
  adjust_sources = [&](Sources& sources) {
    sources.reports.privacy = [&]() -> Result<std::string> {
      if (++made == 1) return Error{Errc::io_error, "a bad sector"};
      return std::string("{}");
    };
    sources.reports.privacy_history = [](const std::string& site, const std::string& set) -> Result<std::string> {
      if (site != "clinic-7") return Error{Errc::not_found, "there is no site '" + site + "'"};
      return "{\"data_set\":\"" + set + "\"}";
    };
  };
  start();
  EXPECT_EQ(view("/api/v1/privacy").status, 500);
  EXPECT_EQ(view("/api/v1/privacy").status, 200);
  EXPECT_EQ(view("/api/v1/privacy/clinic-7/a%20set").body, R"({"data_set":"a set"})");
  EXPECT_EQ(view("/api/v1/privacy/clinic-8/default").status, 404);
}

// A page asks for a history because its figures have just changed.
TEST_F(HttpApi, AHistoryIsNeverOlderThanHalfASecond) {
  std::atomic<int> made = 0;
  adjust_sources = [&](Sources& sources) {
    sources.reports.privacy_history = [&](const std::string&, const std::string&) -> Result<std::string> {
      return std::to_string(++made);
    };
  };
  start();
  EXPECT_EQ(view("/api/v1/privacy/clinic-7/default").body, "1");
  std::this_thread::sleep_for(Milliseconds(500));
  EXPECT_EQ(view("/api/v1/privacy/clinic-7/default").body, "2");
}

TEST_F(HttpApi, WithoutHttpListenThereIsNone) {
  config.http.listen.reset();
  start();
  EXPECT_FALSE(daemon->http_port().has_value());
  EXPECT_EQ(daemon->http_url(), "");
}

TEST_F(HttpApi, APortThatIsTakenIsNamed) {
  start();
  const auto port = *daemon->http_port();
  InitOptions options;
  options.directory = directory.path() / "other";
  options.federation = "other";
  options.listen = "127.0.0.1:0";
  options.host_names = {"127.0.0.1"};
  init_federation(options).value();
  ServerDirectory other{options.directory};
  ServerConfig other_config = read_server_config(other.config()).value();
  other_config.http.listen = net::HostPort{"127.0.0.1", port};
  const auto second = Daemon::start(other, other_config);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, Errc::unavailable);
  EXPECT_NE(second.error().message.find("http.listen = 127.0.0.1:" + std::to_string(port)), std::string::npos);
}

}  // namespace
}  // namespace trib::server::http
