// Job files as the commands check them, and `trib job` against an aggregator that answers from a script.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cli/scripted_aggregator.h"
#include "tests/cli/trib_process.h"

namespace trib::cli {
namespace {

namespace json = boost::json;
using testing::AllOf;
using testing::HasSubstr;
using Request = ScriptedAggregator::Request;
using Reply = ScriptedAggregator::Reply;

class JobFile : public testing::Test {
 protected:
  void SetUp() override { write_text(path_, small_job()); }

  // The job file with `from` replaced; the line that `from` was on is what a message must name.
  std::string edited(const std::string& from, const std::string& to) {
    std::string text = small_job();
    const std::size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    write_text(path_, text);
    return path_.string() + ":" + std::to_string(1 + std::count(text.begin(), text.begin() + at, '\n'));
  }
  ProgramResult plan(const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments{"privacy", "plan", path_.string(), "--records", "1000"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_trib(arguments);
  }

  test::TemporaryDirectory directory_;
  std::filesystem::path path_ = directory_ / "job.toml";
};

TEST_F(JobFile, WithAnUnknownKeyIsRefusedWithFileLineKeyAndTheAcceptedOnes) {
  const std::string place = edited("epsilon = 6.0", "epsilom = 6.0");
  const ProgramResult result = plan();
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, AllOf(HasSubstr(place), HasSubstr("privacy.epsilom"), HasSubstr("did you mean"),
                                HasSubstr("clip_norm"), HasSubstr("delta")));
  EXPECT_EQ(result.out, "");
}

TEST_F(JobFile, WithAValueOutOfRangeIsRefusedWithTheRange) {
  const std::string place = edited("epsilon = 6.0", "epsilon = 900.0");
  const ProgramResult result = plan();
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, AllOf(HasSubstr(place), HasSubstr("privacy.epsilon"), HasSubstr("900"), HasSubstr("64")));
}

TEST_F(JobFile, WithAnUnknownChoiceIsRefusedWithTheChoices) {
  const std::string place = edited("batch_size = 64", "algorithm = \"fedprox\"");
  const ProgramResult result = plan();
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err,
              AllOf(HasSubstr(place), HasSubstr("training.algorithm"), HasSubstr("fedprox"), HasSubstr("fedsvd"),
                    HasSubstr("ffa"), HasSubstr("ffa-orthonormal"), HasSubstr("fedavg")));
}

TEST_F(JobFile, ThatIsNoTomlIsRefusedWithItsLine) {
  const std::string place = edited("delta = 1e-5", "delta = = 1");
  const ProgramResult result = plan();
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr(place));
}

TEST_F(JobFile, WithoutARequiredKeyIsRefusedWithItsName) {
  edited("rounds = 1\n", "");
  const ProgramResult result = plan();
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, AllOf(HasSubstr("job.rounds is missing"), HasSubstr("job.toml")));
}

TEST_F(JobFile, ThatDoesNotExistIsNamed) {
  const ProgramResult result = run_trib({"simulate", (directory_ / "absent.toml").string()});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("absent.toml"));
}

TEST_F(JobFile, TakesOverridesFromTheCommandLine) {
  const ProgramResult result = plan({"--json", "--set", "privacy.epsilon=2", "--set", "job.name=other"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json::object document = one_json_object(result.out);
  EXPECT_EQ(document.at("target_epsilon").to_number<double>(), 2.0);
  EXPECT_EQ(document.at("job").as_string(), "other");
}

TEST_F(JobFile, NamesTheOverrideThatIsWrong) {
  for (const auto& [given, expected] : std::vector<std::pair<std::string, std::string>>{
           {"privacy.epsilon=900", "--set privacy.epsilon=900: must be a number above 0"},
           {"privacy.epsilom=4", "unknown key; did you mean privacy.epsilon?"},
           {"job.rounds=many", "must be a whole number"},
           {"epsilon", "--set epsilon: must be section.key=value"},
           {"=4", "must be section.key=value"}}) {
    const ProgramResult result = plan({"--set", given});
    EXPECT_EQ(result.exit_code, 2) << given;
    EXPECT_THAT(result.err, HasSubstr(expected)) << given;
  }
}

TEST_F(JobFile, IsCheckedBeforeAnAggregatorIsLookedFor) {
  edited("epsilon = 6.0", "epsilon = -1.0");
  const std::string nowhere = (directory_ / "nowhere").string();
  EXPECT_EQ(run_trib({"job", "submit", path_.string(), "--server", nowhere}).exit_code, 2);
  write_text(path_, small_job());
  const ProgramResult result = run_trib({"job", "submit", path_.string(), "--server", nowhere});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.err, HasSubstr("trib-server --config"));
}

TEST(JobCommand, WithoutAnAggregatorExitsWithThreeAndTheRemedy) {
  const test::TemporaryDirectory directory;
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{{"job", "list"},
                                                                                         {"job", "show"},
                                                                                         {"job", "watch"},
                                                                                         {"job", "cancel", "x"},
                                                                                         {"sites"},
                                                                                         {"invite", "north"},
                                                                                         {"revoke", "north"},
                                                                                         {"model", "export", "x"}}) {
    const ProgramResult result = run_trib(arguments, directory.path());
    EXPECT_EQ(result.exit_code, 3) << arguments[0];
    EXPECT_THAT(result.err, AllOf(HasSubstr((directory / "federation").string()),
                                  HasSubstr("trib-server --config federation/server.toml"), HasSubstr("--server")));
    EXPECT_EQ(result.out, "") << arguments[0];
  }
}

