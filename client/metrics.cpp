#include "client/metrics.h"

#include <spdlog/fmt/fmt.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <map>
#include <string_view>

#include "common/net/listen.h"
#include "common/prometheus.h"

namespace trib::client {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;
using boost::system::error_code;

constexpr std::size_t most_connections = 16;
constexpr std::uint32_t most_header_bytes = 8u << 10;
constexpr auto patience = std::chrono::seconds(10);  // for a request, and for its answer to be taken
constexpr auto accept_retry = std::chrono::milliseconds(200);

constexpr std::string_view connection_states[] = {"connecting", "connected", "waiting", "draining", "stopped"};
constexpr std::string_view job_states[] = {"preparing", "waiting", "training", "sending", "declined", "refused"};

}  // namespace

std::string client_metrics_text(const SiteStatus& status, const std::vector<DataSetMetrics>& data_sets,
                                const RoundCounts& rounds, std::int64_t ledger_entries) {
  PrometheusText out;
  out.family("tributary_client_build_info", "gauge", "The running version and its site; always 1.");
  out.sample(1.0, {{"version", TRIBUTARY_VERSION}, {"site", status.site}});
  out.family("tributary_client_connection", "gauge", "1 for the state that the connection to the aggregator is in.");
  for (const std::string_view state : connection_states)
    out.sample(status.connection.state == state ? 1.0 : 0.0, {{"state", state}});
  out.counter("tributary_client_sent_bytes_total", "Bytes sent to the aggregator, TLS included.",
              static_cast<double>(status.connection.bytes_sent));
  out.counter("tributary_client_received_bytes_total", "Bytes received from the aggregator, TLS included.",
              static_cast<double>(status.connection.bytes_received));
  if (status.certificate_expires)
    out.gauge("tributary_client_certificate_days_left", "Until the site's certificate ends; it renews itself before.",
              std::chrono::duration<double, std::ratio<86'400>>(*status.certificate_expires - status.time).count());

  out.family("tributary_client_jobs", "gauge", "Jobs by what the site does for them.");
  for (const std::string_view state : job_states)
    out.sample(static_cast<double>(
                   std::ranges::count_if(status.jobs, [&](const auto& job) { return job.second.state == state; })),
               {{"state", state}});
  out.counter("tributary_client_rounds_trained_total", "Rounds that were trained since the start.",
              static_cast<double>(rounds.trained));
  out.counter("tributary_client_rounds_declined_total", "Rounds that were declined since the start.",
              static_cast<double>(rounds.declined));
  out.gauge("tributary_client_outbox_entries", "Contributions that are not known to be committed.",
            static_cast<double>(status.outbox_entries));
  out.gauge("tributary_client_outbox_bytes", "Their size.", static_cast<double>(status.outbox_bytes));
  out.gauge("tributary_client_ledger_entries", "Entries of the privacy ledger.", static_cast<double>(ledger_entries));

  out.family("tributary_client_epsilon_spent", "gauge",
             "Privacy loss of a data set over all jobs; +Inf: it was read without privacy.");
  for (const DataSetMetrics& set : data_sets) out.sample(set.epsilon_spent, {{"data_set", set.name}});
  out.family("tributary_client_epsilon_budget", "gauge", "The cap in client.toml.");
  for (const DataSetMetrics& set : data_sets)
    if (set.epsilon_budget > 0.0) out.sample(set.epsilon_budget, {{"data_set", set.name}});
  out.family("tributary_client_epsilon_left", "gauge", "What is left of the cap.");
  for (const DataSetMetrics& set : data_sets)
    if (set.epsilon_budget > 0.0)
      out.sample(std::max(0.0, set.epsilon_budget - set.epsilon_spent), {{"data_set", set.name}});
  return out.text();
}

struct MetricsServer::Impl : std::enable_shared_from_this<MetricsServer::Impl> {
  Impl(asio::io_context& context, tcp::acceptor listening, Pages what)
      : acceptor(std::move(listening)), timer(context), pages(std::move(what)) {}

  asio::awaitable<void> accept() {
    const auto self = shared_from_this();
    while (!stopped) {
      error_code error;
      tcp::socket socket = co_await acceptor.async_accept(asio::redirect_error(asio::use_awaitable, error));
      if (stopped) co_return;
      if (error) {
        timer.expires_after(accept_retry);
        co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, error));
        continue;
      }
      if (connections >= most_connections) continue;  // closed at once
      asio::co_spawn(
          acceptor.get_executor(),
          [self, stream = beast::tcp_stream(std::move(socket))]() mutable { return self->serve(std::move(stream)); },
          asio::detached);
    }
  }

  asio::awaitable<void> serve(beast::tcp_stream stream) {
    const auto self = shared_from_this();
    ++connections;
    beast::flat_buffer buffer(most_header_bytes + 1024);
    error_code error;
    while (!error && !stopped) {
      http::request_parser<http::empty_body> parser;
      parser.header_limit(most_header_bytes);
      stream.expires_after(patience);
      co_await http::async_read(stream, buffer, parser, asio::redirect_error(asio::use_awaitable, error));
      if (error) break;
      auto response = answer(parser.get());
      stream.expires_after(patience);
      co_await http::async_write(stream, response, asio::redirect_error(asio::use_awaitable, error));
      if (!response.keep_alive()) break;
    }
    stream.socket().shutdown(tcp::socket::shutdown_both, error);
    --connections;
  }

  http::response<http::string_body> answer(const http::request<http::empty_body>& request) {
    http::response<http::string_body> response(http::status::ok, request.version());
    response.set(http::field::content_type, "text/plain; charset=utf-8");
    response.set(http::field::cache_control, "no-store");
    response.set("X-Content-Type-Options", "nosniff");
    response.keep_alive(request.keep_alive());
    const std::string_view target(request.target().data(), request.target().size());
    const bool is_head = request.method() == http::verb::head;
    if (request.method() != http::verb::get && !is_head) {
      response.result(http::status::method_not_allowed);
      response.set(http::field::allow, "GET, HEAD");
      response.body() = "GET or HEAD\n";
    } else if (target == "/metrics") {
      response.set(http::field::content_type, std::string(prometheus_content_type));
      response.body() = pages.metrics();
    } else if (target == "/healthz") {
      response.body() = "ok\n";
    } else if (target == "/readyz") {
      const bool is_ready = pages.is_ready();
      response.result(is_ready ? http::status::ok : http::status::service_unavailable);
      response.body() = is_ready ? "ready\n" : "not connected to the aggregator: `trib-client status` says why\n";
    } else {
      response.result(http::status::not_found);
      response.body() = "there are /metrics, /healthz and /readyz\n";
    }
    const std::size_t length = response.body().size();
    if (is_head) response.body().clear();
    response.content_length(length);
    return response;
  }

  tcp::acceptor acceptor;
  asio::steady_timer timer;
  Pages pages;
  std::size_t connections = 0;
  bool stopped = false;
};

MetricsServer::MetricsServer(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

MetricsServer::~MetricsServer() {
  impl_->stopped = true;
  error_code ignored;
  impl_->acceptor.close(ignored);
  impl_->timer.cancel();
}

Result<std::unique_ptr<MetricsServer>> MetricsServer::start(asio::io_context& context, const net::HostPort& address,
                                                            Pages pages) {
  TRIB_ASSIGN(tcp::acceptor acceptor, net::listen_on(context, address, "metrics.listen"));
  auto impl = std::make_shared<Impl>(context, std::move(acceptor), std::move(pages));
  asio::co_spawn(context, impl->accept(), asio::detached);
  return std::unique_ptr<MetricsServer>(new MetricsServer(std::move(impl)));
}

std::uint16_t MetricsServer::port() const {
  return impl_->acceptor.local_endpoint().port();
}

}  // namespace trib::client
