// Help and completion, as a shell meets them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cli/trib_process.h"

namespace trib::cli {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;
using testing::Not;

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

// What bash offers after `line`, the last word of which is being typed.
std::vector<std::string> bash_offers(const std::string& line) {
  const test::TemporaryDirectory directory;
  const std::size_t last = words_of(line + "x").size() - 1;
  write_text(directory / "offer.sh", "source <('" + trib_program + "' completion bash)\nCOMP_WORDS=(" + line +
                                         (line.ends_with(' ') ? "''" : "") + ")\nCOMP_CWORD=" + std::to_string(last) +
                                         "\n_trib\necho \"${COMPREPLY[@]}\"\n");
  RunningProgram bash({"/bin/bash", (directory / "offer.sh").string()}, directory.path());
  const ProgramResult result = bash.wait();
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  return words_of(result.out);
}

TEST(Completion, ScriptIsAcceptedByBash) {
  const test::TemporaryDirectory directory;
  const ProgramResult script = run_trib({"completion", "bash"});
  ASSERT_EQ(script.exit_code, 0);
  write_text(directory / "trib.bash", script.out);
  const ProgramResult check = RunningProgram({"/bin/bash", "-n", (directory / "trib.bash").string()}).wait();
  EXPECT_EQ(check.exit_code, 0) << check.err;
}

TEST(Completion, OffersSubcommandsAtEveryDepth) {
  EXPECT_THAT(bash_offers("trib "), AllOf(Contains("demo"), Contains("job"), Contains("simulate")));
  EXPECT_THAT(bash_offers("trib job su"), Contains("submit"));
  EXPECT_THAT(bash_offers("trib job su"), Not(Contains("cancel")));
}

TEST(Completion, OffersTheOptionsOfTheCommandThatIsTyped) {
  EXPECT_THAT(bash_offers("trib job submit --"), AllOf(Contains("--set"), Contains("--watch")));
  EXPECT_THAT(bash_offers("trib model predict --"), AllOf(Contains("--adapter"), Not(Contains("--watch"))));
}

TEST(Completion, OffersFilesToo) {
  const auto offers = bash_offers("trib simulate off");
  EXPECT_THAT(offers, Contains("offer.sh"));
}

TEST(Completion, ScriptsForOtherShellsNameTheCommands) {
  EXPECT_THAT(run_trib({"completion", "zsh"}).out, AllOf(HasSubstr("bashcompinit"), HasSubstr("trib_job_submit")));
  EXPECT_THAT(run_trib({"completion", "fish"}).out,
              HasSubstr("complete -c trib -n '__fish_seen_subcommand_from job' -a submit"));
}

TEST(Completion, NamesTheShellsItKnows) {
  const ProgramResult result = run_trib({"completion", "tcsh"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, AllOf(HasSubstr("tcsh"), HasSubstr("bash"), HasSubstr("zsh"), HasSubstr("fish")));
}

TEST(Help, OfTheProgramTeachesFirstStepsAndExitCodes) {
  const ProgramResult result = run_trib({"--help"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.out, AllOf(HasSubstr("trib demo"), HasSubstr("trib simulate"), HasSubstr("Exit codes: 0 done")));
  EXPECT_EQ(result.err, "");
}

TEST(Help, OfEverySubcommandExitsWithZeroAndSaysWhatItDoes) {
  for (const char* path :
       {"demo",          "init",         "invite",         "revoke",        "sites",          "operator",
        "operator join", "job",          "job submit",     "job list",      "job show",       "job watch",
        "job cancel",    "simulate",     "privacy",        "privacy plan",  "privacy report", "privacy verify",
        "model",         "model export", "model evaluate", "model predict", "status",         "privacy statement",
        "doctor",        "completion"}) {
    auto arguments = words_of(path);
    arguments.push_back("--help");
    const ProgramResult result = run_trib(arguments);
    EXPECT_EQ(result.exit_code, 0) << path;
    EXPECT_THAT(result.out, HasSubstr(std::string("Usage: trib ") + path)) << path;
    EXPECT_FALSE(result.out.starts_with("Usage")) << path << ": the first line says what it does";
  }
}

TEST(Usage, AnUnknownCommandIsNamed) {
  const ProgramResult result = run_trib({"jobs"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, AllOf(HasSubstr("jobs"), HasSubstr("simulate")));
  const ProgramResult nested = run_trib({"job", "start", "x.toml"});
  EXPECT_EQ(nested.exit_code, 2);
  EXPECT_THAT(nested.err, AllOf(HasSubstr("start"), HasSubstr("submit")));
}

TEST(Usage, AMissingCommandListsThoseThereAre) {
  const ProgramResult result = run_trib({"privacy"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, AllOf(HasSubstr("plan"), HasSubstr("report")));
}

TEST(Usage, AnUnknownOptionIsNamed) {
  const ProgramResult result = run_trib({"simulate", "job.toml", "--sites", "3"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("--sites"));
}

TEST(Usage, VersionIsOneLine) {
  const ProgramResult result = run_trib({"--version"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.out, testing::MatchesRegex("[0-9]+\\.[0-9]+\\.[0-9]+\n"));
}

}  // namespace
}  // namespace trib::cli
