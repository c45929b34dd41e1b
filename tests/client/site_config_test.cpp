#include "client/site_config.h"

#include <gmock/gmock.h>

#include <fstream>

#include "tests/common/temporary_directory.h"

namespace trib::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class SiteConfigTest : public ::testing::Test {
 protected:
  void SetUp() override { std::ofstream(directory_ / "data.tsv") << "text\tlabel\n"; }
  Result<SiteConfig> read(const std::string& text) {
    std::ofstream(directory_ / "client.toml") << text;
    return read_site_config(directory_ / "client.toml");
  }
  std::string error_of(const std::string& text) {
    const auto config = read(text);
    EXPECT_FALSE(config.ok());
    return config ? "" : config.error().message;
  }
  test::TemporaryDirectory directory_;
};

constexpr const char* head = "site = \"hospital\"\nservers = [\"one:7000\", \"two:7000\"]\n";
constexpr const char* data = "[dataset.default]\nfile = \"data.tsv\"\nrecords = 5000\n";

TEST_F(SiteConfigTest, ReadsPathsRelativeToTheFile) {
  const auto config = read(std::string(head) + "models = [\"models\"]\n" + data).value();
  EXPECT_EQ(config.site, "hospital");
  EXPECT_THAT(config.servers, ElementsAre("one:7000", "two:7000"));
  EXPECT_THAT(config.models, ElementsAre(directory_ / "models"));
  EXPECT_EQ(config.data_sets.at("default").file, directory_ / "data.tsv");
  EXPECT_EQ(config.data_sets.at("default").declared_records, 5000);
}

TEST_F(SiteConfigTest, AllowsNothingThatIsNotWrittenDown) {
  const auto config = read(std::string(head) + data).value();
  EXPECT_FALSE(config.data_sets.at("default").allow_non_private);
  EXPECT_FALSE(config.data_sets.at("default").share_evaluation);
  EXPECT_FALSE(config.data_sets.at("default").budget.has_value());
  EXPECT_TRUE(config.budgets().empty());
}

TEST_F(SiteConfigTest, ReadsTheBudgetOfEachDataSet) {
  const auto config =
      read(std::string(head) + data + "[dataset.default.budget]\nepsilon = 3.5\ndelta = 1e-6\n").value();
  ASSERT_EQ(config.budgets().size(), 1U);
  EXPECT_EQ(config.budgets()[0].data_set, "default");
  EXPECT_EQ(config.budgets()[0].epsilon, 3.5);
  EXPECT_EQ(config.budgets()[0].delta, 1e-6);
}

TEST_F(SiteConfigTest, SaysHowToChooseTheDeclaredSizeWhereItIsMissing) {
  const std::string error = error_of(std::string(head) + "[dataset.default]\nfile = \"data.tsv\"\n");
  EXPECT_THAT(error, HasSubstr("dataset.default.records is missing"));
  EXPECT_THAT(error, HasSubstr("never counted for you"));
}

TEST_F(SiteConfigTest, NamesTheFileAndLineOfAnUnknownKey) {
  EXPECT_THAT(error_of(std::string(head) + data + "epsilon = 3\n"), HasSubstr("client.toml:6"));
}

TEST_F(SiteConfigTest, RefusesADeltaThatIsNotBelowOneOverTheRecords) {
  EXPECT_THAT(error_of(std::string(head) + data + "[dataset.default.budget]\nepsilon = 3\ndelta = 0.001\n"),
              HasSubstr("must be below 1/records = 0.0002"));
}

TEST_F(SiteConfigTest, RefusesACapOfZero) {
  EXPECT_THAT(error_of(std::string(head) + data + "[dataset.default.budget]\nepsilon = 0.0\n"),
              HasSubstr("dataset.default.budget.epsilon"));
}

TEST_F(SiteConfigTest, NamesTheDataFileThatIsMissing) {
  EXPECT_THAT(error_of(std::string(head) + "[dataset.default]\nfile = \"gone.tsv\"\nrecords = 10\n"),
              HasSubstr("gone.tsv"));
}

TEST_F(SiteConfigTest, RefusesASiteWithoutData) {
  EXPECT_THAT(error_of(head), HasSubstr("[dataset.default]"));
}

TEST_F(SiteConfigTest, RefusesAListOfNoServers) {
  EXPECT_THAT(error_of(std::string("site = \"a\"\nservers = []\n") + data), HasSubstr("host:port"));
}

TEST_F(SiteConfigTest, RefusesBackoffBoundsInTheWrongOrder) {
  EXPECT_THAT(
      error_of(std::string(head) + "[connection]\nreconnect_minimum = \"10s\"\nreconnect_maximum = \"1s\"\n" + data),
      HasSubstr("reconnect_maximum"));
}

TEST_F(SiteConfigTest, ReadsBackWhatItRenders) {
  SiteConfig config;
  config.site = "spital \"zürich\"";
  config.servers = {"one:7000"};
  config.device = "cuda:0,1";
  config.retry_on_cpu = true;
  config.models = {"/srv/models \\ more"};
  DataSetPolicy policy;
  policy.file = directory_ / "data.tsv";
  policy.declared_records = 123456;
  policy.allow_non_private = true;
  policy.share_evaluation = true;
  policy.budget = privacy::Budget{.data_set = "letters", .epsilon = 2.25, .delta = 3e-7};
  config.data_sets["letters"] = policy;
  const auto read_back = read(render_site_config(config)).value();
  EXPECT_EQ(read_back.site, config.site);
  EXPECT_EQ(read_back.device, "cuda:0,1");
  EXPECT_TRUE(read_back.retry_on_cpu);
  EXPECT_EQ(read_back.models, config.models);
  const DataSetPolicy& again = read_back.data_sets.at("letters");
  EXPECT_EQ(again.file, policy.file);
  EXPECT_EQ(again.declared_records, 123456);
  EXPECT_TRUE(again.allow_non_private);
  EXPECT_TRUE(again.share_evaluation);
  EXPECT_EQ(again.budget->epsilon, 2.25);
  EXPECT_EQ(again.budget->delta, 3e-7);
}

TEST_F(SiteConfigTest, SharesItsStatementUnlessTheOwnerSaysNo) {
  EXPECT_TRUE(read(std::string(head) + data).value().share_statement);
  EXPECT_FALSE(read(std::string(head) + "share_statement = false\n" + data).value().share_statement);
}

TEST_F(SiteConfigTest, ServesMetricsOnlyWhereItIsToldToAndOnThisMachine) {
  EXPECT_FALSE(read(std::string(head) + data).value().metrics_listen.has_value());
  const auto with = [&](const std::string& lines) { return std::string(head) + "[metrics]\n" + lines + data; };
  EXPECT_EQ(read(with("listen = \"127.0.0.1:9464\"\n")).value().metrics_listen->to_string(), "127.0.0.1:9464");
  EXPECT_EQ(read(with("listen = \"[::1]:9464\"\n")).value().metrics_listen->port, 9464);
  EXPECT_THAT(error_of(with("listen = \"0.0.0.0:9464\"\n")), HasSubstr("allow_plain_text"));
  EXPECT_THAT(error_of(with("listen = \"127.example.org:9464\"\n")), HasSubstr("not a loopback address"));
  EXPECT_TRUE(read(with("listen = \"0.0.0.0:9464\"\nallow_plain_text = true\n")).value().metrics_listen.has_value());
}

}  // namespace
}  // namespace trib::client
