#include "common/prometheus.h"

#include <gmock/gmock.h>

#include <limits>

#include "tests/common/prometheus_checker.h"

namespace trib {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

TEST(PrometheusText, IsWhatTheFormatsDescriptionShows) {
  PrometheusText out;
  out.family("http_requests_total", "counter", "The total number of HTTP requests.");
  out.sample(1027, {{"method", "post"}, {"code", "200"}});
  out.sample(3, {{"method", "post"}, {"code", "400"}});
  out.gauge("temperature", "Back\\slash and\nnewline.", -2.5);
  EXPECT_EQ(out.text(),
            "# HELP http_requests_total The total number of HTTP requests.\n"
            "# TYPE http_requests_total counter\n"
            "http_requests_total{method=\"post\",code=\"200\"} 1027\n"
            "http_requests_total{method=\"post\",code=\"400\"} 3\n"
            "# HELP temperature Back\\\\slash and\\nnewline.\n"
            "# TYPE temperature gauge\n"
            "temperature -2.5\n");
  EXPECT_THAT(test::read_exposition(out.text()).problems, IsEmpty());
}

TEST(PrometheusText, LabelsMayHoldAnythingAndComeBackAsTheyWere) {
  PrometheusText out;
  const std::string evil = "C:\\DIR\\\"}\n# TYPE forged counter\nforged 1";
  out.family("files", "gauge", "Files.");
  out.sample(1.0, {{"path", evil}});
  const auto read = test::read_exposition(out.text());
  EXPECT_THAT(read.problems, IsEmpty());
  ASSERT_EQ(read.samples.size(), 1u);
  EXPECT_EQ(read.samples[0].labels.at("path"), evil);
}

TEST(PrometheusText, WritesInfinityAndNotANumberAsPrometheusDoes) {
  PrometheusText out;
  out.family("x", "gauge", "X.");
  out.sample(std::numeric_limits<double>::infinity(), {{"a", "1"}});
  out.sample(-std::numeric_limits<double>::infinity(), {{"a", "2"}});
  out.sample(std::nan(""), {{"a", "3"}});
  EXPECT_THAT(out.text(), HasSubstr("x{a=\"1\"} +Inf\nx{a=\"2\"} -Inf\nx{a=\"3\"} NaN\n"));
}

TEST(PrometheusText, AHistogramIsCumulative) {
  const double bounds[] = {1.0, 10.0};
  Histogram histogram(bounds);
  for (const double seconds : {0.5, 1.0, 5.0, 100.0}) histogram.observe(seconds);
  PrometheusText out;
  out.family("t_seconds", "histogram", "T.");
  out.histogram(histogram, {{"phase", "collecting"}});
  EXPECT_THAT(out.text(), HasSubstr("t_seconds_bucket{phase=\"collecting\",le=\"1\"} 2\n"
                                    "t_seconds_bucket{phase=\"collecting\",le=\"10\"} 3\n"
                                    "t_seconds_bucket{phase=\"collecting\",le=\"+Inf\"} 4\n"
                                    "t_seconds_sum{phase=\"collecting\"} 106.5\n"
                                    "t_seconds_count{phase=\"collecting\"} 4\n"));
  EXPECT_THAT(test::read_exposition(out.text()).problems, IsEmpty());
}

// The checker is no good if it passes everything.
TEST(PrometheusChecker, FindsWhatIsWrong) {
  const std::string head = "# HELP a_total A.\n# TYPE a_total counter\n";
  for (const std::string& text :
       {std::string("a 1\n"), head + "a_total -1\n", head + "a_total 1", head + "a_total 1\na_total 2\n",
        head + "a_total{x=\"1\",x=\"2\"} 1\n", head + "a_total{x=1} 1\n", head + "a_total{1x=\"1\"} 1\n",
        head + "a_total{x=\"\\t\"} 1\n", head + "a_total one\n", head + "a_total 1\n" + head,
        std::string("# TYPE b gauge\nb 1\n"), std::string("# HELP b B.\n# TYPE b counter\nb 1\n"),
        std::string("# HELP h H.\n# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_sum 1\nh_count 2\n"),
        std::string("# HELP h H.\n# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_count 1\n")})
    EXPECT_THAT(test::read_exposition(text).problems, Not(IsEmpty())) << text;
}

}  // namespace
}  // namespace trib
