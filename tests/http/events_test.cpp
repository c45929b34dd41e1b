// Live events: what a page that listens hears, and when it is left alone.
#include "tests/http/http_support.h"

namespace trib::server::http {
namespace {

using server::testing::unit_contribution;
using testing::Client;
using testing::HttpTest;

struct Event {
  std::uint64_t id = 0;
  std::string kind;
  boost::json::value data;
};

class HttpEvents : public HttpTest {
 protected:
  std::unique_ptr<Client> listen(const std::string& headers) {
    auto client = std::make_unique<Client>(context, *daemon->http_port(), ca().to_pem());
    client->send(make("GET", "/api/v1/events", headers));
    const auto reply = client->receive_reply();
    EXPECT_EQ(reply.status, 200);
    EXPECT_EQ(reply.header("content-type"), "text/event-stream; charset=utf-8");
    return client;
  }
  std::unique_ptr<Client> listen() { return listen(bearer(viewer())); }

  // The next event; kind is empty at the end of the stream.
  static Event next(Client& client) {
    Event event;
    while (event.kind.empty()) {
      if (!client.receive_until("\n\n")) return event;
      std::string& received = client.received();
      const std::string block = received.substr(0, received.find("\n\n"));
      received.erase(0, received.find("\n\n") + 2);
      const auto field = [&](const std::string& name) {
        const std::size_t at = block.find("\n" + name + ": ");
        const std::size_t from = at == block.npos ? block.npos : at + name.size() + 3;
        return from == block.npos ? std::string() : block.substr(from, block.find('\n', from) - from);
      };
      event.kind = field("event");
      if (event.kind.empty()) continue;
      event.id = std::stoull(field("id"));
      event.data = boost::json::parse(field("data"));
    }
    return event;
  }
  template <typename Matches>
  Event await(Client& client, const std::string& kind, const Matches& matches) {
    while (true) {
      Event event = next(client);
      if (event.kind.empty() || (event.kind == kind && matches(event.data))) return event;
    }
  }
};

TEST_F(HttpEvents, AStreamBeginsWithEverythingAsItIs) {
  start();
  enrol("clinic-7");
  submit();
  const auto client = listen();
  std::set<std::string> kinds;
  std::uint64_t last = 0;
  while (kinds.size() < 5) {
    const Event event = next(*client);
    ASSERT_FALSE(event.kind.empty());
    EXPECT_GT(event.id, last);
    last = event.id;
    kinds.insert(event.kind);
  }
  EXPECT_EQ(kinds, (std::set<std::string>{"federation", "job", "jobs", "privacy", "sites"}));
}

TEST_F(HttpEvents, AJobIsFollowedToItsEnd) {
  start();
  std::vector<std::unique_ptr<net::Channel>> sites;
  for (const char* name : {"site-0", "site-1"}) sites.push_back(connect_site(enrol(name)));
  const auto client = listen();
  const std::string id = submit();
  for (auto& site : sites) accept_job(*site);
  EXPECT_EQ(HttpTest::await(*sites[0], server::testing::ServerMessage::kRoundStart).body_case(),
            server::testing::ServerMessage::kRoundStart);
  const Event open =
      await(*client, "job", [&](const auto& job) { return job.at("round").template to_number<int>() == 1; });
  ASSERT_EQ(open.kind, "job");
  EXPECT_EQ(open.data.at("id").as_string(), id);
  EXPECT_EQ(open.data.at("clients").as_array().size(), 2u);
  EXPECT_EQ(post("/api/v1/jobs/" + id + "/cancel", R"({"reason":"enough"})", bearer(operating())).status, 200);
  // Both are told in one look; the list comes first.
  const auto is_cancelled = [](const auto& jobs) {
    return jobs.at("jobs").at(0).at("state").as_string() == "cancelled";
  };
  EXPECT_EQ(await(*client, "jobs", is_cancelled).kind, "jobs");
  const Event end = await(*client, "job", [](const auto& job) { return job.at("state").as_string() == "cancelled"; });
  ASSERT_EQ(end.kind, "job");
  EXPECT_EQ(end.data.at("reason").as_string(), "enough");
}

TEST_F(HttpEvents, ASiteThatComesAndGoesIsNews) {
  start();
  const auto site = enrol("clinic-7");
  const auto client = listen();
  const auto is_connected = [](bool connected) {
    return [connected](const auto& sites) {
      return sites.at("sites").as_array().size() == 1 && sites.at("sites").at(0).at("connected").as_bool() == connected;
    };
  };
  auto channel = connect_site(site);
  EXPECT_EQ(await(*client, "sites", is_connected(true)).kind, "sites");
  channel->close();
  EXPECT_EQ(await(*client, "sites", is_connected(false)).kind, "sites");
}

TEST_F(HttpEvents, WhatDoesNotChangeIsNotSaidAgain) {
  start();
  const auto client = listen();
  for (int i = 0; i < 4; ++i) next(*client);  // federation, jobs, privacy, sites
  const std::string more = client->received() + client->receive_some(Milliseconds(1'600));
  EXPECT_EQ(more.find("event:"), std::string::npos) << more;
}

TEST_F(HttpEvents, RevokingTheTokenEndsTheStream) {
  start();
  const auto client = listen();
  EXPECT_EQ(revoke_token("officer").error(), "");
  while (!next(*client).kind.empty()) {
  }
  EXPECT_FALSE(client->timed_out);
}

TEST_F(HttpEvents, SigningOutEndsTheStream) {
  start();
  const auto browser = sign_in(viewer());
  const auto client = listen(browser.headers());
  EXPECT_EQ(exchange(make("DELETE", "/api/v1/session", browser.changing())).status, 204);
  while (!next(*client).kind.empty()) {
  }
  EXPECT_FALSE(client->timed_out);
}

TEST_F(HttpEvents, DrainingEndsStreamsAndSaysSoToWhoAsks) {
  config.staging_memory_bytes = 0;
  config.drain_timeout = Milliseconds(3'000);
  start();
  std::vector<std::unique_ptr<net::Channel>> sites;
  for (const char* name : {"site-0", "site-1"}) sites.push_back(connect_site(enrol(name)));
  const std::string id = submit();
  for (auto& site : sites) accept_job(*site);
  HttpTest::await(*sites[0], server::testing::ServerMessage::kRoundStart);
  // An upload that does not end keeps the aggregator draining.
  send(*sites[0], contribution_start(id, 1, unit_contribution(0, 2)));
  net::run(context, sites[0]->send_chunk(1, 0, unit_contribution(0, 2).at("counts").bytes().first(4))).value();
  const auto client = listen();
  const std::string operators_token = operating();
  for (int i = 0; i < 100 && view("/api/v1/federation").document().at("uploads").to_number<int>() == 0; ++i)
    std::this_thread::sleep_for(Milliseconds(50));
  EXPECT_EQ(get("/readyz").status, 200);
  daemon->stop();
  while (!next(*client).kind.empty()) {
  }
  EXPECT_FALSE(client->timed_out);
  EXPECT_EQ(get("/readyz").status, 503);
  EXPECT_EQ(get("/healthz").status, 200);
  EXPECT_EQ(view("/api/v1/events").status, 503);
  EXPECT_EQ(post("/api/v1/jobs", R"({"file":"any"})", bearer(operators_token)).status, 503);
  stop();
}

TEST_F(HttpEvents, AListenerWhoDoesNotReadHoldsUpNobody) {
  start();
  const auto slow = listen();  // reads nothing from here on
  const auto other = listen();
  const std::string id = submit();
  for (int i = 0; i < 20; ++i) EXPECT_EQ(view("/api/v1/jobs/" + id).status, 200);
  EXPECT_EQ(await(*other, "job", [&](const auto& job) { return job.at("id").as_string() == id; }).kind, "job");
  EXPECT_EQ(await(*slow, "job", [&](const auto& job) { return job.at("id").as_string() == id; }).kind, "job");
}

TEST_F(HttpEvents, TooManyListenersAreToldSo) {
  config.http.connections = 4;
  start();
  const auto first = listen();
  const auto second = listen();
  const auto third = view("/api/v1/events");
  EXPECT_EQ(third.status, 503);
  EXPECT_NE(third.error_message().find("half of http.connections"), std::string::npos);
}

}  // namespace
}  // namespace trib::server::http
