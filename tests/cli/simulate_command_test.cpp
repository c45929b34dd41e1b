// A simulation of two sites, and the adapter that it exports used by `trib model`.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <optional>

#include "tests/cli/trib_process.h"

namespace trib::cli {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using testing::AllOf;
using testing::HasSubstr;

constexpr int evaluated_rows = 20;

std::vector<std::string> split(const std::string& line, char separator) {
  std::vector<std::string> cells;
  std::istringstream stream(line);
  for (std::string cell; std::getline(stream, cell, separator);) cells.push_back(cell);
  return cells;
}

struct PredictionFile {
  std::vector<std::string> labels;  // from the header's logit_ columns
  std::vector<std::string> predicted;
  std::vector<std::vector<double>> logits;
};

PredictionFile read_predictions(const fs::path& path) {
  const auto lines = split(text_of_file(path), '\n');
  PredictionFile file;
  const auto header = split(lines.at(0), '\t');
  EXPECT_EQ(header.at(0), "label");
  for (std::size_t i = 1; i < header.size(); ++i) {
    EXPECT_TRUE(header[i].starts_with("logit_")) << header[i];
    file.labels.push_back(header[i].substr(6));
  }
  for (std::size_t row = 1; row < lines.size(); ++row) {
    const auto cells = split(lines[row], '\t');
    file.predicted.push_back(cells.at(0));
    auto& logits = file.logits.emplace_back();
    for (std::size_t i = 1; i < cells.size(); ++i) {
      std::size_t parsed = 0;
      logits.push_back(std::stod(cells[i], &parsed));
      EXPECT_EQ(parsed, cells[i].size()) << cells[i];
    }
  }
  return file;
}

// Runs the simulation once for all tests: two sites, one round of one step, with the model exported and the sites'
// directories kept. Its evaluation set is 20 rows that the tests evaluate again from the exported adapter.
class Simulation : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_.emplace();
    const auto rows = split(text_of_file(source_directory / "datasets/clinc150/test.tsv"), '\n');
    std::string evaluation = rows.at(0) + "\n";
    for (int i = 0; i < evaluated_rows; ++i) evaluation += rows.at(static_cast<std::size_t>(1 + 200 * i)) + "\n";
    write_text(path("evaluation.tsv"), evaluation);
    std::string job = small_job();
    const std::string whole = (source_directory / "datasets/clinc150/test.tsv").string();
    job.replace(job.find(whole), whole.size(), "evaluation.tsv");
    write_text(path("job.toml"), job);
    result_ = run_trib({"simulate", "job.toml", "--models", (source_directory / "base").string(), "--work-dir", "work",
                        "--export", "adapter", "--json"},
                       directory_->path());
  }
  static void TearDownTestSuite() { directory_.reset(); }

  static fs::path path(const std::string& name) { return *directory_ / name; }
  static ProgramResult model(const std::string& command, std::vector<std::string> more) {
    more.insert(more.begin(), {"model", command, "--base", base_model, "--data"});
    return run_trib(more, directory_->path());
  }
  static ProgramResult simulate(std::vector<std::string> more) {
    more.insert(more.begin(), {"simulate", "job.toml", "--models", (source_directory / "base").string()});
    return run_trib(more, directory_->path());
  }

  static std::optional<test::TemporaryDirectory> directory_;
  static ProgramResult result_;
};
std::optional<test::TemporaryDirectory> Simulation::directory_;
ProgramResult Simulation::result_;

TEST_F(Simulation, PrintsOneJsonObjectWithWhatARunIsJudgedBy) {
  ASSERT_EQ(result_.exit_code, 0) << result_.err;
  const json::object document = one_json_object(result_.out);
  EXPECT_EQ(document.at("state").as_string(), "finished");
  EXPECT_TRUE(document.at("simulated").as_bool());
  EXPECT_EQ(document.at("privacy").as_string(), "private");
  const json::object& metrics = document.at("result").as_object();
  for (const char* metric : {"accuracy", "accuracy_average", "loss", "accuracy_mean_last_10", "accuracy_std_last_10"})
    EXPECT_TRUE(metrics.contains(metric)) << metric;
  EXPECT_GT(metrics.at("loss").to_number<double>(), 0.0);
  EXPECT_GT(document.at("seconds").to_number<double>(), 0.0);
  EXPECT_GT(document.at("peak_memory_bytes").to_number<double>(), 14e6) << "the base model alone is 14 MB";
}

