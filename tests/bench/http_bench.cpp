// How long the HTTP API takes to answer while a job trains: real daemon, TLS, sites that are connected and contribute.
//   http_bench [SITES=100] [ROUNDS=200] [SECONDS=30] [STAY=0]
// Trains until ROUNDS rounds are committed, then asks for every document in turn, on connections that stay open, while
// the next rounds go on and one page listens to the events. Prints the distribution of each. Then it stays STAY seconds
// for tests/browser/measure.mjs, whose URL and token it prints.
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <cstdio>
#include <cstdlib>

#include "tests/http/http_support.h"

namespace trib::server::http {
namespace {

namespace asio = boost::asio;
using server::testing::ClientMessage;
using server::testing::ServerMessage;
using Clock = std::chrono::steady_clock;

class Bench : public testing::HttpTest {
 public:
  Bench(int sites, int rounds, int seconds, int stay)
      : site_count_(sites), rounds_(rounds), seconds_(seconds), stay_(stay) {
    config.http.requests_per_minute = 1'000'000;
    config.connections_per_minute = 1'000'000;
    config.enrolments_per_minute = 1'000'000;
  }
  void TestBody() override {}

  void run() {
    start(100'000, site_count_);
    std::vector<net::ClientCredentials> credentials;
    for (int i = 0; i < site_count_; ++i) credentials.push_back(enrol("site-" + std::to_string(i)));
    asio::io_context sites_context;
    const net::Certificate authority = ca();
    for (int i = 0; i < site_count_; ++i)
      asio::co_spawn(sites_context, site(i, sites_context, authority, credentials[static_cast<std::size_t>(i)]),
                     asio::detached);
    std::thread sites_thread([&] { sites_context.run(); });
    const std::string id = submit();
    const auto begun = Clock::now();
    const auto done = [&] { return view("/api/v1/jobs/" + id).document().at("rounds_done").to_number<int>(); };
    while (done() < rounds_) std::this_thread::sleep_for(Milliseconds(500));
    std::printf("%d sites, %d rounds in %.1f s\n", site_count_, rounds_,
                std::chrono::duration<double>(Clock::now() - begun).count());
    measure(id);
    std::printf("rounds committed at the end: %d\n", done());
    if (stay_ > 0) {
      std::printf("TRIBUTARY_URL=%s TRIBUTARY_TOKEN=%s\n", daemon->http_url().c_str(), viewer().c_str());
      std::fflush(stdout);
      std::this_thread::sleep_for(std::chrono::seconds(stay_));
      std::printf("rounds committed at last: %d\n", done());
    }
    sites_context.stop();
    sites_thread.join();
    stop();
  }

 private:
  asio::awaitable<void> site(int number, asio::io_context& sites_context, const net::Certificate& authority,
                             const net::ClientCredentials& credentials) {
    auto dialled = co_await net::connect_tls(sites_context.get_executor(), address(), authority, &credentials,
                                             net::client_protocol, net::Limits(), server::testing::patience);
    const auto channel = std::move(dialled).value();
    const ClientMessage first = hello();
    (co_await channel->send(first)).value();
    const TensorMap tensors = server::testing::unit_contribution(number, site_count_);
    std::uint32_t transfer = 1;
    while (true) {
      const auto frame = co_await channel->receive();
      if (!frame) co_return;
      if (frame->kind == net::FrameKind::chunk) continue;
      const ServerMessage message = net::parse_message<ServerMessage>(*frame).value();
      ClientMessage answer;
      if (message.has_job_offer()) {
        answer.mutable_job_reply()->set_job_id(message.job_offer().job_id());
        answer.mutable_job_reply()->set_accepted(true);
        answer.mutable_job_reply()->set_declared_records(100);
      } else if (message.has_round_start()) {
        auto& contribution = *answer.mutable_contribution_start();
        contribution.set_job_id(message.round_start().job_id());
        contribution.set_round(message.round_start().round());
        contribution.set_weight(1.0);
        contribution.set_is_private(true);
        *contribution.mutable_transfer() = net::announce(++transfer, tensors, tensors.schema());
      } else {
        continue;
      }
      (co_await channel->send(answer)).value();
      if (answer.has_contribution_start())
        (co_await channel->send_chunk(transfer, 0, tensors.at("counts").bytes())).value();
    }
  }

  void measure(const std::string& id) {
    const std::string token = viewer();
    testing::Client page = connect();
    page.send(make("GET", "/api/v1/events", bearer(token)));
    const std::vector<std::string> paths = {"/federation", "/sites", "/jobs", "/jobs/" + id, "/privacy", "/session"};
    std::vector<std::vector<double>> times(paths.size());
    std::vector<double> all;
    testing::Client client = connect();
    const auto end = Clock::now() + std::chrono::seconds(seconds_);
    std::size_t bytes = 0;
    while (Clock::now() < end) {
      for (std::size_t i = 0; i < paths.size(); ++i) {
        const auto begin = Clock::now();
        client.send(make("GET", "/api/v1" + paths[i], bearer(token)));
        const auto reply = client.receive_reply();
        const double ms = std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
        if (reply.status != 200) std::printf("%s: %d %s\n", paths[i].c_str(), reply.status, reply.body.c_str());
        bytes += reply.body.size();
        times[i].push_back(ms);
        all.push_back(ms);
        std::this_thread::sleep_for(Milliseconds(10));
      }
      page.receive_some(Milliseconds(20));
    }
    std::printf("%-28s %8s %8s %8s %8s %8s\n", "route", "requests", "p50 ms", "p90 ms", "p99 ms", "max ms");
    for (std::size_t i = 0; i < paths.size(); ++i) print(paths[i] == "/jobs/" + id ? "/jobs/{id}" : paths[i], times[i]);
    print("all", all);
    std::printf("%.1f MB read\n", static_cast<double>(bytes) / 1e6);
  }

  static void print(const std::string& name, std::vector<double> times) {
    std::ranges::sort(times);
    const auto at = [&](double part) {
      return times[std::min(times.size() - 1, static_cast<std::size_t>(part * static_cast<double>(times.size())))];
    };
    std::printf("%-28s %8zu %8.2f %8.2f %8.2f %8.2f\n", name.c_str(), times.size(), at(0.5), at(0.9), at(0.99),
                times.back());
  }

  int site_count_, rounds_, seconds_, stay_;
};

}  // namespace
}  // namespace trib::server::http

int main(int argc, char** argv) {
  const auto argument = [&](int position, int fallback) {
    return argc > position ? std::atoi(argv[position]) : fallback;
  };
  trib::server::http::Bench bench(argument(1, 100), argument(2, 200), argument(3, 30), argument(4, 0));
  bench.run();
  return 0;
}
