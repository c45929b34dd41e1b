// The whole story in Chromium (real.mjs) against real daemons, and what the programs say of it afterwards.
#include <gtest/gtest.h>

#include "common/files.h"
#include "privacy/ledger.h"
#include "tests/e2e/federation.h"

namespace trib::e2e {
namespace {

TEST(DashboardEndToEnd, AnOfficerSeesTheBudgetUsedUpAndASiteLeave) {
  Federation federation({{"heartbeat_interval", "500ms"}}, true);
  federation.start_server();
  // 12 rounds of a job that ends at epsilon 8: the first site's cap comes in their midst.
  constexpr double cap = 5.5;
  for (int site = 1; site <= 3; ++site) {
    federation.join(site, site == 1 ? cap : 1000);
    federation.start_site(site);
  }
  const Finished token = federation.trib({"token", "create", "browser", "--role", "operator", "--json"});
  ASSERT_EQ(token.exit_code, 0) << token.output;
  const auto statement = federation.root() / "statement.json";
  const std::map<std::string, std::string> environment{
      {"TRIBUTARY_URL", federation.http_url()},
      {"TRIBUTARY_TOKEN", std::string(json::parse(token.output).at("token").as_string())},
      {"TRIBUTARY_JOB_FILE", federation.write_job({.rounds = 12, .local_steps = 10})},
      {"TRIBUTARY_SITE", "site-1"},
      {"TRIBUTARY_REVOKE", "site-3"},
      {"TRIBUTARY_STATEMENT", statement},
      {"TRIBUTARY_SCREENSHOTS", TRIBUTARY_BINARY_DIR "/screenshots"},
      {"CHROMIUM", TRIBUTARY_CHROMIUM}};
  for (const auto& [name, value] : environment) ASSERT_EQ(::setenv(name.c_str(), value.c_str(), 1), 0);
  const Finished browser = federation.run({TRIBUTARY_NODE, TRIBUTARY_SOURCE_DIR "/tests/browser/real.mjs"}, 500);
  ASSERT_EQ(browser.exit_code, 0) << browser.output << federation.logs();

  const Finished verified = federation.trib_alone(
      {"privacy", "verify", statement, "--certificate", federation.directory_of(1).certificate()});
  EXPECT_EQ(verified.exit_code, 0) << verified.output;
  federation.wait_until("site-3 to be told that it is revoked", [&] {
    const json::object status = federation.status(3);
    const auto* problem = status.contains("connection") ? status.at("connection").as_object().if_contains("problem") : nullptr;
    return problem != nullptr && problem->is_string() && problem->as_string().find("revoked") != json::string::npos;
  });
  EXPECT_FALSE(federation.ledger(1).empty());
  EXPECT_GT(federation.ledger(2).size(), federation.ledger(1).size());
}

}  // namespace
}  // namespace trib::e2e