TEST_F(Simulation, ReportsEpsilonAndBytesOfEveryClient) {
  const json::object document = one_json_object(result_.out);
  const json::array& clients = document.at("clients").as_array();
  ASSERT_EQ(clients.size(), 2u);
  std::int64_t records = 0;
  double bytes_up = 0;
  for (const json::value& client : clients) {
    EXPECT_GT(client.at("epsilon_spent").to_number<double>(), 5.5);
    EXPECT_LE(client.at("epsilon_spent").to_number<double>(), 6.0);
    EXPECT_EQ(client.at("epsilon_budget").to_number<double>(), 6.0);
    // B of 12 layers, 256 by 8, and the head, 10 by 256 and 10, in fp32.
    EXPECT_EQ(client.at("bytes_up").to_number<double>(), 4.0 * (12 * 256 * 8 + 10 * 256 + 10));
    EXPECT_GT(client.at("bytes_down").to_number<double>(), client.at("bytes_up").to_number<double>());
    records += client.at("declared_records").to_number<std::int64_t>();
    bytes_up += client.at("bytes_up").to_number<double>();
  }
  EXPECT_EQ(records, 3000) << "every row of valid.tsv is dealt out once";
  EXPECT_EQ(document.at("bytes_up").to_number<double>(), bytes_up);
}

TEST_F(Simulation, KeepsLedgersThatSayWhatTheReportSays) {
  const json::array clients = one_json_object(result_.out).at("clients").as_array();
  for (const json::value& client : clients) {
    const std::string site(client.at("name").as_string());
    const ProgramResult ledger = run_trib({"privacy", "report", "work/sites/" + site, "--json"}, directory_->path());
    ASSERT_EQ(ledger.exit_code, 0) << ledger.err;
    const json::object document = one_json_object(ledger.out);
    EXPECT_EQ(document.at("entries").to_number<int>(), 1);
    EXPECT_NEAR(document.at("data_sets").at(0).at("epsilon_rdp").to_number<double>(),
                client.at("epsilon_spent").to_number<double>(), 1e-9);
  }
}

TEST_F(Simulation, SpeaksToPeopleOnStandardErrorOnly) {
  EXPECT_EQ(result_.err, "round 1/1\n");
}

