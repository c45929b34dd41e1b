// `trib privacy audit` on a small job: with privacy, and with the same job's privacy taken away.
#include <gmock/gmock.h>

#include "tests/cli/trib_process.h"

namespace trib::cli {
namespace {

namespace json = boost::json;
using testing::AllOf;
using testing::HasSubstr;

class PrivacyAudit : public testing::Test {
 protected:
  void SetUp() override {
    // Every 25th sentence, so that all labels are there: one site that takes all its records in every step.
    std::istringstream table(text_of_file(source_directory / "datasets/clinc150/valid.tsv"));
    std::string line, thinned;
    for (int row = 0; std::getline(table, line); ++row)
      if (row % 25 == 0) thinned += line + "\n";
    write_text(directory_ / "train.tsv", thinned);
    write_text(directory_ / "job.toml", R"([job]
name = "attacked"
task = "lora_text"
rounds = 6
evaluate_every = 6

[privacy]
epsilon = 8.0
delta = 1e-5

[model]
base = "roberta-mini-imdb"
labels = ["banking", "credit_cards", "kitchen_and_dining", "home", "auto_and_commute", "travel", "utility", "work",
          "small_talk", "meta"]
max_tokens = 32

[training]
batch_size = 1000
local_steps = 1
learning_rate = 1.0

[simulate]
train = "train.tsv"
sites = 1
)");
  }
  ProgramResult audit(std::vector<std::string> more) {
    more.insert(more.begin(), {"privacy", "audit", "job.toml", "--models", (source_directory / "base").string()});
    return run_trib(more, directory_.path());
  }
  test::TemporaryDirectory directory_;
};

double number(const json::object& document, const char* key) {
  return document.at(key).to_number<double>();
}

// The two halves of what an audit is for: an attack that works where nothing protects, and that does not refute the
// accountant where it should not. The seed is any; the bounds asked are far from what a run gives (about 1.2 and 2.8).
TEST_F(PrivacyAudit, FindsWhoTrainedWithoutPrivacyAndStaysBelowTheReportedEpsilonWithIt) {
  const ProgramResult with = audit({"--seed", "2", "--canaries", "100", "--json"});
  ASSERT_EQ(with.exit_code, 0) << with.err;
  const json::object hidden = one_json_object(with.out);
  EXPECT_TRUE(hidden.at("private").as_bool());
  EXPECT_TRUE(hidden.at("noise_seeded").as_bool());
  EXPECT_FALSE(hidden.at("refuted").as_bool());
  EXPECT_EQ(number(hidden, "declared_records"), 120 + 50) << "the expected size, whatever the coins said";
  EXPECT_EQ(number(hidden, "rounds"), 6);
  EXPECT_NEAR(number(hidden, "epsilon_reported"), 8.0, 0.1);
  EXPECT_LT(number(hidden, "epsilon_lower_bound"), number(hidden, "epsilon_reported"));
  EXPECT_GT(number(hidden, "epsilon_lower_bound"), 0.1) << "an attack that sees nothing says nothing";
  EXPECT_NEAR(number(hidden, "epsilon_attainable"), 2.78, 0.01) << "50 right of 50, at 95 %";
  const json::object& attempt = hidden.at("attempts").as_array().at(0).as_object();
  EXPECT_EQ(number(attempt, "guesses"), 50);
  EXPECT_LE(number(attempt, "correct"), 50);

  const ProgramResult without = audit({"--seed", "2", "--canaries", "100", "--json", "--set", "privacy.enabled=false"});
  ASSERT_EQ(without.exit_code, 0) << without.err;
  const json::object open = one_json_object(without.out);
  EXPECT_FALSE(open.at("private").as_bool());
  EXPECT_TRUE(open.at("epsilon_reported").is_null());
  EXPECT_EQ(open.at("included"), hidden.at("included")) << "the same coins";
  EXPECT_GT(number(open, "epsilon_lower_bound"), 2.0);
}

TEST_F(PrivacyAudit, SaysWhatItDidToPeople) {
  const ProgramResult result = audit({"--seed", "2", "--canaries", "20", "--guesses", "4,10", "--set", "job.rounds=1"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("of 20 were among its records"), HasSubstr("of 4 right"),
                                HasSubstr("of 10 right"), HasSubstr("epsilon, at least"), HasSubstr("could have shown"),
                                HasSubstr("confidence 95.0"), HasSubstr("epsilon, reported")));
}

TEST_F(PrivacyAudit, RefusesWhatCannotBeBeforeItStarts) {
  const ProgramResult guesses = audit({"--canaries", "10", "--guesses", "11"});
  EXPECT_EQ(guesses.exit_code, 2);
  EXPECT_THAT(guesses.err, AllOf(HasSubstr("11 guesses"), HasSubstr("1 to 10")));
  const ProgramResult site = audit({"--canaries", "10", "--site", "2"});
  EXPECT_EQ(site.exit_code, 2);
  EXPECT_THAT(site.err, AllOf(HasSubstr("site 2"), HasSubstr("with 1 sites")));
}

}  // namespace
}  // namespace trib::cli
