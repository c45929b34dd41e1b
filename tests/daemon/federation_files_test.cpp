// A new federation on disk, and its configuration.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "common/files.h"
#include "server/certificate_authority.h"
#include "server/config.h"
#include "server/init.h"
#include "tests/common/temporary_directory.h"

namespace trib::server {
namespace {

unsigned mode_of(const std::filesystem::path& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 ? status.st_mode & 0777 : 0;
}

class FederationFiles : public ::testing::Test {
 protected:
  FederationFiles() {
    options.directory = directory.path() / "federation";
    options.federation = "hospitals \"of\" the north";
    options.listen = "0.0.0.0:7443";
    options.host_names = {"fl.example.org", "192.0.2.1"};
    layout.root = options.directory;
  }
  Result<ServerConfig> read(const std::string& text) {
    EXPECT_TRUE(write_file_durably(directory / "server.toml", text).ok());
    return read_server_config(directory / "server.toml");
  }
  static constexpr const char* smallest =
      "[federation]\nname = \"x\"\n[listen]\naddress = \"0.0.0.0:1\"\nadvertise = [\"a:1\"]\n";

  test::TemporaryDirectory directory;
  InitOptions options;
  ServerDirectory layout;
};

TEST_F(FederationFiles, InitMakesKeysThatOnlyTheirOwnerReads) {
  ASSERT_TRUE(init_federation(options).ok());
  EXPECT_EQ(mode_of(layout.ca_key()), 0600u);
  EXPECT_EQ(mode_of(layout.key()), 0600u);
  EXPECT_EQ(mode_of(layout.root), 0700u);
  EXPECT_EQ(mode_of(layout.ca_key().parent_path()), 0700u);
}

TEST_F(FederationFiles, InitWritesAConfigurationThatReadsBack) {
  ASSERT_TRUE(init_federation(options).ok());
  const auto config = read_server_config(layout.config());
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->federation, options.federation);
  EXPECT_EQ(config->listen.to_string(), "0.0.0.0:7443");
  ASSERT_EQ(config->advertise.size(), 2u);
  EXPECT_EQ(config->advertise[0].to_string(), "fl.example.org:7443");
  EXPECT_EQ(config->host_names, options.host_names);
  EXPECT_EQ(config->models.at(0), layout.root / "models");
  EXPECT_EQ(config->clients, 10'000);
}

TEST_F(FederationFiles, InitNeverMakesAnExistingFederationAgain) {
  ASSERT_TRUE(init_federation(options).ok());
  const std::string ca = read_file(layout.ca_certificate()).value();
  const Status again = init_federation(options);
  EXPECT_EQ(again.error().code, Errc::already_exists);
  EXPECT_EQ(read_file(layout.ca_certificate()).value(), ca);
}

TEST_F(FederationFiles, AnInterruptedInitGoesOnWithTheCaThatIsThere) {
  ASSERT_TRUE(init_federation(options).ok());
  const std::string ca = read_file(layout.ca_certificate()).value();
  std::filesystem::remove(layout.config());
  std::filesystem::remove(layout.certificate());
  ASSERT_TRUE(init_federation(options).ok());
  EXPECT_EQ(read_file(layout.ca_certificate()).value(), ca);
  EXPECT_TRUE(load_server_credentials(layout).ok());
}

TEST_F(FederationFiles, ACaWithoutItsKeyIsNotReplaced) {
  ASSERT_TRUE(init_federation(options).ok());
  std::filesystem::remove(layout.config());
  std::filesystem::remove(layout.ca_key());
  EXPECT_EQ(init_federation(options).error().code, Errc::already_exists);
}

TEST_F(FederationFiles, InitRefusesWhatCannotWork) {
  InitOptions nameless = options;
  nameless.federation.clear();
  EXPECT_EQ(init_federation(nameless).error().code, Errc::invalid_argument);
  InitOptions hostless = options;
  hostless.host_names.clear();
  EXPECT_EQ(init_federation(hostless).error().code, Errc::invalid_argument);
  InitOptions portless = options;
  portless.listen = "0.0.0.0";
  EXPECT_EQ(init_federation(portless).error().code, Errc::invalid_argument);
  EXPECT_FALSE(std::filesystem::exists(layout.config()));
}

TEST_F(FederationFiles, TheSmallestConfigurationHasDefaults) {
  const auto config = read(smallest);
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->heartbeat_interval, Milliseconds(15'000));
  EXPECT_EQ(config->site_certificate_lifetime, std::chrono::days(30));
}

TEST_F(FederationFiles, LimitsAreRead) {
  const auto config = read(std::string(smallest) +
                           "[limits]\nclients = 7\nmessage_bytes = 100000\nidle_timeout = \"40s\"\n"
                           "staging_memory_bytes = 0\n[tls]\nsite_certificate_lifetime = \"2m\"\n");
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->clients, 7);
  EXPECT_EQ(config->channel.message_bytes, 100'000u);
  EXPECT_EQ(config->channel.idle_timeout, Milliseconds(40'000));
  EXPECT_EQ(config->staging_memory_bytes, 0u);
  EXPECT_EQ(config->site_certificate_lifetime, std::chrono::minutes(2));
}

TEST_F(FederationFiles, WithoutHttpListenThereIsNoHttp) {
  EXPECT_FALSE(read(smallest)->http.listen.has_value());
  ASSERT_TRUE(init_federation(options).ok());
  EXPECT_FALSE(read_server_config(layout.config())->http.listen.has_value());
}

TEST_F(FederationFiles, InitGivesTheDashboardTlsUnlessOnlyThisMachineReachesIt) {
  options.http = "127.0.0.1:7480";
  ASSERT_TRUE(init_federation(options).ok());
  const auto local = read_server_config(layout.config());
  ASSERT_TRUE(local.ok()) << local.error().message;
  EXPECT_EQ(local->http.listen->to_string(), "127.0.0.1:7480");
  EXPECT_FALSE(local->http.tls);
  options.directory = directory.path() / "public";
  options.http = "0.0.0.0:7480";
  ASSERT_TRUE(init_federation(options).ok());
  const auto open = read_server_config(options.directory / "server.toml");
  ASSERT_TRUE(open.ok()) << open.error().message;
  EXPECT_TRUE(open->http.tls);
  options.directory = directory.path() / "wrong";
  options.http = "7480";
  EXPECT_EQ(init_federation(options).error().code, Errc::invalid_argument);
}

TEST_F(FederationFiles, HttpIsRead) {
  const auto config = read(std::string(smallest) +
                           "[http]\nlisten = \"[::1]:7480\"\ntls = true\ncertificate = \"web.pem\"\nkey = "
                           "\"web.key\"\nrequests_per_minute = 7\nidle_timeout = \"5s\"\nopen_metrics = true\n");
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->http.certificate, directory.path() / "web.pem");
  EXPECT_EQ(config->http.requests_per_minute, 7);
  EXPECT_EQ(config->http.idle_timeout, Milliseconds(5'000));
  EXPECT_TRUE(config->http.open_metrics);
}

TEST_F(FederationFiles, HttpWithoutTlsIsForThisMachineAloneUnlessItIsAllowed) {
  const auto http = [this](const std::string& lines) { return read(std::string(smallest) + "[http]\n" + lines); };
  for (const char* address : {"127.0.0.1:1", "127.8.9.1:1", "[::1]:1", "localhost:1"})
    EXPECT_TRUE(http("tls = false\nlisten = \"" + std::string(address) + "\"\n").ok()) << address;
  for (const char* address : {"0.0.0.0:1", "[::]:1", "192.168.0.1:1", "fl.example.org:1", "localhost.example.org:1"}) {
    const std::string listen = "listen = \"" + std::string(address) + "\"\n";
    const auto refused = http("tls = false\n" + listen);
    ASSERT_FALSE(refused.ok()) << address;
    EXPECT_NE(refused.error().message.find("http.allow_plain_text"), std::string::npos) << refused.error().message;
    EXPECT_TRUE(http(listen).ok()) << "with TLS";
    EXPECT_TRUE(http("tls = false\nallow_plain_text = true\n" + listen).ok());
  }
}

TEST_F(FederationFiles, AMistakeIsNamedWithItsKey) {
  const auto expect = [this](const std::string& text, const std::string& key) {
    const auto config = read(text);
    ASSERT_FALSE(config.ok()) << text;
    EXPECT_NE(config.error().message.find(key), std::string::npos) << config.error().message;
    EXPECT_NE(config.error().message.find("server.toml"), std::string::npos) << config.error().message;
  };
  expect(std::string(smallest) + "[limits]\nclient = 7\n", "limits.client");
  expect(std::string(smallest) + "[limits]\nclients = 0\n", "limits.clients");
  expect(std::string(smallest) + "[http]\nlisten = \"7480\"\n", "http.listen");
  expect(std::string(smallest) + "[http]\nkey = \"web.key\"\n", "http.certificate");
  expect(std::string(smallest) + "[http]\ntls = false\nkey = \"k\"\ncertificate = \"c\"\n", "http.tls");
  expect(std::string(smallest) + "[http]\nport = 1\n", "http.port");
  expect(std::string(smallest) + "[limits]\nidle_timeout = \"20s\"\n", "limits.idle_timeout");
  expect("[federation]\nname = \"x\"\n[listen]\naddress = \"nowhere\"\nadvertise = [\"a:1\"]\n", "listen.address");
  expect("[federation]\nname = \"x\"\n[listen]\naddress = \"0.0.0.0:1\"\nadvertise = []\n", "listen.advertise");
}

}  // namespace
}  // namespace trib::server