TEST_F(Simulation, ExportsAnAdapterThatEvaluatesAsTheReportSaid) {
  const json::object metrics = one_json_object(result_.out).at("result").as_object();
  const ProgramResult result = model("evaluate", {"evaluation.tsv", "--adapter", "adapter", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json::object evaluated = one_json_object(result.out);
  EXPECT_EQ(evaluated.at("rows").to_number<int>(), evaluated_rows);
  EXPECT_EQ(evaluated.at("accuracy").to_number<double>(), metrics.at("accuracy_average").to_number<double>());
  EXPECT_NEAR(evaluated.at("loss").to_number<double>(), metrics.at("loss_average").to_number<double>(), 1e-5);
}

TEST_F(Simulation, PredictsALabelAndLogitsForEveryRow) {
  const ProgramResult result =
      model("predict", {"evaluation.tsv", "--adapter", "adapter", "--out", "labels.tsv", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(one_json_object(result.out).at("rows").to_number<int>(), evaluated_rows);
  const PredictionFile predictions = read_predictions(path("labels.tsv"));
  ASSERT_EQ(predictions.labels.size(), 10u);
  EXPECT_EQ(predictions.labels.front(), "banking");
  ASSERT_EQ(predictions.predicted.size(), static_cast<std::size_t>(evaluated_rows));
  for (std::size_t row = 0; row < predictions.predicted.size(); ++row) {
    const auto& logits = predictions.logits[row];
    ASSERT_EQ(logits.size(), 10u);
    const auto best = static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    EXPECT_EQ(predictions.predicted[row], predictions.labels[best]) << row;
  }
}

TEST_F(Simulation, EvaluateIsTheCrossEntropyOfThePredictedLogits) {
  ASSERT_EQ(model("predict", {"evaluation.tsv", "--adapter", "adapter", "--out", "logits.tsv"}).exit_code, 0);
  const PredictionFile predictions = read_predictions(path("logits.tsv"));
  const auto rows = split(text_of_file(path("evaluation.tsv")), '\n');
  double loss = 0.0;
  int right = 0;
  for (std::size_t row = 0; row < predictions.logits.size(); ++row) {
    const std::string truth = split(rows.at(row + 1), '\t').at(1);
    const auto label = static_cast<std::size_t>(std::find(predictions.labels.begin(), predictions.labels.end(), truth) -
                                                predictions.labels.begin());
    double sum = 0.0;
    for (const double logit : predictions.logits[row]) sum += std::exp(logit);
    loss += std::log(sum) - predictions.logits[row].at(label);
    right += predictions.predicted[row] == truth;
  }
  const json::object evaluated =
      one_json_object(model("evaluate", {"evaluation.tsv", "--adapter", "adapter", "--json"}).out);
  EXPECT_NEAR(evaluated.at("loss").to_number<double>(), loss / evaluated_rows, 1e-5);
  EXPECT_DOUBLE_EQ(evaluated.at("accuracy").to_number<double>(), static_cast<double>(right) / evaluated_rows);
}

TEST_F(Simulation, ReadingTheAdapterBackGivesTheSameLogitsEveryTime) {
  for (const char* out : {"first.tsv", "second.tsv"})
    ASSERT_EQ(model("predict", {"evaluation.tsv", "--adapter", "adapter", "--out", out}).exit_code, 0);
  EXPECT_EQ(text_of_file(path("first.tsv")), text_of_file(path("second.tsv")));
  ASSERT_EQ(model("predict", {"evaluation.tsv", "--out", "base.tsv"}).exit_code, 0);
  EXPECT_NE(text_of_file(path("first.tsv")), text_of_file(path("base.tsv"))) << "the adapter makes a difference";
}

TEST_F(Simulation, ModelCommandsNameFileLineAndValueOfABadRow) {
  write_text(path("no_label.tsv"), "text\tkind\nhello\tbanking\n");
  write_text(path("bad_label.tsv"), "text\tlabel\nhello\tbanking\nhello\tweather\n");
  write_text(path("latin1.tsv"), "text\tlabel\ncaf\xe9\tbanking\n");
  const ProgramResult no_label = model("evaluate", {"no_label.tsv", "--adapter", "adapter"});
  EXPECT_EQ(no_label.exit_code, 2);
  EXPECT_THAT(no_label.err, AllOf(HasSubstr("no_label.tsv:1"), HasSubstr("\"label\""), HasSubstr("\"kind\"")));
  const ProgramResult bad_label = model("evaluate", {"bad_label.tsv", "--adapter", "adapter"});
  EXPECT_EQ(bad_label.exit_code, 2);
  EXPECT_THAT(bad_label.err, AllOf(HasSubstr("bad_label.tsv:3"), HasSubstr("weather"), HasSubstr("\"banking\"")));
  const ProgramResult latin1 = model("predict", {"latin1.tsv", "--adapter", "adapter", "--out", "never.tsv"});
  EXPECT_EQ(latin1.exit_code, 2);
  EXPECT_THAT(latin1.err, AllOf(HasSubstr("latin1.tsv:2"), HasSubstr("0xE9")));
  EXPECT_FALSE(fs::exists(path("never.tsv")));
}

TEST_F(Simulation, RefusesAWorkDirectoryThatIsInUse) {
  const ProgramResult result = simulate({"--work-dir", "work"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("work is not an empty directory"));
}

TEST_F(Simulation, NamesTheBaseModelThatWasNotFound) {
  const ProgramResult result = simulate({"--set", "model.base=absent-model"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, AllOf(HasSubstr("absent-model"), HasSubstr("config.json")));
}

TEST_F(Simulation, FailsAndSaysWhyWhenNoSiteCanAffordTheJob) {
  const ProgramResult result = simulate({"--site-epsilon", "0.5", "--json"});
  EXPECT_EQ(result.exit_code, 1);
  const json::object document = one_json_object(result.out);
  EXPECT_EQ(document.at("state").as_string(), "failed");
  EXPECT_THAT(std::string(document.at("reason").as_string()), HasSubstr("cap is 0.5"));
  EXPECT_EQ(document.at("bytes_up").to_number<double>(), 0.0);
}

TEST_F(Simulation, WithASeedIsRepeatableAndSaysThatItIsNotPrivate) {
  const ProgramResult first = simulate({"--seed", "3", "--json"}), second = simulate({"--seed", "3", "--json"});
  ASSERT_EQ(first.exit_code, 0) << first.err;
  const json::object document = one_json_object(first.out);
  EXPECT_FALSE(document.at("private").as_bool());
  EXPECT_THAT(std::string(document.at("privacy").as_string()), HasSubstr("seeded"));
  EXPECT_EQ(document.at("result"), one_json_object(second.out).at("result"));
}

TEST_F(Simulation, IsInterruptedCleanly) {
  RunningProgram program({trib_program, "simulate", "job.toml", "--models", (source_directory / "base").string(),
                          "--json", "--set", "job.rounds=100000", "--set", "job.evaluate_every=100000"},
                         directory_->path());
  ASSERT_TRUE(program.says("round 2/", std::chrono::seconds(30)));
  program.interrupt();
  const ProgramResult result = program.wait();
  EXPECT_EQ(result.exit_code, 130);
  EXPECT_EQ(one_json_object(result.out).at("state").as_string(), "cancelled");
}

}  // namespace
}  // namespace trib::cli
