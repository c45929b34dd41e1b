// Who gets in, who is thrown out, and what a site does with a ledger that is not what it was.
#include <gmock/gmock.h>
#include <signal.h>

#include <fstream>
#include <thread>

#include "common/files.h"
#include "privacy/accountant.h"
#include "tests/e2e/federation.h"

namespace trib::e2e {
namespace {

namespace fs = std::filesystem;
using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class MembershipTest : public ::testing::Test {
 protected:
  void start_three_sites() {
    federation_.start_server();
    for (int site = 1; site <= 3; ++site) {
      federation_.join(site);
      federation_.start_site(site);
    }
  }
  std::string connection(int site) {
    const auto status = federation_.status(site);
    return status.contains("connection") ? std::string(status.at("connection").at("state").as_string()) : "";
  }
  std::string problem(int site) {
    const auto status = federation_.status(site);
    if (!status.contains("connection")) return "";
    const auto* text = status.at("connection").as_object().if_contains("problem");
    return text != nullptr ? std::string(text->as_string()) : "";
  }
  void await_connection(int site) {
    federation_.wait_until(Federation::name_of(site) + " to connect", [&] { return connection(site) == "connected"; });
  }
  double spent(int site) {
    privacy::RdpCurve curve;
    for (const auto& entry : federation_.ledger(site)) curve.add(entry.charge.mechanism);
    return curve.epsilon(1e-5);
  }
  Federation federation_{std::map<std::string, std::string>{{"heartbeat_interval", "500ms"}}};
};

TEST_F(MembershipTest, ATokenWorksOnce) {
  federation_.start_server();
  const std::string token = federation_.invite(1);
  ASSERT_EQ(federation_.join(1, token).exit_code, 0);
  const Finished second = federation_.join(1, token, "elsewhere");
  EXPECT_NE(second.exit_code, 0);
  EXPECT_THAT(second.output, HasSubstr("used"));
  EXPECT_FALSE(fs::exists(federation_.root() / "elsewhere" / "certificate.pem"));
  EXPECT_EQ(federation_.join(1, token).exit_code, 0) << "the same key may ask again";
}

TEST_F(MembershipTest, RevokingASiteEndsItsSessionAndTheJobGoesOnWithoutIt) {
  start_three_sites();
  const std::string job = federation_.submit({.rounds = 3, .local_steps = 30});
  federation_.wait_until("site-3 to train", [&] { return !federation_.charges(3, job).empty(); });
  const auto revoked = federation_.trib({"revoke", "site-3", "--reason", "contract ended"});
  ASSERT_EQ(revoked.exit_code, 0) << revoked.output;
  federation_.wait_until("site-3 to be told", [&] { return problem(3).find("revoked") != std::string::npos; });
  const auto report = federation_.await_end(job);
  EXPECT_EQ(Federation::contributions(report).back(), 2);
  EXPECT_NE(connection(3), "connected");
}

TEST_F(MembershipTest, ASecondClientInTheSameDirectoryDoesNotStart) {
  federation_.start_server();
  federation_.join(1);
  federation_.start_site(1);
  await_connection(1);
  const Finished second = federation_.run_client_to_its_end(federation_.directory_of(1).root);
  EXPECT_EQ(second.exit_code, 3);
  EXPECT_THAT(second.output, HasSubstr("client.lock"));
  EXPECT_EQ(connection(1), "connected");
}

TEST_F(MembershipTest, ASecondClientWithACopiedIdentityIsKeptOutWhileTheFirstIsConnected) {
  start_three_sites();
  await_connection(1);
  const fs::path copy = federation_.root() / "copy";
  fs::copy(federation_.directory_of(1).root, copy, fs::copy_options::recursive);
  fs::remove(copy / "client.lock");
  fs::remove(copy / "status.json");
  federation_.start_client("copy", copy);
  federation_.wait_until("the copy to be refused",
                         [&] { return federation_.log_of("copy").find("no connection") != std::string::npos; });
  const auto report = federation_.await_end(federation_.submit({.rounds = 2}));
  EXPECT_THAT(Federation::contributions(report), ElementsAre(3, 3));
  EXPECT_EQ(connection(1), "connected");
  EXPECT_THAT(privacy::read_ledger(copy / "ledger.jsonl").value(), ::testing::IsEmpty());
}

TEST_F(MembershipTest, ALapsedCertificateRenewsItself) {
  Federation federation(std::map<std::string, std::string>{{"site_certificate_lifetime", "2s"}});
  federation.start_server();
  federation.join(1);
  const std::string before = read_file(federation.directory_of(1).certificate()).value();
  std::this_thread::sleep_for(std::chrono::seconds(3));
  federation.start_site(1);
  federation.wait_until("site-1 to connect with a new certificate", [&] {
    const auto status = federation.status(1);
    return status.contains("connection") && status.at("connection").at("state").as_string() == "connected";
  });
  EXPECT_NE(read_file(federation.directory_of(1).certificate()).value(), before);
}

TEST_F(MembershipTest, ALedgerRestoredFromABackupIsChargedForWhatItForgot) {
  start_three_sites();
  federation_.await_end(federation_.submit({.rounds = 1}));
  const fs::path ledger = federation_.directory_of(1).ledger(), backup = federation_.root() / "backup.jsonl";
  fs::copy_file(ledger, backup);
  federation_.await_end(federation_.submit({.rounds = 2}));
  const double truly_spent = spent(1);
  ASSERT_EQ(federation_.ledger(1).size(), 4U) << "the data set and three rounds";

  ASSERT_EQ(federation_.stop_site(1), 0);
  fs::copy_file(backup, ledger, fs::copy_options::overwrite_existing);
  ASSERT_LT(spent(1), truly_spent);
  federation_.start_site(1);
  federation_.wait_until("the gap to be charged", [&] {
    const auto entries = federation_.ledger(1);
    return !entries.empty() && entries.back().kind == privacy::EntryKind::gap;
  });
  EXPECT_GE(spent(1), truly_spent);
  federation_.await_end(federation_.submit({.rounds = 1}));
}

// Somebody with the site's key wrote a cheaper history of the same length: only the aggregator can tell.
TEST_F(MembershipTest, ALedgerThatWasRewrittenWithTheSitesOwnKeyIsRefused) {
  start_three_sites();
  federation_.await_end(federation_.submit({.rounds = 2}));
  ASSERT_EQ(federation_.stop_site(1), 0);
  const client::SiteDirectory site = federation_.directory_of(1);
  const auto entries = privacy::read_ledger(site.ledger()).value();
  const std::string whole = read_file(site.ledger()).value();
  fs::remove(site.ledger());
  {
    const privacy::LedgerOwner owner{"site-1", signer_from_pem(read_file(site.key()).value()).value()};
    const auto forged =
        privacy::Ledger::open(site.ledger(), owner, {{"default", 1000.0, 1e-5}}, system_clock()).value();
    for (const auto& entry : entries) {
      if (!entry.spends()) {
        forged->declare_data(entry.charge.data_set, entry.charge.declared_records, entry.data_digest).value();
        continue;
      }
      privacy::Charge cheaper = entry.charge;
      cheaper.mechanism.steps = 1;
      forged->charge(cheaper).value();
    }
    ASSERT_EQ(std::ssize(forged->entries()), std::ssize(entries));
  }
  federation_.start_site(1);
  federation_.wait_until("site-1 to be refused",
                         [&] { return problem(1).find("edited or replaced") != std::string::npos; });
  ASSERT_EQ(federation_.stop_site(1), 0);
  std::ofstream(site.ledger()) << whole;
  federation_.start_site(1);
  await_connection(1);
}

TEST_F(MembershipTest, AnOfficerGetsTheSameFiguresFromTheSiteAndFromTheAggregator) {
  start_three_sites();
  federation_.await_end(federation_.submit({.rounds = 2}));
  const std::string site = federation_.directory_of(1).root.string();
  const std::string out = (federation_.root() / "statement").string();
  ASSERT_EQ(federation_.stop_site(1), 0);
  const auto ledger = federation_.trib_alone({"privacy", "verify", site, "--json"});
  ASSERT_EQ(ledger.exit_code, 0) << ledger.output;
  const json::object own = json::parse(ledger.output).as_object();
  EXPECT_TRUE(own.at("certificate_checked").as_bool());
  const auto exported = federation_.trib_alone({"privacy", "export", site, "--out", out});
  ASSERT_EQ(exported.exit_code, 0) << exported.output;
  const auto verified = federation_.trib_alone(
      {"privacy", "verify", out + "/statement.json", "--certificate", out + "/certificate.pem", "--ledger", site});
  EXPECT_EQ(verified.exit_code, 0) << verified.output;

  const auto answer = federation_.trib({"privacy", "report", "--json"});
  ASSERT_EQ(answer.exit_code, 0) << answer.output;
  const json::object told = json::parse(answer.output).at("sites").at(0).as_object();
  EXPECT_EQ(told.at("site").as_string(), "site-1");
  EXPECT_EQ(told.at("key_sha256"), own.at("key_sha256"));
  EXPECT_EQ(told.at("ledger_head").at("hash"), own.at("head"));
  const json::object& set = told.at("data_sets").at(0).as_object();
  EXPECT_EQ(set.at("rounds").to_number<int>(), 2);
  EXPECT_EQ(set.at("epsilon_budget").to_number<double>(), 1000.0);
  EXPECT_GT(set.at("epsilon_spent").to_number<double>(), 0.0);
}

TEST_F(MembershipTest, ACorruptLedgerStopsTheClientBeforeItTrains) {
  start_three_sites();
  federation_.await_end(federation_.submit({.rounds = 2}));
  ASSERT_EQ(federation_.stop_site(1), 0);
  const fs::path ledger = federation_.directory_of(1).ledger();
  std::string text = read_file(ledger).value();
  const auto place = text.find("\"steps\":2");
  ASSERT_NE(place, std::string::npos);
  text[place + 8] = '1';
  std::ofstream(ledger) << text;
  const Finished run = federation_.run_client_to_its_end(federation_.directory_of(1).root);
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(run.output, HasSubstr("entry 2"));
}

}  // namespace
}  // namespace trib::e2e
