#include "common/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/files.h"
#include "tests/common/temporary_directory.h"

namespace trib {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

constexpr std::string_view job = R"([job]
name = "imdb"
rounds = 20
deadline = "5m"

[privacy]
epsilon = 8
delta = 1e-5
enabled = true

[model]
modules = ["query", "value"]
)";

ConfigReader reader(std::string_view text, const std::vector<std::string>& overrides = {}) {
  return ConfigReader::from_text(text, "job.toml", overrides).value();
}

constexpr ConfigReader::NumberRange epsilon_range{.minimum = 0, .maximum = 64, .exclude_minimum = true};

// Reads all of `job`'s keys, so that only what a test adds is unknown.
Status read_job(ConfigReader config) {
  config.text("job.name");
  config.integer("job.rounds", {.minimum = 1, .maximum = 1000});
  config.duration_ms("job.deadline", {.minimum = 1000});
  config.number("privacy.epsilon", epsilon_range);
  config.number("privacy.delta", {.minimum = 0});
  config.boolean("privacy.enabled");
  config.texts("model.modules");
  return config.finish();
}

std::string problem_of(std::string_view text, const std::vector<std::string>& overrides = {}) {
  const Status status = read_job(reader(text, overrides));
  return status ? "no error" : status.error().message;
}

// `job` with its line that starts with `key` replaced.
std::string job_with(std::string_view key, std::string_view line) {
  std::string text(job);
  const std::size_t begin = text.find(std::string("\n") + std::string(key) + " =") + 1;
  return text.replace(begin, text.find('\n', begin) - begin, line);
}

