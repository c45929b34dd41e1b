#include "client/metrics.h"

#include <gmock/gmock.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <limits>
#include <thread>

#include "tests/common/prometheus_checker.h"

namespace trib::client {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

SiteStatus status_of_a_training_site() {
  SiteStatus status;
  status.site = "hospital";
  status.time = WallTime(Milliseconds(0));
  status.certificate_expires = WallTime(std::chrono::hours(48));
  status.connection.state = "connected";
  status.connection.bytes_sent = 1000;
  JobStatus& job = status.jobs["job-1"];
  job.state = "training";
  job.loss = 0.7512345;
  status.outbox_entries = 2;
  status.outbox_bytes = 4096;
  return status;
}

std::string text_of(const SiteStatus& status) {
  return client_metrics_text(
      status, {{"letters", 1.5, 8.0}, {"open", std::numeric_limits<double>::infinity(), 2.0}, {"free", 0.0, 0.0}},
      {.trained = 7, .declined = 1}, 9);
}

TEST(ClientMetrics, AreWhatPrometheusReads) {
  const auto read = test::read_exposition(text_of(status_of_a_training_site()));
  EXPECT_THAT(read.problems, IsEmpty());
  EXPECT_EQ(read.value("tributary_client_connection", {{"state", "connected"}}), 1.0);
  EXPECT_EQ(read.value("tributary_client_connection", {{"state", "waiting"}}), 0.0);
  EXPECT_EQ(read.value("tributary_client_epsilon_spent", {{"data_set", "letters"}}), 1.5);
  EXPECT_EQ(read.value("tributary_client_epsilon_left", {{"data_set", "letters"}}), 6.5);
  EXPECT_EQ(read.value("tributary_client_epsilon_left", {{"data_set", "open"}}), 0.0);
  EXPECT_EQ(read.value("tributary_client_certificate_days_left"), 2.0);
  EXPECT_EQ(read.value("tributary_client_rounds_trained_total"), 7.0);
  EXPECT_EQ(read.value("tributary_client_jobs", {{"state", "training"}}), 1.0);
  EXPECT_EQ(read.value("tributary_client_outbox_bytes"), 4096.0);
}

TEST(ClientMetrics, HoldNothingThatIsComputedFromRecords) {
  SiteStatus other = status_of_a_training_site();
  other.jobs["job-1"].loss = 123.456;
  EXPECT_EQ(text_of(status_of_a_training_site()), text_of(other));
  EXPECT_THAT(text_of(other), Not(HasSubstr("123.4")));
  EXPECT_THAT(text_of(other), Not(HasSubstr("_loss")));
}

class MetricsServerTest : public ::testing::Test {
 protected:
  MetricsServerTest() {
    server_ = MetricsServer::start(context_, {"127.0.0.1", 0},
                                   {.metrics = [] { return std::string("# HELP x X.\n# TYPE x gauge\nx 1\n"); },
                                    .is_ready = [this] { return is_ready_.load(); }})
                  .value();
    port_ = server_->port();
    thread_ = std::thread([this] { context_.run(); });
  }
  ~MetricsServerTest() override {
    context_.stop();
    thread_.join();
  }
  // What comes back until the other side closes.
  std::string exchange(const std::string& request) {
    boost::asio::io_context context;
    boost::asio::ip::tcp::socket socket(context);
    socket.connect({boost::asio::ip::make_address("127.0.0.1"), port_});
    boost::system::error_code error;
    boost::asio::write(socket, boost::asio::buffer(request), error);
    std::string answer;
    boost::asio::read(socket, boost::asio::dynamic_buffer(answer), error);
    return answer;
  }
  std::string get(const std::string& path, const std::string& method = "GET") {
    return exchange(method + " " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
  }

  boost::asio::io_context context_;
  std::unique_ptr<MetricsServer> server_;
  std::uint16_t port_ = 0;
  std::atomic<bool> is_ready_{false};
  std::thread thread_;
};

TEST_F(MetricsServerTest, ServesMetricsAndHealth) {
  const std::string metrics = get("/metrics");
  EXPECT_THAT(metrics, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(metrics, HasSubstr("text/plain; version=0.0.4"));
  EXPECT_THAT(metrics, HasSubstr("\r\n\r\n# HELP x X.\n"));
  EXPECT_THAT(get("/healthz"), StartsWith("HTTP/1.1 200"));
}

TEST_F(MetricsServerTest, IsReadyWhileItIsConnected) {
  EXPECT_THAT(get("/readyz"), StartsWith("HTTP/1.1 503"));
  is_ready_ = true;
  EXPECT_THAT(get("/readyz"), StartsWith("HTTP/1.1 200"));
}

TEST_F(MetricsServerTest, AnswersNothingElse) {
  EXPECT_THAT(get("/"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(get("/../metrics"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(get("/metrics", "DELETE"), StartsWith("HTTP/1.1 405"));
  const std::string head = get("/metrics", "HEAD");
  EXPECT_THAT(head, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(head, HasSubstr("Content-Length: 31"));
  EXPECT_THAT(head, Not(HasSubstr("# HELP")));
}

TEST_F(MetricsServerTest, EndsAConnectionWhoseHeadersAreTooLargeAndGoesOn) {
  EXPECT_EQ(exchange("GET /metrics HTTP/1.1\r\nX: " + std::string(1 << 16, 'x') + "\r\n\r\n"), "");
  EXPECT_EQ(exchange("nonsense\r\n\r\n"), "");
  EXPECT_THAT(get("/healthz"), StartsWith("HTTP/1.1 200"));
}

TEST_F(MetricsServerTest, SaysWhenThePortIsTaken) {
  boost::asio::io_context other;
  const auto second = MetricsServer::start(other, {"127.0.0.1", port_}, {});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, Errc::unavailable);
  EXPECT_THAT(second.error().message, HasSubstr("metrics.listen"));
}

}  // namespace
}  // namespace trib::client
