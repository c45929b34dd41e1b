#include "client/site_status.h"

#include <fcntl.h>
#include <gmock/gmock.h>

#include <boost/json.hpp>
#include <fstream>

#include "common/files.h"
#include "tests/client/site_fixture.h"

namespace trib::client {
namespace {

namespace json = boost::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

SiteStatus training_status(std::int64_t step) {
  SiteStatus status;
  status.site = "hospital";
  status.device = "cuda:0 (NVIDIA H100)";
  status.connection.state = "connected";
  status.connection.server = "one:7000";
  JobStatus& job = status.jobs["job-1"];
  job.name = "domains";
  job.state = "training";
  job.round = 2;
  job.rounds = 20;
  job.step = step;
  job.steps = 10;
  job.loss = 0.75;
  job.epsilon_spent = 1.5;
  job.epsilon_budget = 8.0;
  return status;
}

TEST(SiteStatus, IsOneJsonObjectWithTheLossInIt) {
  const auto parsed = json::parse(training_status(3).to_json()).as_object();
  EXPECT_EQ(parsed.at("site").as_string(), "hospital");
  EXPECT_EQ(parsed.at("device").as_string(), "cuda:0 (NVIDIA H100)");
  const auto& job = parsed.at("jobs").as_array().at(0).as_object();
  EXPECT_EQ(job.at("id").as_string(), "job-1");
  EXPECT_EQ(job.at("step").as_int64(), 3);
  EXPECT_EQ(job.at("loss").as_double(), 0.75);
}

TEST(SiteStatus, WritesAnInfiniteEpsilonAsNull) {
  SiteStatus status = training_status(1);
  status.jobs["job-1"].epsilon_spent = std::numeric_limits<double>::infinity();
  EXPECT_TRUE(json::parse(status.to_json()).at("jobs").at(0).at("epsilon_spent").is_null());
}

TEST(ConsoleDisplay, PrintsPlainLinesAFewSecondsApartWhereThereIsNoTerminal) {
  test::TemporaryDirectory directory;
  ManualClock clock;
  const auto path = directory / "screen";
  {
    const FileDescriptor screen(::open(path.c_str(), O_CREAT | O_WRONLY, 0600));
    ConsoleDisplay display(screen.get(), clock);
    for (std::int64_t step = 1; step <= 10; ++step) {
      display.show(training_status(step));
      clock.advance(std::chrono::seconds(2));
    }
    display.finish();
  }
  const std::string text = read_file(path).value();
  EXPECT_THAT(text, HasSubstr("hospital: connected to one:7000\n"));
  EXPECT_THAT(text, HasSubstr("round 2/20, step 1/10, loss 0.7500, epsilon 1.5 of 8 spent"));
  EXPECT_THAT(text, HasSubstr("step 4/10"));
  EXPECT_THAT(text, Not(HasSubstr("step 2/10")));
  EXPECT_THAT(text, HasSubstr("step 10/10"));
  EXPECT_THAT(text, Not(HasSubstr("\r")));
}

class DescribeSiteTest : public SiteFixture {
 protected:
  void SetUp() override {
    SiteFixture::SetUp();
    SiteConfig config;
    config.site = "hospital";
    config.servers = {"one:7000"};
    config.data_sets = {site_.data_sets.begin(), site_.data_sets.end()};
    std::ofstream(directory_ / "client.toml") << render_site_config(config);
  }
  SiteDirectory site() const { return {directory_.path()}; }
};

TEST_F(DescribeSiteTest, ReadsLedgerAndOutboxBesideARunningClient) {
  ASSERT_TRUE(runner()->run_round(1, tensors_of(1), progress_).contribution);
  ASSERT_TRUE(write_status(site().status(), training_status(4)));
  const auto parsed = json::parse(describe_site(site(), true).value()).as_object();
  EXPECT_EQ(parsed.at("ledger_entries").as_int64(), 1);
  EXPECT_EQ(parsed.at("outbox").at("entries").as_int64(), 1);
  EXPECT_EQ(parsed.at("data_sets").at(0).at("charges").as_int64(), 1);
  EXPECT_NEAR(parsed.at("data_sets").at(0).at("epsilon_spent").as_double(), ledger_->epsilon_spent("default", 1e-5),
              1e-12);
  EXPECT_EQ(parsed.at("daemon").at("connection").at("state").as_string(), "connected");
  EXPECT_THAT(describe_site(site(), false).value(),
              AllOf(HasSubstr("daemon: connected one:7000"), HasSubstr("computes on cuda:0 (NVIDIA H100)")));
}

TEST_F(DescribeSiteTest, SaysThatNothingHasRunYet) {
  EXPECT_THAT(describe_site(site(), false).value(), HasSubstr("has not run here yet"));
}

TEST_F(DescribeSiteTest, NamesTheCorruptEntryOfALedger) {
  ASSERT_TRUE(runner()->run_round(1, tensors_of(1), progress_).contribution);
  std::string text = read_file(site().ledger()).value();
  const auto place = text.find("\"round\":1");
  ASSERT_NE(place, std::string::npos);
  text[place + 8] = '7';
  std::ofstream(site().ledger()) << text;
  const auto described = describe_site(site(), false);
  ASSERT_FALSE(described);
  EXPECT_EQ(described.error().code, Errc::corrupt);
  EXPECT_THAT(described.error().message, HasSubstr("entry 1"));
}

}  // namespace
}  // namespace trib::client