TEST(Config, ReadsEveryType) {
  ConfigReader config = reader(job);
  EXPECT_EQ(config.text("job.name"), "imdb");
  EXPECT_EQ(config.integer("job.rounds", {}), 20);
  EXPECT_EQ(config.duration_ms("job.deadline", {}), 300'000);
  EXPECT_EQ(config.number("privacy.epsilon", {}), 8.0);
  EXPECT_EQ(config.number("privacy.delta", {}), 1e-5);
  EXPECT_TRUE(config.boolean("privacy.enabled"));
  EXPECT_THAT(config.texts("model.modules"), ElementsAre("query", "value"));
  EXPECT_TRUE(config.finish().ok());
}

TEST(Config, GivesTheDefaultOfAnAbsentKey) {
  ConfigReader config = reader("");
  EXPECT_EQ(config.text("a.text", "x"), "x");
  EXPECT_EQ(config.integer("a.integer", {}, 3), 3);
  EXPECT_EQ(config.duration_ms("a.duration", {}, 500), 500);
  EXPECT_EQ(config.number("a.number", {}, 0.5), 0.5);
  EXPECT_FALSE(config.boolean("a.boolean", false));
  EXPECT_THAT(config.texts("a.texts", std::vector<std::string>{"y"}), ElementsAre("y"));
  EXPECT_THAT(config.integers("a.integers", {}, std::vector<std::int64_t>{4}), ElementsAre(4));
  EXPECT_FALSE(config.has("a.text"));
  EXPECT_TRUE(config.finish().ok());
}

TEST(Config, NamesFileLineKeyValueAndRange) {
  EXPECT_EQ(problem_of(job_with("epsilon", "epsilon = 90")),
            "job.toml:7: privacy.epsilon = 90: must be a number above 0 and at most 64");
  EXPECT_EQ(problem_of(job_with("epsilon", "epsilon = 0.0")),
            "job.toml:7: privacy.epsilon = 0.0: must be a number above 0 and at most 64");
  EXPECT_EQ(problem_of(job_with("rounds", "rounds = 0")),
            "job.toml:3: job.rounds = 0: must be a whole number at least 1 and at most 1000");
  EXPECT_EQ(problem_of(job_with("delta", "delta = -1")), "job.toml:8: privacy.delta = -1: must be a number at least 0");
}

TEST(Config, RefusesValuesOfTheWrongType) {
  EXPECT_EQ(problem_of(job_with("rounds", "rounds = 2.5")),
            "job.toml:3: job.rounds = 2.5: must be a whole number at least 1 and at most 1000");
  EXPECT_EQ(problem_of(job_with("name", "name = 3")), "job.toml:2: job.name = 3: must be text in quotes");
  EXPECT_EQ(problem_of(job_with("enabled", "enabled = 1")), "job.toml:9: privacy.enabled = 1: must be true or false");
  EXPECT_THAT(problem_of(job_with("epsilon", "epsilon = \"8\"")), HasSubstr("must be a number"));
  EXPECT_THAT(problem_of(job_with("epsilon", "epsilon = inf")), HasSubstr("must be a number above 0"));
  EXPECT_THAT(problem_of(job_with("delta", "delta = nan")), HasSubstr("must be a number at least 0"));
  EXPECT_THAT(problem_of(job_with("modules", "modules = [\"query\", 1]")), HasSubstr("must be a list of texts"));
  EXPECT_THAT(problem_of(job_with("modules", "modules = \"query\"")), HasSubstr("must be a list of texts"));
}

TEST(Config, ReadsListsOfWholeNumbers) {
  ConfigReader config = reader("[a]\nphases = [1, 2, 5]\nwrong = [1, 9]\n");
  EXPECT_THAT(config.integers("a.phases", {.minimum = 1, .maximum = 5}), ElementsAre(1, 2, 5));
  EXPECT_TRUE(config.integers("a.wrong", {.minimum = 1, .maximum = 5}).empty());
  EXPECT_THAT(config.finish().error().message,
              HasSubstr("must be a list of whole numbers at least 1 and at most 5, such as [1, 2]"));
}

TEST(Config, ReadsEveryUnitOfDuration) {
  const std::pair<const char*, std::int64_t> durations[] = {{"250ms", 250},    {"30s", 30'000},        {"5m", 300'000},
                                                            {"2h", 7'200'000}, {"30d", 2'592'000'000}, {"0s", 0}};
  for (const auto& [text, milliseconds] : durations) {
    ConfigReader config = reader(std::string("wait = \"") + text + "\"");
    EXPECT_EQ(config.duration_ms("wait", {}), milliseconds);
    EXPECT_TRUE(config.finish().ok());
  }
}

TEST(Config, RefusesWhatIsNoDuration) {
  for (const char* bad : {"\"5\"", "\"m\"", "\"5 m\"", "\"-5m\"", "\"5min\"", "\"1.5h\"", "\"\"", "300",
                          "\"9223372036854775807d\"", "\"99999999999999999999s\""}) {
    EXPECT_THAT(problem_of(job_with("deadline", std::string("deadline = ") + bad)),
                HasSubstr("must be a duration at least 1s, such as \"250ms\", \"30s\""))
        << bad;
  }
  EXPECT_THAT(problem_of(job_with("deadline", "deadline = \"999ms\"")), HasSubstr("must be a duration at least 1s"));
}

TEST(Config, NamesTheAcceptedChoices) {
  constexpr std::string_view tasks[] = {"fedsvd", "ffa-lora"};
  ConfigReader good = reader("task = \"ffa-lora\"");
  EXPECT_EQ(good.choice("task", tasks), "ffa-lora");
  EXPECT_TRUE(good.finish().ok());
  ConfigReader bad = reader("task = \"fedswd\"");
  EXPECT_EQ(bad.choice("task", tasks, "ffa-lora"), "ffa-lora");
  EXPECT_EQ(bad.finish().error().message, "job.toml:1: task = 'fedswd': must be one of \"fedsvd\", \"ffa-lora\"");
}

TEST(Config, NamesTheKeyThatIsMissing) {
  EXPECT_EQ(problem_of(job_with("epsilon", "")),
            "job.toml: privacy.epsilon is missing: it must be a number above 0 and at most 64");
}

TEST(Config, NamesTheNearestKeyOfAnUnknownOne) {
  EXPECT_EQ(problem_of(job_with("epsilon", "epsilon = 8\nepsilom = 4")),
            "job.toml:8: privacy.epsilom = 4: unknown key; did you mean privacy.epsilon? "
            "Accepted in [privacy]: delta, enabled, epsilon");
  EXPECT_EQ(
      problem_of(job_with("epsilon", "epsilon = 8\ncompletely_different = 4")),
      "job.toml:8: privacy.completely_different = 4: unknown key. Accepted in [privacy]: delta, enabled, epsilon");
}

TEST(Config, PrefersTheMisspellingToTheMissingKey) {
  EXPECT_THAT(problem_of(job_with("epsilon", "epsilom = 4")),
              StartsWith("job.toml:7: privacy.epsilom = 4: unknown key; did you mean privacy.epsilon?"));
}

TEST(Config, NamesAnUnknownTable) {
  EXPECT_EQ(problem_of(std::string(job) + "[privcy]\nepsilon = 4\n"),
            "job.toml:13: [privcy]: unknown key; did you mean privacy? Accepted at the top: job, model, privacy");
}

TEST(Config, ReportsTheFirstUnknownKeyByLine) {
  EXPECT_THAT(problem_of("zzz = 1\naaa = 2\n" + std::string(job)), StartsWith("job.toml:1: zzz = 1: unknown key"));
}

TEST(Config, ReportsTheFirstOfSeveralErrors) {
  std::string text = job_with("rounds", "rounds = 0");
  text.replace(text.find("epsilon = 8"), 11, "epsilon = 0");
  EXPECT_THAT(problem_of(text), HasSubstr("job.rounds"));
}

TEST(Config, RefusesAValueWhereATableBelongs) {
  ConfigReader config = reader("privacy = 3\n");
  config.number("privacy.epsilon", {}, 8.0);
  EXPECT_EQ(config.finish().error().message,
            "job.toml:1: privacy = 3: must be a table, since privacy.epsilon is read from it");
}

TEST(Config, CountsAKeyAskedForAsKnownWhetherOrNotItIsThere) {
  ConfigReader config = reader("[a]\nx = 1\n");
  EXPECT_FALSE(config.has("a.y"));
  EXPECT_TRUE(config.has("a"));
  EXPECT_THAT(config.finish().error().message, HasSubstr("Accepted in [a]: y"));
}

TEST(Config, ListsSubTablesAndChecksInsideThem) {
  constexpr std::string_view text = "[dataset.default]\npath = \"a\"\n[dataset.other]\npath = \"b\"\nextra = 1\n";
  ConfigReader config = reader(text);
  EXPECT_THAT(config.tables("dataset"), ElementsAre("default", "other"));
  EXPECT_THAT(config.tables("absent"), ElementsAre());
  EXPECT_EQ(config.text("dataset.default.path"), "a");
  EXPECT_EQ(config.text("dataset.other.path"), "b");
  EXPECT_THAT(config.finish().error().message, StartsWith("job.toml:5: dataset.other.extra = 1: unknown key"));
}

TEST(Config, RefusesSubTablesWhoseNamesHoldADot) {
  ConfigReader config = reader("[dataset.\"a.b\"]\n");
  EXPECT_THAT(config.tables("dataset"), ElementsAre());
  EXPECT_THAT(config.finish().error().message, HasSubstr("the name \"a.b\" holds a dot"));
}

TEST(Config, NamesTheLineThatIsNotToml) {
  const auto result = ConfigReader::from_text("[job]\nrounds = = 3\n", "job.toml");
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, Errc::invalid_argument);
  EXPECT_THAT(result.error().message, StartsWith("job.toml:2: "));
}

TEST(Config, TakesOverridesAsTomlElseAsText) {
  ConfigReader config = reader(job, {"job.rounds=7", "job.name=a plain = name", "privacy.epsilon=0.5",
                                     "model.modules=[\"key\"]", "new.table.flag=true", "job.deadline=\"2h\""});
  EXPECT_EQ(config.integer("job.rounds", {}), 7);
  EXPECT_EQ(config.text("job.name"), "a plain = name");
  EXPECT_EQ(config.number("privacy.epsilon", {}), 0.5);
  EXPECT_THAT(config.texts("model.modules"), ElementsAre("key"));
  EXPECT_TRUE(config.boolean("new.table.flag"));
  EXPECT_EQ(config.duration_ms("job.deadline", {}), 7'200'000);
}

TEST(Config, LetsNoOverrideAddLinesOfItsOwn) {
  ConfigReader config = reader(job, {"job.name=1\nsmuggled = 2"});
  EXPECT_EQ(config.text("job.name"), "1\nsmuggled = 2");
  EXPECT_FALSE(config.has("job.smuggled"));
}

TEST(Config, ReportsABadOverrideAsItWasWritten) {
  EXPECT_EQ(problem_of(job, {"privacy.epsilon=90"}),
            "--set privacy.epsilon=90: must be a number above 0 and at most 64");
  EXPECT_EQ(problem_of(job, {"privacy.epsilom=4"}),
            "--set privacy.epsilom=4: unknown key; did you mean privacy.epsilon? "
            "Accepted in [privacy]: delta, enabled, epsilon");
  EXPECT_THAT(problem_of(job, {"privcy.epsilon=4"}), StartsWith("--set privcy.epsilon=4: unknown key"));
  EXPECT_THAT(problem_of(job, {"privacy={epsilon=90, delta=0, enabled=true}"}),
              StartsWith("--set privacy={epsilon=90, delta=0, enabled=true}: must be a number above 0"));
}

TEST(Config, RefusesOverridesThatHaveNoPlace) {
  const auto problem = [](const std::string& entry) {
    return ConfigReader::from_text(job, "job.toml", {entry}).error().message;
  };
  EXPECT_EQ(problem("job.rounds"), "--set job.rounds: must be section.key=value");
  EXPECT_EQ(problem("=3"), "--set =3: must be section.key=value");
  EXPECT_EQ(problem("job..x=3"), "--set job..x=3: the key has an empty part; write section.key=value");
  EXPECT_EQ(problem("job.rounds.x=3"), "--set job.rounds.x=3: rounds is 20, not a table");
}

TEST(Config, ReportsChecksOfTheCallerInItsOwnTerms) {
  ConfigReader config = reader(job);
  EXPECT_EQ(config.error_at("job.rounds", "must divide 7").message, "job.toml:3: job.rounds = 20: must divide 7");
  EXPECT_EQ(config.error_at("job.absent", "is needed").message, "job.toml: job.absent: is needed");
  config.fail("job.rounds", "must divide 7");
  config.fail("job.name", "comes second");
  EXPECT_EQ(config.finish().error().message, "job.toml:3: job.rounds = 20: must divide 7");
}

TEST(Config, ShortensLongValuesInMessages) {
  const std::string message = problem_of(job_with("rounds", "rounds = \"" + std::string(1000, 'x') + "\""));
  EXPECT_LT(message.size(), 200u);
}

TEST(Config, WritesATomlThatReadsTheSame) {
  ConfigReader original = reader(job, {"privacy.delta=0.1", "job.name=say \"hi\"\\"});
  ConfigReader copy = reader(original.to_toml());
  EXPECT_EQ(copy.text("job.name"), "say \"hi\"\\");
  EXPECT_EQ(copy.number("privacy.delta", {}), 0.1);
  EXPECT_EQ(copy.number("privacy.epsilon", {}), 8.0);
  EXPECT_EQ(copy.to_toml(), original.to_toml());
}

TEST(Config, ReadsAFileAndNamesOneThatIsNotThere) {
  const test::TemporaryDirectory directory;
  write_file_durably(directory / "job.toml", job).value();
  EXPECT_TRUE(read_job(ConfigReader::from_file(directory / "job.toml").value()).ok());
  const auto missing = ConfigReader::from_file(directory / "missing.toml");
  EXPECT_EQ(missing.error().code, Errc::not_found);
  EXPECT_THAT(missing.error().message, HasSubstr("missing.toml"));
}

}  // namespace
}  // namespace trib
