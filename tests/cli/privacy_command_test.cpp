// `trib privacy` on job files, on a ledger that was really charged, and on one that was tampered with.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <sstream>
#include <tuple>

#include "common/net/x509.h"
#include "privacy/accountant.h"
#include "privacy/ledger.h"
#include "privacy/privacy_loss.h"
#include "privacy/sealed.h"
#include "tests/cli/trib_process.h"

namespace trib::cli {
namespace {

namespace json = boost::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

std::string job_with_rounds(int rounds) {
  std::string text = small_job();
  text.replace(text.find("rounds = 1\n"), 11, "rounds = " + std::to_string(rounds) + "\n");
  return text;
}

class PrivacyPlan : public testing::Test {
 protected:
  ProgramResult plan(std::vector<std::string> more) {
    write_text(directory_ / "job.toml", job_with_rounds(12));
    more.insert(more.begin(), {"privacy", "plan", "job.toml"});
    return run_trib(more, directory_.path());
  }
  test::TemporaryDirectory directory_;
};

TEST_F(PrivacyPlan, IsOneJsonObjectWhoseLastEpsilonIsAtMostTheTarget) {
  const ProgramResult result = plan({"--records", "2000", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json::object document = one_json_object(result.out);
  EXPECT_EQ(document.at("target_epsilon").to_number<double>(), 6.0);
  EXPECT_EQ(document.at("sample_rate").to_number<double>(), 64.0 / 2000.0);
  const json::array& after = document.at("epsilon_after_round").as_array();
  ASSERT_EQ(after.size(), 12u);
  for (std::size_t round = 1; round < after.size(); ++round)
    EXPECT_GT(after[round].to_number<double>(), after[round - 1].to_number<double>());
  EXPECT_LE(after.back().to_number<double>(), 6.0);
  EXPECT_GT(after.back().to_number<double>(), 5.9) << "noise beyond what the target asks for costs accuracy";
}

TEST_F(PrivacyPlan, PutsTheTightFigureBesideRdpsForTheSameRounds) {
  const ProgramResult result = plan({"--records", "2000", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json::object document = one_json_object(result.out);
  const json::array& after = document.at("after").as_array();
  ASSERT_EQ(after.size(), 13u) << "now, and each of the twelve rounds";
  EXPECT_EQ(after[0].at("epsilon_pld").to_number<double>(), 0.0);
  for (std::size_t round = 1; round < after.size(); ++round) {
    EXPECT_EQ(after[round].at("rounds").to_number<std::size_t>(), round);
    EXPECT_LT(after[round].at("epsilon_pld").to_number<double>(), after[round].at("epsilon_rdp").to_number<double>());
    EXPECT_GT(after[round].at("epsilon_pld").to_number<double>(),
              after[round - 1].at("epsilon_pld").to_number<double>());
  }
  EXPECT_EQ(document.at("cap_needed"), after.back().at("epsilon_rdp"));
  EXPECT_EQ(document.at("rounds_bought_rdp").to_number<int>(), 12) << "noise was chosen for these rounds and this cap";
  EXPECT_GT(document.at("rounds_bought_pld").to_number<int>(), 12);
}

TEST_F(PrivacyPlan, SaysWhatALargerBatchAndFewerRoundsWouldDo) {
  const json::object document = one_json_object(plan({"--records", "2000", "--json"}).out);
  const json::array& others = document.at("alternatives").as_array();
  ASSERT_EQ(others.size(), 2u);
  const json::object &doubled = others[0].as_object(), &halved = others[1].as_object();
  const double noise = document.at("noise_multiplier").to_number<double>();
  EXPECT_EQ(doubled.at("sample_rate").to_number<double>(), 128.0 / 2000.0);
  EXPECT_GT(doubled.at("noise_multiplier").to_number<double>(), noise);
  EXPECT_LT(doubled.at("relative_noise_of_mean").to_number<double>(), 1.0);
  EXPECT_GT(doubled.at("epsilon_at_same_noise").to_number<double>(), 6.0);
  EXPECT_EQ(halved.at("steps").to_number<int>(), 6);
  EXPECT_LT(halved.at("noise_multiplier").to_number<double>(), noise);
  EXPECT_LT(halved.at("epsilon_at_same_noise").to_number<double>(), 6.0);
}

TEST_F(PrivacyPlan, OfAJobCalibratedByPldNeedsACapAboveItsEpsilon) {
  const json::object rdp = one_json_object(plan({"--records", "2000", "--json"}).out);
  const json::object pld =
      one_json_object(plan({"--records", "2000", "--json", "--set", "privacy.accountant=\"pld\""}).out);
  EXPECT_EQ(pld.at("accountant").as_string(), "pld");
  EXPECT_LT(pld.at("noise_multiplier").to_number<double>(), rdp.at("noise_multiplier").to_number<double>());
  EXPECT_LE(pld.at("after").as_array().back().at("epsilon_pld").to_number<double>(), 6.0);
  EXPECT_GT(pld.at("cap_needed").to_number<double>(), 6.0);
  EXPECT_LT(pld.at("rounds_bought_rdp").to_number<int>(), 12) << "a cap of 6 declines its last rounds";
}

TEST_F(PrivacyPlan, BeginsWithWhatALedgerSaysWasSpent) {
  const auto ledger = privacy::Ledger::open(directory_ / "ledger.jsonl", {"site-1", throwaway_signer()},
                                            {{"default", 64.0, 1e-5}, {"other", 64.0, 1e-5}}, system_clock())
                          .value();
  const privacy::Mechanism spent{privacy::MechanismKind::poisson_subsampled_gaussian, 0.05, 1.0, 1.0, 10};
  ledger->charge({"before", 1, "default", 2000, 1e-5, spent}).value();
  ledger->charge({"elsewhere", 1, "other", 2000, 1e-5, spent}).value();
  const json::object document =
      one_json_object(plan({"--records", "2000", "--json", "--cap", "8", "--spent", directory_.path().string()}).out);
  const json::value& now = document.at("after").at(0);
  EXPECT_NEAR(now.at("epsilon_rdp").to_number<double>(), privacy::RdpCurve().add(spent).epsilon(1e-5), 1e-12);
  EXPECT_NEAR(now.at("epsilon_pld").to_number<double>(), privacy::tight_epsilon({&spent, 1}, 1e-5).epsilon, 1e-12);
  const json::object fresh = one_json_object(plan({"--records", "2000", "--json", "--cap", "8"}).out);
  EXPECT_LT(document.at("rounds_bought_rdp").to_number<int>(), fresh.at("rounds_bought_rdp").to_number<int>());
}

TEST_F(PrivacyPlan, GivesASmallerSiteMoreNoise) {
  const auto noise = [&](const char* records) {
    const ProgramResult result = plan({"--records", records, "--json"});
    return one_json_object(result.out).at("noise_multiplier").to_number<double>();
  };
  EXPECT_GT(noise("500"), noise("5000"));
}

TEST_F(PrivacyPlan, IsATableForPeople) {
  const ProgramResult result = plan({"--records", "2000"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("noise multiplier"), HasSubstr("epsilon 6.00 at delta 1e-05"),
                                HasSubstr("12 rounds of 1 steps"), HasSubstr("double the batch"),
                                HasSubstr("half the rounds"), HasSubstr("* tight (pld)   R rdp   - cap")));
  std::istringstream lines(result.out);
  for (std::string line; std::getline(lines, line);) {
    const auto columns = std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xc0) != 0x80; });
    EXPECT_LE(columns, 80) << line;
  }
}

TEST_F(PrivacyPlan, RefusesARecordCountThatIsNotPositiveInOneReadableLine) {
  const ProgramResult result = plan({"--records", "0"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, AllOf(HasSubstr("--records"), HasSubstr("at least 1")));
  EXPECT_LT(result.err.size(), 200u);
}

TEST_F(PrivacyPlan, RefusesADeltaOfOneRecordOrMore) {
  const ProgramResult result = plan({"--records", "200000"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, AllOf(HasSubstr("delta"), HasSubstr("1/200000")));
}

TEST_F(PrivacyPlan, HasNothingToSayAboutAJobWithoutPrivacy) {
  const ProgramResult result = plan({"--records", "2000", "--set", "privacy.enabled=false"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("privacy.enabled = false"));
}

TEST_F(PrivacyPlan, RefusesACapThatIsNone) {
  const ProgramResult result = plan({"--records", "2000", "--cap", "-1"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, AllOf(HasSubstr("--cap is -1"), HasSubstr("above 0")));
}

ProgramResult epsilon_of(const std::string& phases, const std::vector<std::string>& more = {}) {
  std::vector<std::string> arguments{"privacy", "epsilon", "--phases", phases, "--delta", "1e-5"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return run_trib(arguments);
}

TEST(PrivacyEpsilon, IsTightUnlessRdpIsAskedFor) {
  // Row 0 of points.csv: 1.82824 by privacy loss distributions, 2.10137 by RDP.
  const ProgramResult tight = epsilon_of("0.01:1:1000", {"--json"});
  ASSERT_EQ(tight.exit_code, 0) << tight.err;
  const json::object document = one_json_object(tight.out);
  EXPECT_NEAR(document.at("epsilon").to_number<double>(), 1.8282366679681419, 2e-4);
  EXPECT_EQ(document.at("epsilon"), document.at("epsilon_pld"));
  EXPECT_EQ(document.at("pld_method").as_string(), "pld");
  EXPECT_FALSE(document.at("pld_is_fallback").as_bool());
  const json::object rdp = one_json_object(epsilon_of("0.01:1:1000", {"--json", "--accountant", "rdp"}).out);
  EXPECT_NEAR(rdp.at("epsilon").to_number<double>(), 2.1013652716482714, 1e-6);
}

TEST(PrivacyEpsilon, AddsUpPhasesInAnyOrder) {
  const json::object one = one_json_object(epsilon_of("0.05:1.3:100,0.01:2:10,1:4:1", {"--json"}).out);
  const json::object other = one_json_object(epsilon_of("1:4:1,0.05:1.3:1e2,0.01:2:10", {"--json"}).out);
  EXPECT_EQ(one.at("epsilon"), other.at("epsilon"));
  EXPECT_EQ(one.at("phases").as_array().size(), 3u);
}

TEST(PrivacyEpsilon, ShowsBothBoundsToPeople) {
  const ProgramResult result = epsilon_of("0.01:1:1000");
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out,
              AllOf(HasSubstr("epsilon 1.828 at delta 1e-05"), HasSubstr("tight (pld)"), HasSubstr("2.101")));
}

TEST(PrivacyEpsilon, RefusesAPhaseThatCannotBeAndNamesItsValue) {
  for (const auto& [phases, what, remedy] :
       std::vector<std::tuple<std::string, std::string, std::string>>{{"1.5:1:10", "1.5", "at most 1"},
                                                                      {"0:1:10", "sample rate", "above 0"},
                                                                      {"0.1:-2:10", "-2", "above 0"},
                                                                      {"0.1:0:10", "noise multiplier", "above 0"},
                                                                      {"0.1:1:0", "steps", "at least 1"},
                                                                      {"0.1:1:2.5", "2.5", "whole number"},
                                                                      {"0.1:1", "'0.1:1'", "Q:SIGMA:STEPS"},
                                                                      {"0.1:1:10,", "''", "Q:SIGMA:STEPS"},
                                                                      {"0.1:one:10", "0.1:one:10", "Q:SIGMA:STEPS"}}) {
    const ProgramResult result = epsilon_of(phases);
    EXPECT_EQ(result.exit_code, 2) << phases;
    EXPECT_THAT(result.err, AllOf(HasSubstr("--phases"), HasSubstr(what), HasSubstr(remedy))) << phases;
  }
  const ProgramResult accountant = epsilon_of("0.1:1:10", {"--accountant", "prv"});
  EXPECT_EQ(accountant.exit_code, 2);
  EXPECT_THAT(accountant.err, AllOf(HasSubstr("prv"), HasSubstr("pld"), HasSubstr("rdp")));
  const ProgramResult delta = run_trib({"privacy", "epsilon", "--phases", "0.1:1:10", "--delta", "0"});
  EXPECT_EQ(delta.exit_code, 2);
  EXPECT_THAT(delta.err, AllOf(HasSubstr("--delta is 0"), HasSubstr("above 0")));
}

TEST(PrivacySigma, IsTheLeastNoiseByTheAccountantThatIsAskedFor) {
  // Row 8 of calibration.csv.
  const std::vector<std::string> request{"privacy",       "sigma", "--epsilon", "1",    "--delta", "1e-5",
                                         "--sample-rate", "0.01",  "--steps",   "1000", "--json"};
  const json::object tight = one_json_object(run_trib(request).out);
  EXPECT_NEAR(tight.at("noise_multiplier").to_number<double>(), 1.4146308367059055, 1.5e-3);
  EXPECT_LE(tight.at("epsilon_pld").to_number<double>(), 1.0);
  EXPECT_GT(tight.at("epsilon_rdp").to_number<double>(), 1.0);
  std::vector<std::string> by_rdp = request;
  by_rdp.insert(by_rdp.end(), {"--accountant", "rdp"});
  const json::object rdp = one_json_object(run_trib(by_rdp).out);
  EXPECT_NEAR(rdp.at("noise_multiplier").to_number<double>(), 1.5131222419949555, 1e-4);
  EXPECT_LE(rdp.at("epsilon_rdp").to_number<double>(), 1.0);
}

TEST(PrivacySigma, RefusesWhatCannotBeAndNamesTheValue) {
  const auto refused = [](const std::string& epsilon, const std::string& delta, const std::string& rate,
                          const std::string& steps) {
    const ProgramResult result =
        run_trib({"privacy", "sigma", "--epsilon", epsilon, "--delta", delta, "--sample-rate", rate, "--steps", steps});
    EXPECT_EQ(result.exit_code, 2);
    return result.err;
  };
  EXPECT_THAT(refused("-1", "1e-5", "0.1", "10"), HasSubstr("--epsilon is -1"));
  EXPECT_THAT(refused("1", "1.5", "0.1", "10"), HasSubstr("--delta is 1.5"));
  EXPECT_THAT(refused("1", "1e-5", "1.1", "10"), AllOf(HasSubstr("--sample-rate is 1.1"), HasSubstr("at most 1")));
  EXPECT_THAT(refused("1", "1e-5", "0.1", "0"), AllOf(HasSubstr("--steps is 0"), HasSubstr("at least 1")));
  EXPECT_THAT(refused("1e-4", "1e-12", "1", "1000000"), HasSubstr("raise epsilon or delta"));
}

// A site's directory whose ledger has been charged three rounds of one data set and one of another.
class PrivacyReport : public testing::Test {
 protected:
  void SetUp() override {
    const auto issuer = net::CertificateIssuer::create("test federation", system_clock());
    write_text(directory_ / "key.pem", key_.to_pem());
    const WallTime now = system_clock().wall_now();
    write_text(directory_ / "certificate.pem", issuer
                                                   .issue(net::make_certificate_request(key_, "site-1"),
                                                          {.common_name = "site-1", .role = "site", .host_names = {}},
                                                          now - std::chrono::hours(1), now + std::chrono::hours(1))
                                                   .value()
                                                   .to_pem());
    const auto ledger = privacy::Ledger::open(path_, {"site-1", signer_},
                                              {{"default", 8.0, 1e-5}, {"other", 8.0, 1e-5}}, system_clock())
                            .value();
    for (const std::int64_t round : {1, 2, 3}) ledger->charge(charge("domains-1", round, "default")).value();
    ledger->charge(charge("domains-2", 1, "other")).value();
  }

  static privacy::Charge charge(const std::string& job, std::int64_t round, const std::string& data_set) {
    return {job, round, data_set, 2000, 1e-5, mechanism};
  }
  ProgramResult run(const std::string& command, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments{"privacy", command, directory_.path().string()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_trib(arguments);
  }
  // Changes one figure in the line of entry `number` (line 1 is the header).
  void tamper_with_entry(int number) const {
    std::string text = text_of_file(path_);
    std::size_t line = 0;
    for (int i = 0; i < number; ++i) line = text.find('\n', line) + 1;
    const std::string from = "\"steps\":10", to = "\"steps\":11";
    text.replace(text.find(from, line), from.size(), to);
    write_text(path_, text);
  }

  static constexpr privacy::Mechanism mechanism{privacy::MechanismKind::poisson_subsampled_gaussian, 0.032, 1.1, 1.0,
                                                10};
  net::PrivateKey key_ = net::PrivateKey::generate();
  std::shared_ptr<const Signer> signer_ = signer_from_pem(key_.to_pem()).value();
  test::TemporaryDirectory directory_;
  std::filesystem::path path_ = directory_ / "ledger.jsonl";
};

TEST_F(PrivacyReport, AddsUpWhatTheLedgerCharged) {
  const ProgramResult result = run("report", {"--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json::object document = one_json_object(result.out);
  EXPECT_EQ(document.at("entries").to_number<int>(), 4);
  EXPECT_TRUE(document.at("verified").as_bool());
  EXPECT_EQ(document.at("head").as_string().size(), 64u);
  const json::array& sets = document.at("data_sets").as_array();
  ASSERT_EQ(sets.size(), 2u);
  const json::object& first = sets[0].as_object();
  EXPECT_EQ(first.at("data_set").as_string(), "default");
  EXPECT_EQ(first.at("charges").to_number<int>(), 3);
  EXPECT_EQ(first.at("steps").to_number<int>(), 30);
  EXPECT_EQ(first.at("declared_records").to_number<int>(), 2000);
  EXPECT_EQ(first.at("rounds_of_job").at("domains-1").to_number<int>(), 3);
  privacy::RdpCurve curve;
  for (int round = 0; round < 3; ++round) curve.add(mechanism);
  const double order = first.at("budget").at("order").to_number<double>();
  EXPECT_EQ(order, privacy::filter_order(mechanism, 8.0, 1e-5));
  EXPECT_NEAR(first.at("epsilon_filter").to_number<double>(), curve.epsilon_at_order(order, 1e-5), 1e-9);
  EXPECT_GT(first.at("epsilon_tight").to_number<double>(), 0.0);
  EXPECT_LE(first.at("epsilon_tight").to_number<double>(), curve.epsilon(1e-5) * (1 + 1e-9));
}

TEST_F(PrivacyReport, StatesEpsilonAtTheDeltaThatIsAskedFor) {
  const auto epsilon = [&](const char* delta) {
    return one_json_object(run("report", {"--json", "--delta", delta}).out)
        .at("data_sets")
        .at(0)
        .at("epsilon_tight")
        .to_number<double>();
  };
  EXPECT_GT(epsilon("1e-8"), epsilon("1e-4"));
}

TEST_F(PrivacyReport, IsATableForPeople) {
  const ProgramResult result = run("report");
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("4 entries, every hash, signature and cap verified"), HasSubstr("domains-1"),
                                HasSubstr("domains-2"), HasSubstr("other")));
}

TEST_F(PrivacyReport, NamesTheEntryThatWasTamperedWith) {
  tamper_with_entry(2);
  const ProgramResult result = run("report", {"--json"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, AllOf(HasSubstr(path_.string()), HasSubstr("line 3 (entry 2)"), HasSubstr("restore it")));
  EXPECT_EQ(result.out, "");
}

TEST_F(PrivacyReport, NamesALedgerThatDoesNotExist) {
  const ProgramResult result = run_trib({"privacy", "report", (directory_ / "absent").string()});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr((directory_ / "absent").string()));
}

TEST_F(PrivacyReport, VerifyTellsAWholeLedgerFromATamperedOneByItsExitCode) {
  const ProgramResult whole = run("verify", {"--json"});
  ASSERT_EQ(whole.exit_code, 0) << whole.err;
  EXPECT_EQ(one_json_object(whole.out).at("entries").to_number<int>(), 4);
  EXPECT_EQ(one_json_object(whole.out).at("head"), one_json_object(run("report", {"--json"}).out).at("head"));
  tamper_with_entry(4);
  const ProgramResult tampered = run("verify");
  EXPECT_EQ(tampered.exit_code, 1);
  EXPECT_THAT(tampered.err, HasSubstr("entry 4"));
}

TEST_F(PrivacyReport, VerifyNeedsTheSitesOwnKey) {
  EXPECT_THAT(run("verify").out, HasSubstr("which is the key of"));
  const auto stranger = net::CertificateIssuer::create("other federation", system_clock());
  write_text(directory_ / "other.pem", stranger.ca_certificate().to_pem());
  const ProgramResult other = run("verify", {"--certificate", (directory_ / "other.pem").string()});
  EXPECT_EQ(other.exit_code, 1);
  EXPECT_THAT(other.err, HasSubstr("is the certificate of"));
}

TEST_F(PrivacyReport, VerifyRecomputesTheCapsDecisionsFromTheFileAlone) {
  std::vector<std::string> lines;
  std::istringstream text(text_of_file(path_));
  for (std::string line; std::getline(text, line);) lines.push_back(line);
  auto entry = privacy::parse_ledger_entry(lines.back()).value();
  entry.charge.mechanism.noise_multiplier = 0.3;  // far over the cap, and signed all the same
  lines.back() = privacy::render_ledger_entry(entry, *signer_).value();
  std::string forged;
  for (const std::string& line : lines) forged += line + "\n";
  write_text(path_, forged);
  const ProgramResult result = run("verify");
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, AllOf(HasSubstr("entry 4 should not be there"), HasSubstr("cap of 8")));
}

TEST_F(PrivacyReport, ADataSetThatWasReadOpenlyIsSaidToBeNotPrivate) {
  {
    const auto ledger =
        privacy::Ledger::open(path_, {"site-1", signer_}, {{"default", 8.0, 1e-5}}, system_clock()).value();
    ledger->declare_data("default", 2000, sha256("file")).value();
    ledger->declare_data("without-privacy", 2000, sha256("file")).value();
    privacy::Charge open = charge("domains-3", 1, "without-privacy");
    open.mechanism = {privacy::MechanismKind::none, 0.032, 0.0, 0.0, 10};
    ledger->charge(open).value();
  }
  const json::object document = one_json_object(run("report", {"--json"}).out);
  const json::object& named = document.at("data_sets").at(2).as_object();
  EXPECT_EQ(named.at("data_set").as_string(), "without-privacy");
  EXPECT_FALSE(named.at("private").as_bool());
  EXPECT_TRUE(named.at("epsilon_tight").is_null());
  EXPECT_EQ(document.at("data_sets").at(0).at("read_openly_as").as_string(), "without-privacy");
  EXPECT_THAT(run("report").out, AllOf(HasSubstr("not private since entry 7"),
                                       HasSubstr("default: the same records were read without privacy as")));
}

TEST_F(PrivacyReport, NeedsALedgerOrAServerAndNotBoth) {
  EXPECT_EQ(run_trib({"privacy", "report"}).exit_code, 2);
  EXPECT_EQ(run("report", {"--server", "somewhere"}).exit_code, 2);
}

// --- The officer's statement ---

class PrivacyStatement : public PrivacyReport {
 protected:
  ProgramResult export_statement() { return run("export", {"--out", (directory_ / "out").string()}); }
  ProgramResult verify_statement(std::vector<std::string> more = {}) const {
    more.insert(more.begin(), {"privacy", "verify", statement_.string()});
    return run_trib(more);
  }

  std::filesystem::path statement_ = directory_ / "out" / "statement.json";
};

TEST_F(PrivacyStatement, IsSignedAndVerifiesWithTheCertificateBesideIt) {
  ASSERT_EQ(export_statement().exit_code, 0);
  const ProgramResult result = verify_statement({"--certificate", (directory_ / "out" / "certificate.pem").string(),
                                                 "--ledger", directory_.path().string(), "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json::object document = one_json_object(result.out);
  EXPECT_TRUE(document.at("certificate_checked").as_bool());
  EXPECT_TRUE(document.at("ledger_checked").as_bool());
  EXPECT_EQ(document.at("key_sha256").as_string(), to_hex(key_.public_key_sha256()));
}

TEST_F(PrivacyStatement, AnyEditedFigureIsFound) {
  ASSERT_EQ(export_statement().exit_code, 0);
  std::string text = text_of_file(statement_);
  const auto at = text.find("\"rounds\": 3");
  ASSERT_NE(at, std::string::npos);
  text[at + 10] = '2';
  write_text(statement_, text);
  const ProgramResult result = verify_statement();
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("edited or damaged"));
}

TEST_F(PrivacyStatement, AFigureThatDoesNotFollowFromTheMechanismsIsFoundThoughTheSiteSignedIt) {
  ASSERT_EQ(export_statement().exit_code, 0);
  std::string text = text_of_file(statement_);
  while (text.back() == '\n') text.pop_back();
  std::string body(privacy::open_sealed(text).value().body);
  const auto at = body.find("\"steps\": 30");
  ASSERT_NE(at, std::string::npos);
  body[at + 9] = '2';
  write_text(statement_, privacy::seal(body, *signer_).value() + "\n");
  const ProgramResult result = verify_statement();
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, AllOf(HasSubstr("data set 'default'"), HasSubstr("its mechanisms make it")));
}

TEST_F(PrivacyStatement, OfALedgerThatWasCutSinceIsFound) {
  ASSERT_EQ(export_statement().exit_code, 0);
  std::string text = text_of_file(path_);
  write_text(path_, text.substr(0, text.rfind("{\"number\":4")));
  const ProgramResult result = verify_statement({"--ledger", directory_.path().string()});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("no entry 4"));
}

TEST_F(PrivacyStatement, IsNotMadeWithAnotherKey) {
  write_text(directory_ / "other.pem", net::PrivateKey::generate().to_pem());
  const ProgramResult result =
      run("export", {"--out", (directory_ / "out").string(), "--key", (directory_ / "other.pem").string()});
  EXPECT_EQ(result.exit_code, 4);
  EXPECT_THAT(result.err, HasSubstr("not the one that signed the ledger"));
  EXPECT_FALSE(std::filesystem::exists(statement_));
}

TEST_F(PrivacyStatement, ThePageHoldsTheFiguresAndFetchesNothing) {
  ASSERT_EQ(export_statement().exit_code, 0);
  const std::string page = text_of_file(directory_ / "out" / "statement.html");
  const json::object document = one_json_object(run("report", {"--json"}).out);
  EXPECT_THAT(page, AllOf(HasSubstr("Privacy statement of site-1"), HasSubstr("domains-1"),
                          HasSubstr(std::string(document.at("head").as_string())), HasSubstr("What this rests on"),
                          HasSubstr("How to check it")));
  EXPECT_THAT(page, AllOf(Not(HasSubstr("<script")), Not(HasSubstr("http:")), Not(HasSubstr("https:")),
                          Not(HasSubstr("src=")), Not(HasSubstr("@import"))));
}

TEST_F(PrivacyStatement, NamesOfJobsCannotBecomeMarkup) {
  privacy::Ledger::open(path_, {"site-1", signer_}, {{"default", 8.0, 1e-5}}, system_clock())
      .value()
      ->charge(charge("<script>alert(1)</script>", 1, "default"))
      .value();
  ASSERT_EQ(export_statement().exit_code, 0);
  const std::string page = text_of_file(directory_ / "out" / "statement.html");
  EXPECT_THAT(page, AllOf(HasSubstr("&lt;script&gt;"), Not(HasSubstr("<script"))));
  EXPECT_EQ(verify_statement().exit_code, 0);
}

}  // namespace
}  // namespace trib::cli
