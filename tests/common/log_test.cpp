#include "common/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>

namespace trib {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;

// What `write` puts on stderr, with the process's logger restored afterwards.
template <typename Write>
std::string logged(std::string_view level, LogFormat format, Write write) {
  const auto previous = spdlog::default_logger();
  testing::internal::CaptureStderr();
  configure_logging("trib-test", level, format).value();
  write();
  const std::string output = testing::internal::GetCapturedStderr();
  spdlog::set_default_logger(previous);
  return output;
}

TEST(Log, WritesALineForPeople) {
  const std::string line = logged("info", LogFormat::text, [] { spdlog::warn("round {} is late", 3); });
  EXPECT_THAT(line, MatchesRegex("20[0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9:.]+Z warn  trib-test: round 3 is late\n"));
}

TEST(Log, WritesAJsonObjectALine) {
  const std::string lines = logged("info", LogFormat::json, [] {
    spdlog::info("plain");
    spdlog::error("quote \" backslash \\ newline \n tab \t bell \a end");
  });
  const std::size_t first_end = lines.find('\n');
  const auto first = boost::json::parse(lines.substr(0, first_end)).as_object();
  EXPECT_EQ(first.at("level"), "info");
  EXPECT_EQ(first.at("program"), "trib-test");
  EXPECT_EQ(first.at("message"), "plain");
  EXPECT_THAT(first.at("time").as_string().c_str(), MatchesRegex("20[0-9-]+T[0-9:.]+Z"));
  const std::string rest = lines.substr(first_end + 1);
  EXPECT_EQ(std::ranges::count(rest, '\n'), 1);
  const auto second = boost::json::parse(rest).as_object();
  EXPECT_EQ(second.at("level"), "error");
  EXPECT_EQ(second.at("message"), "quote \" backslash \\ newline \n tab \t bell \a end");
}

TEST(Log, KeepsUtf8AndReplacesWhatIsNot) {
  const std::string line = logged("info", LogFormat::json, [] { spdlog::info("naïve \xff 漢 \xed\xa0\x80 😀 \xc3"); });
  const auto message = boost::json::parse(line).as_object().at("message").as_string();
  EXPECT_EQ(message, "naïve \uFFFD 漢 \uFFFD\uFFFD\uFFFD 😀 \uFFFD");
}

TEST(Log, LetsNoMessageForgeALineOrSteerTheTerminal) {
  const std::string line = logged("info", LogFormat::text, [] { spdlog::info("site\nforged: \x1b[2J line"); });
  EXPECT_THAT(line, HasSubstr("site\\nforged: \\u001b[2J line\n"));
  EXPECT_EQ(std::ranges::count(line, '\n'), 1);
}

TEST(Log, KeepsLevelsBelowTheConfiguredOneSilent) {
  const std::string lines = logged("warn", LogFormat::text, [] {
    spdlog::info("unwanted");
    spdlog::warn("wanted");
  });
  EXPECT_THAT(lines, HasSubstr("wanted\n"));
  EXPECT_EQ(lines.find("unwanted"), std::string::npos);
}

TEST(Log, RefusesALevelThatDoesNotExist) {
  const Status status = configure_logging("trib-test", "loud", LogFormat::text);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().message, "log level 'loud' is not one of trace, debug, info, warn, error");
}

TEST(Log, ALineSaysWhichJobRoundAndClientItIsAbout) {
  const auto write = [] {
    log_warn({.job = "domains-01", .round = 3, .client = "st-mary"}, "declined: {}", "over its cap");
    spdlog::info("about none of them");
  };
  const std::string text = logged("info", LogFormat::text, write);
  EXPECT_THAT(text, HasSubstr("trib-test: declined: over its cap job=domains-01 round=3 client=st-mary\n"));
  EXPECT_THAT(text, HasSubstr("about none of them\n"));
  const std::string lines = logged("info", LogFormat::json, write);
  const auto line = boost::json::parse(lines.substr(0, lines.find('\n'))).as_object();
  EXPECT_EQ(line.at("job"), "domains-01");
  EXPECT_EQ(line.at("round"), 3);
  EXPECT_EQ(line.at("client"), "st-mary");
  EXPECT_EQ(line.at("message"), "declined: over its cap");
  const auto other = boost::json::parse(lines.substr(lines.find('\n') + 1)).as_object();
  EXPECT_FALSE(other.contains("job"));
  EXPECT_FALSE(other.contains("round"));
}

TEST(Log, AFieldsValueCannotLookLikeAnotherField) {
  const auto write = [] { log_info({.job = "x client=\"forged\"\nline"}, "hello"); };
  const std::string text = logged("info", LogFormat::text, write);
  EXPECT_THAT(text, HasSubstr("hello job=\"x client=\\\"forged\\\"\\nline\"\n"));
  EXPECT_EQ(std::ranges::count(text, '\n'), 1);
  EXPECT_EQ(boost::json::parse(logged("info", LogFormat::json, write)).at("job"), "x client=\"forged\"\nline");
}

TEST(Log, AClientsLinesAboutAJobCarryItsOwnName) {
  set_log_client("st-mary");
  const std::string text = logged("info", LogFormat::text, [] {
    log_info({.job = "domains-01"}, "offered");
    spdlog::info("about nothing");
  });
  set_log_client("");
  EXPECT_THAT(text, HasSubstr("offered job=domains-01 client=st-mary\n"));
  EXPECT_THAT(text, HasSubstr("about nothing\n"));
}

TEST(Log, AScopeEndsWithItsBlock) {
  const std::string text = logged("info", LogFormat::text, [] {
    {
      const LogScope outer({.job = "outer"});
      {
        const LogScope inner({.job = "inner"});
        spdlog::info("one");
      }
      spdlog::info("two");
    }
    spdlog::info("three");
  });
  EXPECT_THAT(text, HasSubstr("one job=inner\n"));
  EXPECT_THAT(text, HasSubstr("two job=outer\n"));
  EXPECT_THAT(text, HasSubstr("three\n"));
}

}  // namespace
}  // namespace trib