// A job's report in the aggregator's own form.
std::string report_text(int rounds_done) {
  return R"({"id": "small-1", "name": "small", "task": "lora_text", "state": ")" +
         std::string(rounds_done == 2 ? "finished" : "collecting") +
         R"(", "reason": "", "waiting": null, "rounds_done": )" + std::to_string(rounds_done) +
         R"(, "rounds_total": 2, "round": 0, "attempt": 0, "private": true, "privacy": "private", "epsilon": 6.0,
             "delta": 1e-5, "seconds": 3.0, "bytes_down": 100, "bytes_up": 100, "result": {"accuracy": 0.5},
             "submitted": "2026-01-01T00:00:00Z", "ended": null, "rounds": [],
             "evaluations": [{"round": 1, "metrics": {"accuracy": 0.5}}],
             "clients": [{"name": "north", "status": "training", "reason": "", "declared_records": 10,
                          "participations": 1, "epsilon_spent": 1.0, "epsilon_budget": 6.0, "bytes_down": 100,
                          "bytes_up": 100, "round": 1, "step": 1, "steps": 1}]})";
}

std::vector<Reply> play(const Request& request) {
  switch (request.body_case()) {
    case Request::kSubmitJob:
      return {ScriptedAggregator::answer(R"({"id": "small-1"})")};
    case Request::kListJobs:
      return {ScriptedAggregator::answer(R"({"jobs": [)" + report_text(1) + "]}")};
    case Request::kShowJob:
      return {ScriptedAggregator::answer(report_text(1))};
    case Request::kWatchJob: {
      std::vector<Reply> replies{ScriptedAggregator::answer(report_text(1)),
                                 ScriptedAggregator::answer(report_text(2))};
      replies[0].set_more(true);
      return replies;
    }
    case Request::kCancelJob:
      return {ScriptedAggregator::refusal("not found", "there is no job " + request.cancel_job().job_id())};
    case Request::kRevokeSite:
      return {ScriptedAggregator::refusal("permission denied", "only an operator may do this")};
    case Request::kExportModel: {
      Reply reply = ScriptedAggregator::answer("{}");
      reply.add_files()->set_name(request.export_model().job_id() == "hostile" ? "../escaped" : "adapter_config.json");
      reply.mutable_files(0)->set_content("{}");
      return {reply};
    }
    default:
      return {ScriptedAggregator::refusal("unsupported", "not in the script")};
  }
}

class JobCommandWithAggregator : public testing::Test {
 protected:
  ProgramResult run(std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--server", aggregator_.directory()});
    return run_trib(arguments, directory_.path());
  }

  test::TemporaryDirectory directory_;
  ScriptedAggregator aggregator_{play};
};

TEST_F(JobCommandWithAggregator, SubmitSendsTheFileWithItsOverridesAndPrintsTheId) {
  write_text(directory_ / "job.toml", small_job());
  const ProgramResult result = run({"job", "submit", "job.toml", "--set", "privacy.epsilon=3"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "small-1\n");
  ASSERT_EQ(aggregator_.requests().size(), 1u);
  const auto submitted = aggregator_.requests()[0].submit_job();
  EXPECT_EQ(submitted.job_file_name(), "job.toml");
  EXPECT_THAT(submitted.job_file(), HasSubstr("epsilon = 3"));
}

TEST_F(JobCommandWithAggregator, ShowPrintsTheReportAsOneJsonObject) {
  const ProgramResult result = run({"job", "show", "small-1", "--json"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(one_json_object(result.out), json::parse(report_text(1)).as_object());
}

TEST_F(JobCommandWithAggregator, ShowWithoutAnIdTakesTheNewestJob) {
  const ProgramResult result = run({"job", "show"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("small-1"), HasSubstr("north"), HasSubstr("50.00 %")));
}

TEST_F(JobCommandWithAggregator, ListIsATableWithALineForEachJob) {
  const ProgramResult result = run({"job", "list"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("small-1"), HasSubstr("1/2"), HasSubstr("50.0 %"), HasSubstr("private")));
  EXPECT_EQ(std::count(result.out.begin(), result.out.end(), '\n'), 3);
}

TEST_F(JobCommandWithAggregator, WatchPrintsPlainLinesWhereTheOutputIsNotATerminal) {
  const ProgramResult result = run({"job", "watch"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err, "round 1    accuracy 50.0 %   running average -\nfinished\n");
  EXPECT_THAT(result.out, HasSubstr("rounds   2 of 2"));
  EXPECT_EQ(result.out.find('\033'), std::string::npos);
}

TEST_F(JobCommandWithAggregator, ARefusalForWantOfRightsExitsWithFour) {
  const ProgramResult result = run({"revoke", "north"});
  EXPECT_EQ(result.exit_code, 4);
  EXPECT_EQ(result.err, "trib: only an operator may do this\n");
}

TEST_F(JobCommandWithAggregator, AJobThatDoesNotExistExitsWithTwo) {
  const ProgramResult result = run({"job", "cancel", "absent"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(result.err, "trib: there is no job absent\n");
}

TEST_F(JobCommandWithAggregator, ExportWritesTheAdaptersFiles) {
  const ProgramResult result = run({"model", "export", "small-1", "--out", "adapter", "--json"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(one_json_object(result.out).at("files"), json::value(json::array{"adapter_config.json"}));
  EXPECT_EQ(text_of_file(directory_ / "adapter/adapter_config.json"), "{}");
}

TEST_F(JobCommandWithAggregator, ExportWritesNoFileOutsideItsDirectory) {
  const ProgramResult result = run({"model", "export", "hostile", "--out", "adapter"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("../escaped"));
  EXPECT_FALSE(std::filesystem::exists(directory_ / "escaped"));
}

}  // namespace
}  // namespace trib::cli
